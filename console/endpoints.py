"""`hookline endpoint`: the URLs that senders call, each with its secret and the accounts it may speak for."""

from __future__ import annotations

import base64
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.runtime import ConsoleError, out, registry, run
from infra.accounts import Endpoint, Registry
from infra.database.tables import refusals
from infra.plugins import load
from infra.settings import Settings
from ingress.sources.source import Source

app = typer.Typer(help="Endpoints: the URLs that senders call.", no_args_is_help=True)


def url_of(settings: Settings, endpoint: Endpoint) -> str:
    """The address to give to the sender."""
    base = settings.public_url or f"http://{settings.ingress_host}:{settings.ingress_port}"
    return f"{base.rstrip('/')}/hooks/{endpoint.id}"


@app.command("add")
def add(
    source: Annotated[str, typer.Argument(help="What the sender speaks: hubspot, salesforce or standard_webhooks.")],
    tenant: Annotated[str, typer.Option(help="Whose it is.")],
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    app_id: Annotated[str, typer.Option(help="HubSpot: the app's id; its own echoes are told apart by it.")] = "",
    secret: Annotated[
        str,
        typer.Option(
            envvar="HOOKLINE_NEW_SECRET",
            help="What the sender signs with. HubSpot: the app's client secret, needed. Standard Webhooks: made if absent. "
            "Salesforce: not used, for its messages carry no signature.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Register an endpoint; prints its URL, and its secret if one was made."""
    sources = load("ingress.sources", Source)  # type: ignore[type-abstract]  # the protocol is only asked for its members
    if source == "hubspot" and not secret:
        raise ConsoleError(
            "a HubSpot endpoint needs the app's client secret, which signs every delivery: copy it from the app's Auth tab "
            "and pass it as HOOKLINE_NEW_SECRET (or --secret)"
        )
    if source == "standard_webhooks" and secret:
        _check_standard(secret)

    async def command() -> tuple[Endpoint, Settings]:
        async with registry() as (found, settings, *_):
            given = secret.encode() or (sources[source].new_secret() if source in sources else None)
            config = {"app_id": app_id} if app_id else {}
            made = await found.add_endpoint(
                tenant, source, name=name or source, config=config, secret=given, known_sources=sources
            )
            return made, settings

    endpoint, settings = run(command)
    out.print(f"endpoint [bold]{endpoint.name}[/] created.\n  URL     {url_of(settings, endpoint)}", soft_wrap=True)
    if not secret and source != "salesforce":
        out.print(f"  secret  {endpoint.secrets[0].value.decode()}   (shown once)", soft_wrap=True)
    if source == "salesforce":
        out.print("  The URL itself is the secret: paste it into the outbound message and nowhere else.")
    crm = source if source in {"hubspot", "salesforce"} else "CRM"
    out.print(f"Next: `hookline account add {crm} ID --tenant {tenant} --endpoint {endpoint.name}`", soft_wrap=True)


def _check_standard(secret: str) -> None:
    try:
        long_enough = bool(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        long_enough = False
    if not long_enough:
        raise ConsoleError(
            "a Standard Webhooks secret is base64, mostly with `whsec_` in front: copy it from the sender, "
            "or unset HOOKLINE_NEW_SECRET to have one made"
        )


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
    """One endpoint, with the refusals of the last day."""

    async def command() -> tuple[Endpoint, Settings, list[tuple[str, int, str]]]:
        async with registry() as (found, settings, engine, _):
            endpoint = await find(found, name)
            return endpoint, settings, await refused(engine, endpoint)

    endpoint, settings, found_refusals = run(command)
    url = url_of(settings, endpoint)
    out.print(f"name      {endpoint.name}\nsource    {endpoint.source}\ntenant    {endpoint.tenant}")
    out.print(f"URL       {url if reveal else url.replace(endpoint.id, endpoint.id[:6] + '…')}", soft_wrap=True)
    out.print(f"accounts  {', '.join(sorted(endpoint.accounts)) or 'none yet: `hookline account add`'}")
    out.print(f"secrets   {len(endpoint.secrets)} valid")
    if not found_refusals:
        out.print("refused   nothing in the last 24 hours")
        return
    table = Table("refused, last 24 h", "times", "last")
    for cause, times, last in found_refusals:
        table.add_row(cause, str(times), last)
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
