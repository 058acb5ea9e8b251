"""`hookline source`: which senders are understood, and trying a declaration out on a sample before anybody sends to it.

Law: nothing is stored, published or sent; what is printed of a sample is what would go on (ids, names, times), never its text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from console.endpoint_config import accepted, configuration
from console.endpoints import find
from console.installed_sources import installed
from console.runtime import ConsoleError, out, registry, run
from console.times import moment
from infra.accounts import Endpoint, Secret
from ingress.declared.presets import PRESETS
from ingress.fold import fold
from ingress.proxies import Proxies
from ingress.sources.source import Denied, Event, Ignored, InboundRequest, Source, Untranslatable
from ingress.verification import judge
from schemas.delivery import Delivery, Refusal

app = typer.Typer(help="Sources: which senders are understood; try a declaration out.", no_args_is_help=True)

MAX_SAMPLE_BYTES = 8_000_000


@app.command("list")
def list_() -> None:
    """The sources that are installed, and the presets that a declaration may start from."""
    table = Table("source", "what it is")
    for name, source in installed().items():
        table.add_row(name, (type(source).__doc__ or "").split("\n", maxsplit=1)[0])
    out.print(table)
    out.print(f"presets for `custom`: {', '.join(sorted(PRESETS))}")


@app.command("test")
def try_out(
    config: Annotated[Path | None, typer.Argument(help="The declaration: a YAML, TOML or JSON file.")] = None,
    endpoint: Annotated[str, typer.Option(help="Or a registered endpoint, with its configuration and secrets.")] = "",
    source: Annotated[str, typer.Option(help="What the file configures.")] = "custom",
    body: Annotated[str, typer.Option(help="File with a sample body; `-`: pasted, ended by Ctrl-D.")] = "-",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="`Name: value` as the sender sent it; may be repeated.")
    ] = None,
    secret: Annotated[
        str, typer.Option(envvar="HOOKLINE_TEST_SECRET", help="What the sample was signed with.", show_default=False)
    ] = "",
    at: Annotated[
        str, typer.Option("--at", help="When it came: 2026-11-23T14:05Z, or 90s, 2h, 3d ago; now if absent.")
    ] = "",
    url: Annotated[str, typer.Option(help="The whole address that it was sent to, for schemes that sign it.")] = "",
    method: Annotated[str, typer.Option(help="HTTP method.")] = "POST",
    sender: Annotated[str, typer.Option("--from", help="The sender's IP address, for endpoints with networks.")] = "",
) -> None:
    """Try a declaration on a sample: is it believed, which Changes would come of it, and why not. Ends with 1 where something is wrong."""
    if (config is None) == (not endpoint):
        raise ConsoleError("give either a file with a declaration, or --endpoint NAME")
    now = moment(at) or datetime.now(UTC)
    found = _registered(endpoint) if endpoint else _declared(source, config, secret, now)
    plugin = installed().get(found.source)
    if plugin is None:
        raise ConsoleError(f"source {found.source!r} is not installed here: there are {', '.join(installed())}")
    headers = _headers(header or ())
    content = _sample(body)
    fine = _verified(
        plugin, found, _request(found, content, headers, method, url, sender), now, tried=bool(secret or endpoint)
    )
    fine &= _translated(plugin, found, content, headers, now)
    if not fine:
        raise typer.Exit(1)


def _declared(source: str, config: Path | None, secret: str, now: datetime) -> Endpoint:
    plugin = installed().get(source)
    if plugin is None:
        raise ConsoleError(f"source {source!r} is not installed here: there are {', '.join(installed())}")
    given = accepted(plugin, configuration({}, config, None, None))
    secrets = (Secret(now, None, secret.encode()),) if secret else ()
    return Endpoint("sample-" + "0" * 24, "sample", source, "sample", given, enabled=True, secrets=secrets)


def _registered(name: str) -> Endpoint:
    async def command() -> Endpoint:
        async with registry() as (found, *_):
            return await find(found, name)

    return run(command)


def _headers(given: Sequence[str]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConsoleError(f"--header {name[:40]!r}: write it as `Name: value`")
        found[name.strip().lower().encode()] = value.strip().encode("utf-8")
    return found


def _sample(where: str) -> bytes:
    if where == "-":
        if sys.stdin.isatty():
            out.print("Paste the body, then Ctrl-D:")
        found = sys.stdin.buffer.read(MAX_SAMPLE_BYTES + 1)
        # A terminal ends the last line; the sender did not.
        found = found.removesuffix(b"\n") if os.isatty(sys.stdin.fileno()) else found
    else:
        try:
            with Path(where).open("rb") as file:
                found = file.read(MAX_SAMPLE_BYTES + 1)
        except OSError as error:
            raise ConsoleError(f"{where}: cannot be read ({error.strerror})") from None
    if not found or len(found) > MAX_SAMPLE_BYTES:
        raise ConsoleError(
            "the sample body is empty" if not found else f"the sample is larger than {MAX_SAMPLE_BYTES} bytes"
        )
    return found


def _request(
    found: Endpoint, body: bytes, headers: dict[bytes, bytes], method: str, url: str, sender: str
) -> InboundRequest:
    scheme, _, rest = (url or f"https://hooks.example.com/hooks/{found.id}").partition("://")
    host, slash, path = rest.partition("/")
    scope: dict[str, Any] = {
        "scheme": scheme,
        "headers": list(headers.items()),
        "client": (sender, 0) if sender else None,
    }
    public = f"{scheme}://{host}".encode()
    return InboundRequest(
        method.encode(), (slash + path).encode(), public, headers, body, Proxies().caller(scope, headers)
    )


def _verified(plugin: Source, found: Endpoint, request: InboundRequest, now: datetime, *, tried: bool) -> bool:
    if not tried and not plugin.id_is_secret:
        out.print("verification  not tried: give --secret (or HOOKLINE_TEST_SECRET) and the sample's headers")
        return True
    denied = judge(plugin, request, found, now)
    if denied is None:
        out.print("verification  [green]accepted[/]")
        return True
    out.print(f"verification  [red]{denied.refusal}[/]", end=" ")
    out.print(denied.detail or _why(denied), markup=False, soft_wrap=True)
    return False


def _why(denied: Denied) -> str:
    return {
        Refusal.SIGNATURE_MISSING: "a header that the scheme needs did not come: compare the names with --header",
        Refusal.VERIFICATION_FAILED: "the signature does not hold: another secret, another address (--url), a changed body "
        "(an editor's newline at its end?), or another form than declared",
        Refusal.STALE: "genuine, but too old by now: --at says when it came",
        Refusal.FROM_THE_FUTURE: "genuine, but signed later than --at",
    }.get(denied.refusal, "")


def _translated(plugin: Source, found: Endpoint, body: bytes, headers: dict[bytes, bytes], now: datetime) -> bool:
    delivery = Delivery(
        request_id="sample",
        tenant=found.tenant,
        endpoint=found.id,
        source=found.source,
        received_at=now,
        content_type=headers.get(b"content-type", b"").decode("latin-1"),
        body=body,
    )
    results = list(plugin.translate(delivery, found))
    events = [each for each in results if isinstance(each, Event)]
    table = Table("account", "object", "id", "kind", "occurred at", "fields", "lane")
    for change, bulk in fold(delivery, events):
        when = f"{change.occurred_at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
        fields = ", ".join(change.properties) or "-"
        table.add_row(change.account, change.object, change.id, change.kind, when, fields, "bulk" if bulk else "live")
    if events:
        out.print(f"{len(events)} event(s) would become these Changes:")
        out.print(table)
    for each in results:
        if isinstance(each, Ignored):
            out.print(f"dropped       {each.reason}: {_DROPPED[each.reason]}")
        elif isinstance(each, Untranslatable):
            place = "" if each.position is None else f"event {each.position}: "
            out.print(f"dead letter   {each.cause}: {place}{each.detail}", markup=False, soft_wrap=True)
    foreign = sorted({event.account for event in events} - found.accounts)
    if foreign:
        out.print(
            f"The endpoint must be allowed to speak for {', '.join(foreign)}: `hookline account add ... --endpoint NAME`"
        )
    if not events:
        out.print("No Change would come of it.")
    return bool(events) and not any(isinstance(each, Untranslatable) for each in results)


_DROPPED = {
    "own_property": "all its fields are our own",
    "unread_object": "an object or kind that the declaration ignores, or that no analysis reads",
    "not_wanted": "changes.when is false for it",
    "empty": "no events in it",
}
