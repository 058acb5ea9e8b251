"""`hookline account`: the HubSpot portals and Salesforce orgs that are read and written."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from console.endpoints import find
from console.runtime import ConsoleError, out, registry, run
from console.status_accounts import health
from console.status_section import Sight
from infra.accounts import Account
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.crm.vendors import connect

app = typer.Typer(help="Accounts: HubSpot portals and Salesforce orgs.", no_args_is_help=True)


@app.command("add")
def add(
    crm: Annotated[str, typer.Argument(help="hubspot or salesforce.")],
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="HubSpot: the portal's number. Salesforce: the org's id, 00D...")
    ],
    tenant: Annotated[str, typer.Option(help="Whose it is.")],
    endpoint: Annotated[list[str], typer.Option(help="Endpoint that may speak for it; may be given again.")],
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    credentials: Annotated[
        str,
        typer.Option(
            envvar="HOOKLINE_NEW_CREDENTIALS",
            help='JSON. HubSpot: {"access_token": "..."} or {"client_id", "client_secret", "refresh_token"}. '
            'Salesforce: {"consumer_key", "consumer_secret"} (client credentials), {"consumer_key", "username", "private_key"} '
            '(JWT), or {"consumer_key", "refresh_token"}.',
            show_default=False,
        ),
    ] = "",
    instance: Annotated[str, typer.Option(help="Salesforce: the org's host, e.g. acme.my.salesforce.com.")] = "",
    app_id: Annotated[str, typer.Option(help="HubSpot: the app's id.")] = "",
    integration_user: Annotated[str, typer.Option(help="Salesforce: id of the user that Hookline writes as.")] = "",
) -> None:
    """Register an account, and make our properties or fields in it."""
    if crm == "salesforce" and not instance:
        raise ConsoleError("a Salesforce account needs --instance, e.g. --instance acme.my.salesforce.com")
    opened = _credentials(crm, credentials)
    config = {
        key: value
        for key, value in (
            ("instance_url", f"https://{instance.removeprefix('https://').rstrip('/')}" if instance else ""),
            ("app_id", app_id),
            ("integration_user", integration_user),
        )
        if value
    }

    async def command() -> tuple[Account, list[str]]:
        async with registry() as (found, settings, *_):
            endpoints = [(await find(found, each)).id for each in endpoint]
            account = await found.add_account(
                tenant,
                crm,
                id_ if ":" in id_ else f"{crm}:{id_}",
                name=name,
                config=config,
                credentials=opened,
                endpoints=endpoints,
            )
            client = connect(settings, [crm])[crm]
            try:
                return account, await client.provision(account)
            finally:
                await client.close()

    try:
        account, made = run(command)
    except (AccountUnavailable, CrmUnavailable) as error:
        raise ConsoleError(
            f"the account is registered, but {crm} did not let us make our fields: {error}. Mend that, then run this again."
        ) from error
    out.print(f"account [bold]{account.id}[/] added; {len(made)} properties made.")
    out.print("Next: edit a record in the CRM, then `hookline status`.")


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


def _credentials(crm: str, text: str) -> dict[str, Any]:
    if not text:
        raise ConsoleError("credentials are missing: pass them as JSON in HOOKLINE_NEW_CREDENTIALS (or --credentials)")
    try:
        opened = json.loads(text)
    except ValueError as error:
        raise ConsoleError("credentials are not JSON: check quotes and braces") from error
    if not isinstance(opened, dict) or not opened:
        raise ConsoleError("credentials must be a JSON object with at least one member")
    forms = FORMS.get(crm, ())
    if forms and not any(all(opened.get(name) for name in form) for form in forms):
        ways = "; or ".join(", ".join(form) for form in forms)
        raise ConsoleError(f"these credentials are not enough for {crm}: it needs {ways}")
    return opened


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

    async def command() -> tuple[Account, list[str]]:
        async with registry() as (found, settings, engine, keyring):
            account = await found.account(id_)
            return account, await health(Sight(settings, engine, found, keyring), account)

    account, wrong = run(command)
    out.print(f"account        {account.id}\nname           {account.name or '-'}\ntenant         {account.tenant}")
    out.print(f"state          {account.state}" + (f": {account.state_reason}" if account.state_reason else ""))
    out.print(
        f"credentials    {', '.join(sorted(account.credentials)) if account.credentials else 'none'} (values are never shown)"
    )
    for key, value in sorted(account.config.items()):
        out.print(f"{key:<14} {value}")
    out.print(f"last delivery  {_when(account.last_delivery_at)}\nlast insight   {_when(account.last_insight_at)}")
    for place, line in enumerate(wrong or ["good"]):
        out.print(f"{'health' if not place else '':<14} {line}", markup=False)
