"""`hookline account`: the HubSpot portals and Salesforce orgs that are read and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from console import account_events
from console import connect as connecting
from console.accounts_budget import budget
from console.accounts_check import Point
from console.accounts_check import check as checked
from console.accounts_reconcile import comparisons
from console.accounts_reconcile import told as compared
from console.endpoints import find
from console.runtime import ConsoleError, need, out, registry, run
from console.status_accounts import health
from console.status_section import Sight
from infra.accounts import Account, Registry
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.crm.vendors import connected

app = typer.Typer(help="Accounts: HubSpot portals and Salesforce orgs.", no_args_is_help=True)


CRMS = ("hubspot", "salesforce")
app.command("connect")(connecting.connect)
app.command("events")(account_events.events)


@app.command("add")
def add(
    crm: Annotated[str, typer.Argument(help="hubspot or salesforce.")],
    id_: Annotated[
        str, typer.Argument(metavar="[ID]", help="HubSpot: the portal's number. Salesforce: the org's id, 00D...")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose it is.")] = "",
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Endpoint that may speak for it; may be given again.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    credentials: Annotated[
        str,
        typer.Option(
            envvar="HOOKLINE_NEW_CREDENTIALS",
            help='JSON. HubSpot: {"access_token": "..."}, {"client_id", "client_secret", "refresh_token"}, or without the last, to be '
            'connected by `hookline account connect`. Salesforce: {"consumer_key", "consumer_secret"} (client credentials), '
            '{"consumer_key", "username", "private_key"} (JWT), {"consumer_key", "refresh_token"}, or {"consumer_key"} to be connected.',
            show_default=False,
        ),
    ] = "",
    instance: Annotated[str, typer.Option(help="Salesforce: the org's host, e.g. acme.my.salesforce.com.")] = "",
    app_id: Annotated[str, typer.Option(help="HubSpot: the app's id.")] = "",
    integration_user: Annotated[str, typer.Option(help="Salesforce: id of the user that Hookline writes as.")] = "",
) -> None:
    """Register an account, and make our properties or fields in it. Without an ID it is a guided set-up, which can be left and resumed."""
    if crm not in CRMS:
        raise ConsoleError(f"there is no CRM {crm!r}: choose one of {', '.join(CRMS)}")
    missing = [words for given, words in ((id_, "an ID"), (tenant, "--tenant"), (endpoint, "--endpoint")) if not given]
    if missing and sys.stdin.isatty():
        from console.accounts_setup import guide

        guide(crm, tenant)
        return
    if missing:
        raise ConsoleError(
            f"{' and '.join(missing)} missing: give all of them, or run `hookline account add {crm}` at a terminal for a guided set-up"
        )
    opened = credentials_of(crm, credentials)
    config = config_of(crm, instance, app_id, integration_user)

    async def command() -> tuple[Account, list[str], list[str]]:
        async with registry() as (found, settings, *_):
            endpoints = [(await find(found, each)).id for each in endpoint or ()]
            account = await register(found, tenant, crm, id_, name, config, opened, endpoints)
            if account.state == "disconnected":
                return account, [], []
            async with connected(settings, crm) as client:
                return account, *(await connecting.provision(client, account))

    try:
        account, made, left = run(command)
    except (AccountUnavailable, CrmUnavailable) as error:
        raise ConsoleError(
            f"the account is registered, but {crm} did not let us make our fields: {error}. Mend that, then run this again."
        ) from error
    if account.state == "disconnected":
        out.print(f"account [bold]{account.id}[/] added. Next: `hookline account connect {account.id}`")
        return
    out.print(f"account [bold]{account.id}[/] added; {len(made)} properties made.")
    _print_left(left)
    if crm == "salesforce":
        out.print(
            f"Its change events: `hookline account events {account.id} --channel {account_events.OURS}`, once the channel is deployed.",
            soft_wrap=True,
            markup=False,
        )
    out.print(f"Next: `hookline account check {account.id}`, then `hookline backfill plan {account.id}`.")


def config_of(crm: str, instance: str, app_id: str, integration_user: str) -> dict[str, str]:
    """An account's configuration from what was given; raises ConsoleError for what its CRM needs."""
    if crm == "salesforce" and not instance:
        raise ConsoleError("a Salesforce account needs --instance, e.g. --instance acme.my.salesforce.com")
    given = (
        ("instance_url", f"https://{instance.removeprefix('https://').rstrip('/')}" if instance else ""),
        ("app_id", app_id),
        ("integration_user", integration_user),
    )
    return {key: value for key, value in given if value}


async def register(
    found: Registry,
    tenant: str,
    crm: str,
    id_: str,
    name: str,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    endpoints: Sequence[str],
) -> Account:
    """Add the account, or give it new credentials; one that has nothing to sign in with yet waits, disconnected, to be connected."""
    account = await found.add_account(
        tenant,
        crm,
        id_ if ":" in id_ else f"{crm}:{id_}",
        name=name,
        config=config,
        credentials=credentials,
        endpoints=endpoints,
    )
    if any(all(credentials.get(each) for each in form) for form in FORMS[crm]):
        return account
    reason = f"not connected yet: `hookline account connect {account.id}`"
    await found.set_account_state(account.id, "disconnected", reason)
    return await found.account(account.id)


FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "hubspot": (("access_token",), ("client_id", "client_secret", "refresh_token")),
    "salesforce": (
        ("consumer_key", "consumer_secret"),
        ("consumer_key", "username", "private_key"),
        ("consumer_key", "refresh_token"),
        ("access_token",),
    ),
}
"""The members that each way of signing in needs; one way is enough."""
TO_BE_CONNECTED: dict[str, tuple[str, ...]] = {
    "hubspot": ("client_id", "client_secret"),
    "salesforce": ("consumer_key",),
}
"""What is enough to send an admin to the CRM."""


def credentials_of(crm: str, text: str) -> dict[str, Any]:
    """What was given as JSON, if it is enough for this CRM; raises ConsoleError, which repeats no value."""
    if not text:
        raise ConsoleError("credentials are missing: pass them as JSON in HOOKLINE_NEW_CREDENTIALS (or --credentials)")
    try:
        opened = json.loads(text)
    except ValueError as error:
        raise ConsoleError("credentials are not JSON: check quotes and braces") from error
    if not isinstance(opened, dict) or not opened:
        raise ConsoleError("credentials must be a JSON object with at least one member")
    enough(crm, opened)
    return opened


def enough(crm: str, credentials: Mapping[str, Any]) -> None:
    """Raises ConsoleError for credentials with which nobody could ever sign in."""
    forms = FORMS.get(crm, ())
    ways = (*forms, TO_BE_CONNECTED.get(crm, ()))
    if forms and not any(all(credentials.get(name) for name in form) for form in ways):
        told = "; or ".join(", ".join(form) for form in forms)
        raise ConsoleError(f"these credentials are not enough for {crm}: it needs {told}")


@app.command("provision")
def provision(id_: Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. hubspot:145883449")]) -> None:
    """Make what is missing of our properties or fields, and say what an older release left behind. Repeating it makes none."""

    async def command() -> tuple[list[str], list[str]]:
        async with registry() as (found, settings, *_):
            account = await found.account(id_)
            async with connected(settings, account.crm) as client:
                return await connecting.provision(client, account)

    try:
        made, left = run(command)
    except (AccountUnavailable, CrmUnavailable) as error:
        raise ConsoleError(f"{error}. See `hookline account check {id_}`.") from error
    out.print(f"{len(made)} properties made." if made else "All of our properties are there.")
    _print_left(left)


def _print_left(left: Sequence[str]) -> None:
    if left:
        out.print(
            f"Left behind by an older release, not written any more, and yours to delete: {', '.join(left)}",
            soft_wrap=True,
        )


@app.command("check")
def check(
    id_: Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. hubspot:145883449")],
    record: Annotated[
        str,
        typer.Option(help="Which record to write our own field to for a second, e.g. contact/101; else one is chosen."),
    ] = "",
    echo_seconds: Annotated[float, typer.Option(min=0, help="How long to watch for our own echo.")] = 8.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try everything that the account needs. Ends with 1 when a point failed."""

    async def command() -> list[Point]:
        async with registry() as (found, settings, engine, keyring):
            need(settings, "kafka_url")
            account = await found.account(id_)
            async with connected(settings, account.crm) as client:
                sight = Sight(settings, engine, found, keyring)
                return await checked(sight, client, account, record=record, echo_seconds=echo_seconds)

    points = run(command)
    failed = [point for point in points if point.result == "failed"]
    if as_json:
        typer.echo(json.dumps({"account": id_, "passed": not failed, "points": [point.plain() for point in points]}))
    else:
        print_points(points)
    if failed:
        raise typer.Exit(1)


def print_points(points: Sequence[Point]) -> None:
    """The table of a check."""
    table = Table("point", "", "what was found", "what to do")
    marks = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "unknown": "[yellow]unknown[/]"}
    for point in points:
        table.add_row(point.name, marks[point.result], Text(point.detail), Text(point.remedy))
    out.print(table)


@app.command("list")
def list_() -> None:
    """All accounts."""

    async def command() -> list[Account]:
        async with registry() as (found, *_):
            return list(await found.accounts())

    table = Table("account", "name", "tenant", "state", "last delivery", "last insight")
    for account in run(command):
        table.add_row(
            account.id,
            account.name or "-",
            account.tenant,
            account.state,
            _when(account.last_delivery_at),
            _when(account.last_insight_at),
        )
    out.print(table)


def _when(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else "never"


@app.command("show")
def show(id_: Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. hubspot:145883449")]) -> None:
    """One account; credentials are never shown."""

    async def command() -> tuple[Account, list[str], list[str], list[str], list[str]]:
        async with registry() as (found, settings, engine, keyring):
            account = await found.account(id_)
            wrong = await health(Sight(settings, engine, found, keyring), account)
            heard = await account_events.told(found, engine, account.id)
            missed = list(compared(await comparisons(engine, account.id)))
            return account, wrong, await budget(settings, account.id), heard, missed

    account, wrong, calls, heard, missed = run(command)
    out.print(f"account        {account.id}\nname           {account.name or '-'}\ntenant         {account.tenant}")
    out.print(f"state          {account.state}" + (f": {account.state_reason}" if account.state_reason else ""))
    out.print(
        f"credentials    {', '.join(sorted(account.credentials)) if account.credentials else 'none'} (values are never shown)"
    )
    for key, value in sorted(account.config.items()):
        out.print(f"{key:<14} {value}")
    out.print(f"last delivery  {_when(account.last_delivery_at)}\nlast insight   {_when(account.last_insight_at)}")
    for place, line in enumerate(calls):
        out.print(f"{'calls' if not place else '':<14} {line}", markup=False)
    for place, line in enumerate(heard):
        out.print(f"{'events' if not place else '':<14} {line}", markup=False, soft_wrap=True)
    for place, line in enumerate(missed):
        out.print(f"{'missed' if not place else '':<14} {line}", markup=False, soft_wrap=True)
    for place, line in enumerate(wrong or ["good"]):
        out.print(f"{'health' if not place else '':<14} {line}", markup=False)
