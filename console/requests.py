"""`hookline requests`: every request that reached the front door, accepted or refused and why, and what became of it.

Law: shows; changes nothing but what `retry` lets in. Bodies are a customer's data: they are shown only when asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.endpoints import find
from console.requests_fate import Accepted, accepted, accepted_one
from console.runtime import ConsoleError, need, out, registry, run
from console.times import moment
from infra.accounts import Endpoint, Registry
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.plugins import load
from infra.settings import Settings
from ingress.refused import RefusedRequest
from ingress.retry import Retried, Retrier, chosen, opened
from ingress.sources.source import Source
from schemas.delivery import Refusal
from schemas.topics import DELIVERIES

app = typer.Typer(help="Requests at the front door: accepted, refused, and what became of them.", no_args_is_help=True)

_CAUSES = ", ".join(cause.value for cause in Refusal)
Since = Annotated[str, typer.Option(help="From when: 15m, 2h, 3d ago, or a time. Accepted ones are kept for 72 h.")]
Until = Annotated[str, typer.Option(help="Until when, likewise.")]
EndpointName = Annotated[str, typer.Option("--endpoint", help="Name, id, or the beginning of the id.")]
Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Cause = Annotated[str, typer.Option(help=f"Only refused for this: {_CAUSES}.")]


@dataclass(frozen=True, slots=True)
class Line:
    """One request, or several refused ones of the same endpoint, cause and second."""

    at: datetime
    request_id: str
    tenant: str
    endpoint: str
    answer: str
    """`accepted`, or the cause."""
    times: int
    size: int
    became: str
    accounts: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "at": self.at.isoformat(),
            "request_id": self.request_id,
            "tenant": self.tenant,
            "endpoint": self.endpoint,
            "answer": self.answer,
            "times": self.times,
            "size": self.size,
            "became": self.became,
            "accounts": list(self.accounts),
        }


@app.command("list")
def list_(
    endpoint: EndpointName = "",
    account: Annotated[str, typer.Option(help="Only accepted ones of which something came for this account.")] = "",
    tenant: Tenant = "",
    cause: Cause = "",
    since: Since = "1h",
    until: Until = "",
    accepted_only: Annotated[bool, typer.Option("--accepted", help="Only accepted ones.")] = False,
    refused_only: Annotated[bool, typer.Option("--refused", help="Only refused ones.")] = False,
    count: Annotated[int, typer.Option("-n", help="At most so many, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Requests, oldest first: accepted ones with what came of them, refused ones with the cause."""
    if accepted_only and refused_only:
        raise ConsoleError("--accepted and --refused exclude one another: leave both out to see all")
    causes = causes_of(cause)
    start = moment(since) or datetime.now(UTC) - timedelta(hours=1)

    async def command() -> list[Line]:
        async with registry() as (found, settings, engine, keyring):
            need(settings, "kafka_url")
            endpoints = [await find(found, endpoint)] if endpoint else await found.endpoints()
            return await listed(
                settings, engine, keyring, endpoints, only=bool(endpoint), tenant=tenant, account=account, causes=causes,
                since=start, until=moment(until), with_accepted=not refused_only, with_refused=not accepted_only,
            )  # fmt: skip

    lines = run(command)[-count:]
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line.plain()))
        return
    # Two lines each, so that ids, which `show` and `retry` are given, stay whole on a narrow terminal.
    table = Table(Column("request, time (UTC), endpoint", no_wrap=True, min_width=32), Column("answer", min_width=19), "what became of it", show_lines=True)  # fmt: skip
    for line in lines:
        table.add_row(
            f"{line.request_id}\n{line.at.astimezone(UTC):%m-%d %H:%M:%S}  {line.endpoint}",
            f"{line.answer}\n{line.times} x {line.size} bytes",
            line.became,
        )
    out.print(table)
    if not lines:
        out.print(f"Nothing since {start:%Y-%m-%d %H:%M:%S} UTC; `--since 24h` looks further back.")


async def listed(
    settings: Settings,
    engine: AsyncEngine,
    keyring: Keyring,
    endpoints: Sequence[Endpoint],
    *,
    only: bool,
    tenant: str,
    account: str = "",
    causes: Sequence[str] = (),
    since: datetime,
    until: datetime | None = None,
    with_accepted: bool = True,
    with_refused: bool = True,
) -> list[Line]:
    """Requests, oldest first; with `only` those of these endpoints alone. Raises what Kafka and the database raise."""
    named = {one.id: one for one in endpoints}
    lines: list[Line] = []
    if with_accepted and not causes:
        requests = await accepted(
            settings, Codec(keyring, "hookline/console"), since=since, until=until, tenant=tenant, endpoints=set(named) if only else None
        )  # fmt: skip
        lines += [_accepted_line(one, named) for one in requests]
    if with_refused and not account:
        lines += await _refused(engine, endpoints if only else None, tenant, causes, since, until, endpoints)
    return [line for line in sorted(lines, key=lambda line: line.at) if not account or account in line.accounts]


@app.command("show")
def show(
    request_id: Annotated[str, typer.Argument(help="The id from the answer's X-Request-Id.")],
    body: Annotated[
        bool, typer.Option("--body", help="Print the body too: it is a customer's data, mind the terminal.")
    ] = False,
) -> None:
    """One request: where it lies, and everything that came of it."""

    async def command() -> tuple[Accepted | None, Any, RefusedRequest | None, dict[str, Endpoint]]:
        async with registry() as (found, settings, engine, keyring):
            need(settings, "kafka_url")
            endpoints = {one.id: one for one in await found.endpoints()}
            try:
                accepted_ = await accepted_one(settings, Codec(keyring, "hookline/console"), request_id)
            except ValueError as error:
                raise ConsoleError(f"{request_id!r} is no request id: {error}") from None
            async with engine.connect() as connection:
                row = (
                    await connection.execute(chosen().where(chosen().selected_columns.request_id == request_id))
                ).first()
            kept = None
            if row is not None and row.sealed_request is not None:
                pair = await opened(keyring, row.sealed_request)
                kept = pair[0] if pair else None
            return accepted_, row, kept, endpoints

    accepted_, row, kept, endpoints = run(command)
    if accepted_ is None and row is None:
        raise ConsoleError(
            f"no request {request_id} is known: accepted ones are kept for 72 h, and of refused ones of the same endpoint, "
            "cause and second only the first is listed by its id"
        )
    if row is not None:
        _print_refused(row, kept)
    if accepted_ is not None:
        _print_accepted(accepted_, endpoints)
    if body:
        content = accepted_.delivery.body if accepted_ is not None else kept.body if kept is not None else None
        out.print("body" if content is not None else "body      was not kept, or its key is gone")
        if content is not None:
            typer.echo(content.decode("utf-8", errors="backslashreplace"))


@app.command("retry")
def retry(
    request_id: Annotated[str, typer.Argument(help="One request; or choose by --endpoint and --cause.")] = "",
    endpoint: EndpointName = "",
    cause: Cause = "",
    since: Since = "24h",
    until: Until = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be let in.")] = False,
) -> None:
    """Let refused requests in after all: each is judged again, by the secrets that hold now and at the time when it came."""
    if bool(request_id) == bool(endpoint):
        raise ConsoleError("name one request, or an endpoint with --endpoint (and --cause, --since)")
    causes = causes_of(cause)

    async def command() -> list[Retried]:
        async with registry() as (found, settings, engine, keyring):
            need(settings, "kafka_url")
            ids = [request_id]
            if endpoint:
                one = await find(found, endpoint)
                fitting = chosen(
                    tenant=one.tenant, endpoints=_written(one), causes=causes, since=moment(since), until=moment(until), retriable=True
                )  # fmt: skip
                async with engine.connect() as connection:
                    ids = [row.request_id for row in await connection.execute(fitting)]
            return await retried(found, settings, engine, keyring, ids, dry_run=dry_run)

    results = run(command)
    for result in results:
        word = "would be let in" if dry_run and result.result == "published" else _WORDS[result.result]
        out.print(f"{result.request_id}  {word}{': ' + result.detail if result.detail else ''}", soft_wrap=True)
    done = sum(result.result == "published" for result in results)
    out.print(f"{done} of {len(results)} {'would be ' if dry_run else ''}let in.")
    if request_id and not done:
        raise typer.Exit(1)


_WORDS = {
    "published": "let in",
    "already": "was let in before",
    "gone": "cannot be let in",
    "refused": "refused again",
    "unknown": "unknown",
}


async def retried(
    found: Registry, settings: Settings, engine: AsyncEngine, keyring: Keyring, ids: Sequence[str], *, dry_run: bool
) -> list[Retried]:
    """Judge refused requests again, and let in those that pass; raises what Kafka and the database raise."""
    publisher = Publisher(settings, Codec(keyring, "hookline/console"), client_id="hookline-console")
    await publisher.start()
    try:
        retrier = Retrier(
            engine,
            keyring,
            {one.id: one for one in await found.endpoints()},
            load("ingress.sources", Source),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            lambda outgoing: publisher.publish_sealed(DELIVERIES, outgoing),
            public_url=settings.public_url,
            message_bytes=settings.ingress_max_body_bytes,
        )
        return [await retrier.retry(one, dry_run=dry_run) for one in ids]
    finally:
        await publisher.stop()


def causes_of(cause: str) -> list[str]:
    """The causes that are meant, none for an empty text; raises ConsoleError for an unknown one."""
    if not cause:
        return []
    try:
        return [Refusal(cause.upper()).value]
    except ValueError:
        raise ConsoleError(f"no cause {cause!r}: choose one of {_CAUSES}") from None


def _written(endpoint: Endpoint) -> list[str]:
    """How the list of refusals names it: whole, or by its beginning where the id is a secret."""
    return [endpoint.id[:64], f"{endpoint.id[:6]}…"]


async def _refused(
    engine: AsyncEngine,
    only: Sequence[Endpoint] | None,
    tenant: str,
    causes: Sequence[str],
    since: datetime,
    until: datetime | None,
    known: Sequence[Endpoint],
) -> list[Line]:
    names = {written: one.name for one in known for written in _written(one)}
    statement = chosen(
        tenant=tenant or (only[0].tenant if only else ""),
        endpoints=[written for one in only or () for written in _written(one)],
        causes=causes,
        since=since,
        until=until,
    )
    async with engine.connect() as connection:
        rows = (await connection.execute(statement)).all()
    return [
        Line(row.at, row.request_id, row.tenant, names.get(row.endpoint, row.endpoint), row.cause, row.repeats, row.size, _refused_became(row))
        for row in rows
    ]  # fmt: skip


def _refused_became(row: Any) -> str:
    if row.retried_at is not None:
        return f"let in at {row.retried_at:%m-%d %H:%M:%S}"
    if row.sealed_request is not None:
        return "kept: `hookline requests retry`"
    return f"answered {row.status}"


def _accepted_line(one: Accepted, endpoints: dict[str, Endpoint]) -> Line:
    delivery = one.delivery
    return Line(
        delivery.received_at, delivery.request_id, delivery.tenant, _name(delivery.endpoint, endpoints), "accepted", 1,
        len(delivery.body), one.outcome, tuple(sorted(one.accounts)),
    )  # fmt: skip


def _name(endpoint: str, endpoints: dict[str, Endpoint]) -> str:
    known = endpoints.get(endpoint)
    return known.name if known else f"{endpoint[:6]}… (removed)"


def _print_refused(row: Any, kept: RefusedRequest | None) -> None:
    out.print(
        f"request   {row.request_id}\nrefused   {row.cause}, answered {row.status}, {row.at:%Y-%m-%d %H:%M:%S} UTC"
    )
    out.print(f"tenant    {row.tenant or '-'}\nendpoint  {row.endpoint or '-'}\nbytes     {row.size}")
    if row.detail:
        out.print(f"detail    {row.detail}")
    if row.repeats > 1:
        out.print(f"times     {row.repeats} in that second, of which this is the first")
    if row.retried_at is not None:
        out.print(f"let in    {row.retried_at:%Y-%m-%d %H:%M:%S} UTC")
    elif kept is not None:
        names = ", ".join(sorted(name.decode("latin-1") for name in kept.headers))
        out.print(f"kept      {len(kept.body)} bytes and these headers: {names}", soft_wrap=True)
        out.print(f"Next: mend the cause, then `hookline requests retry {row.request_id}`.")


def _print_accepted(one: Accepted, endpoints: dict[str, Endpoint]) -> None:
    delivery = one.delivery
    out.print(f"request   {delivery.request_id}\naccepted  {delivery.received_at:%Y-%m-%d %H:%M:%S} UTC")
    out.print(f"tenant    {delivery.tenant}\nendpoint  {_name(delivery.endpoint, endpoints)} ({delivery.source})")
    out.print(f"bytes     {len(delivery.body)}")
    for partition, offset in one.places:
        out.print(f"delivery  {DELIVERIES.name} {partition}/{offset}")
    out.print(f"became    {one.outcome}")
    for trace in one.came:
        out.print(f"          {trace.topic} {trace.partition}/{trace.offset}  {trace.key}", soft_wrap=True)
