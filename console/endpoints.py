"""`hookline endpoint`: the URLs that senders call, each with its secret and the accounts it may speak for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.dead_letters.filter import IS_OPEN
from console.dead_letters.index import Index
from console.endpoint_config import accepted, check_secret, configuration, duration
from console.installed_sources import installed
from console.runtime import ConsoleError, out, registry, run
from infra.accounts import Endpoint, Registry, weakness
from infra.database.tables import dead_letters, refusals
from infra.kafka.codec import Codec
from infra.settings import Settings
from ingress.translator import named
from schemas.dead_letter import REMEDIES, Cause

app = typer.Typer(help="Endpoints: the URLs that senders call.", no_args_is_help=True)


def url_of(settings: Settings, endpoint: Endpoint) -> str:
    """The address to give to the sender."""
    base = settings.public_url or f"http://{settings.ingress_host}:{settings.ingress_port}"
    return f"{base.rstrip('/')}/hooks/{endpoint.id}"


_CONFIG = typer.Option(
    "--config",
    help="A YAML, TOML or JSON file: conditions, rates, handshake; for `custom` the whole declaration (docs/senders.md).",
    show_default=False,
)
_NETWORK = typer.Option("--network", help="Where deliveries may come from, as 13.108.0.0/14; may be repeated.")
_CERTIFICATE = typer.Option(
    "--certificate-name", help="Common or DNS name that the sender's client certificate must have; may be repeated."
)
_SECRET = typer.Option(
    envvar="HOOKLINE_NEW_SECRET",
    help="What the sender signs with. HubSpot: the app's client secret, needed. Others: made if absent. "
    "Salesforce: not used, for its messages carry no signature.",
    show_default=False,
)


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(
            help="What the sender speaks: hubspot, salesforce, standard_webhooks, or custom (see --config)."
        ),
    ],
    tenant: Annotated[str, typer.Option(help="Whose it is.")],
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    app_id: Annotated[str, typer.Option(help="HubSpot: the app's id; its own echoes are told apart by it.")] = "",
    secret: Annotated[str, _SECRET] = "",
    config: Annotated[Path | None, _CONFIG] = None,
    network: Annotated[list[str] | None, _NETWORK] = None,
    certificate_name: Annotated[list[str] | None, _CERTIFICATE] = None,
) -> None:
    """Register an endpoint; prints its URL, and its secret if one was made."""
    sources = installed()
    if source == "hubspot" and not secret:
        raise ConsoleError(
            "a HubSpot endpoint needs the app's client secret, which signs every delivery: copy it from the app's Auth tab "
            "and pass it as HOOKLINE_NEW_SECRET (or --secret)"
        )
    if source == "custom" and config is None:
        raise ConsoleError(
            "a custom endpoint needs --config with a declaration of how the sender signs and what its bodies mean: "
            "see docs/senders.md, and try yours out with `hookline source test`"
        )
    given = configuration({}, config, network, certificate_name)
    if app_id:
        given["app_id"] = app_id
    if source in sources:
        given = accepted(sources[source], given)
    if secret:
        check_secret(source, secret, given)

    async def command() -> tuple[Endpoint, Settings]:
        async with registry() as (found, settings, *_):
            value = secret.encode() or (sources[source].new_secret() if source in sources else None)
            title = name or str(given.get("name") or source)
            made = await found.add_endpoint(
                tenant, source, name=title, config=given, secret=value, known_sources=sources
            )
            return made, settings

    endpoint, settings = run(command)
    out.print(
        f"endpoint [bold]{escape(endpoint.name)}[/] created.\n  URL     {url_of(settings, endpoint)}", soft_wrap=True
    )
    if not secret and source != "salesforce":
        out.print(f"  secret  {endpoint.secrets[0].value.decode()}   (shown once)", soft_wrap=True)
    if source == "salesforce":
        out.print("  The URL itself is the secret: paste it into the outbound message and nowhere else.")
    crm = source if source in {"hubspot", "salesforce"} else "CRM"
    out.print(
        f"Next: `hookline account add {crm} ID --tenant {tenant} --endpoint {endpoint.name}`",
        soft_wrap=True,
        markup=False,
    )


@app.command("configure")
def configure(
    name: Annotated[str, typer.Argument(help="Name, id, or the beginning of the id.")],
    config: Annotated[Path | None, _CONFIG] = None,
    network: Annotated[list[str] | None, _NETWORK] = None,
    certificate_name: Annotated[list[str] | None, _CERTIFICATE] = None,
) -> None:
    """Change what an endpoint asks of its sender. A file replaces the whole configuration, options what they name."""
    if config is None and not network and not certificate_name:
        raise ConsoleError("nothing to change: give --config, --network or --certificate-name")
    sources = installed()

    async def command() -> Endpoint:
        async with registry() as (found, *_):
            endpoint = await find(found, name)
            given = configuration(dict(endpoint.config), config, network, certificate_name)
            if endpoint.source in sources:
                given = accepted(sources[endpoint.source], given)
            return await found.configure_endpoint(endpoint.id, given)

    endpoint = run(command)
    out.print(f"endpoint {endpoint.name}: configured; in force everywhere within two seconds.", markup=False)


@app.command("rotate-secret")
def rotate_secret(
    name: Annotated[str, typer.Argument(metavar="ID", help="Name, id, or the beginning of the id.")],
    overlap: Annotated[str, typer.Option(help="How long the old secrets go on counting: 90s, 30m, 24h, 7d.")] = "24h",
    secret: Annotated[str, _SECRET] = "",
) -> None:
    """Give an endpoint a new secret; the old ones count until the overlap is over, so no delivery is refused meanwhile."""
    seconds = duration(overlap)
    sources = installed()

    async def command() -> Endpoint:
        async with registry() as (found, *_):
            endpoint = await find(found, name)
            if endpoint.source == "salesforce":
                raise ConsoleError(
                    "a Salesforce endpoint's secret is its address: add another endpoint for the same account, put its URL into "
                    "the outbound message, and then `hookline endpoint disable` this one"
                )
            if endpoint.source == "hubspot" and not secret:
                raise ConsoleError(
                    "HubSpot draws an app's client secret itself: rotate it in the app's Auth tab, and pass the new one as "
                    "HOOKLINE_NEW_SECRET (or --secret)"
                )
            if secret:
                check_secret(endpoint.source, secret, endpoint.config)
            value = secret.encode() or (sources[endpoint.source].new_secret() if endpoint.source in sources else None)
            return await found.rotate_secret(endpoint.id, value, overlap_seconds=seconds)

    endpoint = run(command)
    newest = max(endpoint.secrets, key=lambda each: each.valid_from)
    if not secret:
        out.print(f"new secret  {newest.value.decode()}   (shown once)", soft_wrap=True, markup=False)
    _print_secrets(endpoint, datetime.now(UTC))
    out.print("Give the sender the new secret before the old one ends.")


@app.command("enable")
def enable(name: Annotated[str, typer.Argument(help="Name, id, or the beginning of the id.")]) -> None:
    """Take deliveries again."""
    _switch(name, enabled=True)


@app.command("disable")
def disable(name: Annotated[str, typer.Argument(help="Name, id, or the beginning of the id.")]) -> None:
    """Refuse every delivery with ENDPOINT_DISABLED; senders that try again do so for about a day."""
    _switch(name, enabled=False)


def _switch(name: str, *, enabled: bool) -> None:
    async def command() -> Endpoint:
        async with registry() as (found, *_):
            endpoint = await find(found, name)
            await found.enable_endpoint(endpoint.id, enabled)
            return endpoint

    endpoint = run(command)
    out.print(f"endpoint {endpoint.name}: {'enabled' if enabled else 'disabled'} within two seconds.", markup=False)


@app.command("list")
def list_() -> None:
    """All endpoints; their ids are secrets for some senders, so only their beginnings are shown."""

    async def command() -> list[Endpoint]:
        async with registry() as (found, *_):
            return list(await found.endpoints())

    table = Table("name", "source", "tenant", "endpoint", "accounts", "enabled")
    for endpoint in run(command):
        table.add_row(
            endpoint.name,
            endpoint.source,
            endpoint.tenant,
            f"{endpoint.id[:6]}…",
            ", ".join(sorted(endpoint.accounts)) or "-",
            "yes" if endpoint.enabled else "no",
        )
    out.print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name, id, or the beginning of the id.")],
    reveal: Annotated[bool, typer.Option("--reveal", help="Print the whole URL.")] = False,
) -> None:
    """One endpoint, with the refusals of the last day, and what it took and nobody could read."""

    async def command() -> tuple[Endpoint, Settings, list[tuple[str, int, str]], int]:
        async with registry() as (found, settings, engine, keyring):
            endpoint = await find(found, name)
            if settings.kafka_url:
                await Index(settings, engine, Codec(keyring, "hookline/console")).catch_up()
            return endpoint, settings, await refused(engine, endpoint), await malformed(engine, endpoint)

    endpoint, settings, found_refusals, unread = run(command)
    url = url_of(settings, endpoint)
    out.print(f"name      {endpoint.name}\nsource    {endpoint.source}\ntenant    {endpoint.tenant}")
    out.print(f"URL       {url if reveal else url.replace(endpoint.id, endpoint.id[:6] + '…')}", soft_wrap=True)
    out.print(f"accounts  {', '.join(sorted(endpoint.accounts)) or 'none yet: `hookline account add`'}")
    out.print(f"enabled   {'yes' if endpoint.enabled else 'no: `hookline endpoint enable`'}")
    if endpoint.config:
        out.print(f"config    {json.dumps(dict(endpoint.config), ensure_ascii=False)}", soft_wrap=True, markup=False)
    _print_secrets(endpoint, datetime.now(UTC))
    if unread:
        out.print(
            f"unread    {unread} open dead letters, {Cause.MALFORMED_BODY}. {REMEDIES[Cause.MALFORMED_BODY]}",
            soft_wrap=True,
        )
    if not found_refusals:
        out.print("refused   nothing in the last 24 hours")
        return
    table = Table("refused, last 24 h", "times", "last")
    for cause, times, last in found_refusals:
        table.add_row(cause, str(times), last)
    out.print(table)


def _print_secrets(endpoint: Endpoint, now: datetime) -> None:
    """The windows, never the secrets."""
    if endpoint.source == "salesforce":
        out.print("secrets   the address itself")
        return
    if not endpoint.secrets:
        out.print("secrets   none that our master keys open: `hookline endpoint rotate-secret`")
        return
    table = Table("secret", "counts", "from (UTC)", "until (UTC)")
    for number, secret in enumerate(sorted(endpoint.secrets, key=lambda each: each.valid_from), 1):
        weak = weakness(secret.value)
        if weak is not None:
            state = f"never: {weak}"
        elif secret.valid_at(now):
            state = "now"
        else:
            state = "no longer" if secret.valid_from <= now else "not yet"
        until = f"{secret.valid_until.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if secret.valid_until else "-"
        table.add_row(str(number), state, f"{secret.valid_from.astimezone(UTC):%Y-%m-%d %H:%M:%S}", until)
    out.print(table)


async def find(found: Registry, name: str) -> Endpoint:
    """The endpoint that a person means; raises ConsoleError with the candidates."""
    endpoints = await found.endpoints()
    matches = [e for e in endpoints if name == e.name or e.id.startswith(name)]
    if len(matches) != 1:
        names = ", ".join(sorted(e.name for e in (matches or endpoints))) or "none are registered"
        problem = "more than one endpoint" if matches else "no endpoint"
        raise ConsoleError(f"{problem} is called {name!r}; there are: {names}")
    return matches[0]


async def refused(engine: AsyncEngine, endpoint: Endpoint) -> list[tuple[str, int, str]]:
    """What was refused at this endpoint in the last 24 hours: cause, how often, when last."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            sa.select(refusals.c.cause, sa.func.sum(refusals.c.repeats), sa.func.max(refusals.c.at))
            .where(
                refusals.c.tenant == endpoint.tenant, refusals.c.endpoint.in_((endpoint.id[:64], f"{endpoint.id[:6]}…"))
            )
            .where(refusals.c.at > sa.func.now() - sa.text("interval '24 hours'"))
            .group_by(refusals.c.cause)
            .order_by(refusals.c.cause)
        )
        return [(str(cause), int(times), f"{last:%H:%M:%S}") for cause, times, last in rows]


async def malformed(engine: AsyncEngine, endpoint: Endpoint) -> int:
    """Open letters, as the index has them, about bodies that this endpoint took and its source could not read."""
    async with engine.connect() as connection:
        found = await connection.scalar(
            sa.select(sa.func.count()).where(
                IS_OPEN,
                dead_letters.c.tenant == endpoint.tenant,
                dead_letters.c.cause == Cause.MALFORMED_BODY.value,
                dead_letters.c.detail.startswith(named(endpoint.id), autoescape=True),
            )
        )
        return int(found or 0)
