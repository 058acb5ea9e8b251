"""The guided set-up of an account: what the admin must click and why, step by step, each checked when it is behind.

Law: a step that is behind is not asked again; whoever leaves goes on where they were with the same command. Nothing is done in
the CRM but what `hookline account check` and `provision` do. Answers are sealed.
"""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from console import account_events, accounts, connect
from console.accounts_check import check
from console.backfill.planner import plan
from console.backfill.store import Backfills
from console.endpoint_config import check_secret
from console.endpoints import url_of
from console.runtime import ConsoleError, out, registry, run
from console.status_section import Sight
from infra.accounts import Account, Endpoint, Registry
from infra.accounts.setups import Progress, Setups
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.crm.vendors import connected
from infra.keyring import Keyring
from infra.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a step works with."""

    registry: Registry
    settings: Settings
    engine: AsyncEngine
    keyring: Keyring


class Guide:
    """One set-up. Every step may be called again."""

    def __init__(self, crm: str, tenant: str, progress: Progress) -> None:
        self.crm = crm
        self.tenant = tenant
        self.progress = progress

    def __getitem__(self, name: str) -> str:
        return str(self.progress.answers.get(name, ""))

    def ask(self, name: str, question: str, *, secret: bool = False) -> str:
        """Ask once; what was answered before is kept."""
        found = self[name]
        if not found:
            found = str(typer.prompt(question, hide_input=secret)).strip()
            self.keep(**{name: found})
        return found

    def keep(self, **answers: str) -> None:
        """Remember answers, for this run and the next."""
        self.progress = replace(self.progress, answers={**self.progress.answers, **answers})
        self._save()

    def done(self, step: str) -> None:
        """It is behind."""
        self.progress = replace(self.progress, done=(*self.progress.done, step))
        self._save()

    def again(self, *names: str) -> None:
        """Ask these anew: what was answered does not work."""
        kept = {name: value for name, value in self.progress.answers.items() if name not in names}
        self.progress = replace(self.progress, answers=kept)
        self._save()

    def _save(self) -> None:
        async def act(tools: Tools) -> None:
            await Setups(tools.engine, tools.keyring).save(self.tenant, self.crm, self.progress)

        with_tools(act)


def with_tools(act: Callable[[Tools], Awaitable[T]]) -> T:
    """Do one thing on the servers; what the CRM refuses becomes a message."""

    async def command() -> T:
        async with registry() as (found, settings, engine, keyring):
            try:
                return await act(Tools(found, settings, engine, keyring))
            except (AccountUnavailable, CrmUnavailable) as error:
                raise ConsoleError(f"{error}. Mend that, then run the same command again: it goes on here.") from error

    return run(command)


def guide(crm: str, tenant: str) -> None:
    """Lead an admin through all steps that are not behind."""
    tenant = tenant or str(typer.prompt("Tenant (a short id, e.g. acme)")).strip()

    async def begin(tools: Tools) -> Progress:
        if tenant not in await tools.registry.tenants():
            await tools.registry.add_tenant(tenant)
        return await Setups(tools.engine, tools.keyring).load(tenant, crm)

    guided = Guide(crm, tenant, with_tools(begin))
    steps = STEPS[crm]
    if guided.progress.done:
        out.print(f"Going on: {len(guided.progress.done)} of {len(steps)} steps are behind.")
    for number, (name, title, why, step) in enumerate(steps, 1):
        if name in guided.progress.done:
            continue
        out.print(f"\n[bold]{number} of {len(steps)}: {title}[/]")
        out.print(why, soft_wrap=True, markup=False)
        step(guided)
        guided.done(name)

    async def end(tools: Tools) -> None:
        await Setups(tools.engine, tools.keyring).forget(tenant, crm)

    with_tools(end)
    out.print(f"\nDone: {guided['account']} is connected. `hookline status` shows how it is.")


def _hubspot_app(guided: Guide) -> None:
    guided.ask("app_id", "App id (the app's page, Overview)")
    guided.ask("client_id", "Client id (the app's page, Auth)")
    check_secret("hubspot", guided.ask("client_secret", "Client secret (hidden)", secret=True), {})


def _salesforce_app(guided: Guide) -> None:
    guided.ask("consumer_key", "Consumer key")
    guided.ask("consumer_secret", "Consumer secret (hidden)", secret=True)


def _hubspot_account(guided: Guide) -> None:
    _named(guided, guided.ask("number", "Portal id (the number after the name in HubSpot's account menu)"))


def _salesforce_account(guided: Guide) -> None:
    _named(guided, guided.ask("number", "Org id (Setup, Company Information; begins with 00D)"))
    guided.ask("instance", "My Domain (Setup, My Domain), e.g. acme.my.salesforce.com")


def _named(guided: Guide, number: str) -> None:
    from infra.accounts import RegistryError, account_id

    try:
        guided.keep(account=account_id(f"{guided.crm}:{number.rpartition(':')[2]}"))
    except RegistryError:
        guided.again("number")
        raise


def _endpoint(guided: Guide) -> None:
    async def act(tools: Tools) -> tuple[Endpoint, str]:
        if guided["endpoint"]:
            endpoint = await tools.registry.endpoint(guided["endpoint"])
        else:
            config = {"app_id": guided["app_id"]} if guided.crm == "hubspot" else {}
            endpoint = await tools.registry.add_endpoint(
                guided.tenant, guided.crm, config=config, secret=guided["client_secret"] or None
            )
        return endpoint, url_of(tools.settings, endpoint)

    endpoint, url = with_tools(act)
    guided.keep(endpoint=endpoint.id)
    out.print(f"  {url}", soft_wrap=True, markup=False)
    typer.confirm("Entered there and saved?", default=True, abort=True)


def _connect(guided: Guide) -> None:
    credentials: dict[str, Any] = (
        {"client_id": guided["client_id"], "client_secret": guided["client_secret"]}
        if guided.crm == "hubspot"
        else {"consumer_key": guided["consumer_key"], "consumer_secret": guided["consumer_secret"]}
    )
    by_consent = guided.crm == "hubspot" or typer.confirm(
        "Should an admin let us in in the browser? (No: client credentials, which need a run-as user in the app)",
        default=False,
    )
    config = accounts.config_of(guided.crm, guided["instance"], guided["app_id"], "")

    async def act(tools: Tools) -> Account:
        account = await accounts.register(
            tools.registry, guided.tenant, guided.crm, guided["account"], "", config, credentials, [guided["endpoint"]]
        )
        if by_consent:
            at = connect.connecting(tools.settings, tools.registry, tools.engine, tools.keyring)
            url = await connect.authorize(at, account)
            out.print(f"The app needs this redirect address: {connect.redirect_uri(tools.settings, guided.crm)}")
            out.print(f"Open as an admin of {account.id}, within ten minutes:\n{url}", soft_wrap=True, markup=False)
            return await connect.waited(tools.registry, account)
        async with connected(tools.settings, account.crm) as client:
            said = await client.identify(account)
        if said != account.id:
            raise ConsoleError(
                f"these credentials are of {said}, not of {account.id}: run this again with the right app"
            )
        return account

    with_tools(act)


def _fields(guided: Guide) -> None:
    async def act(tools: Tools) -> tuple[list[str], list[str]]:
        account = await tools.registry.account(guided["account"])
        async with connected(tools.settings, account.crm) as client:
            return await connect.provision(client, account)

    made, left = with_tools(act)
    out.print(f"{len(made)} made." + (f" Left by an older release, yours to delete: {', '.join(left)}" if left else ""))


def _events(guided: Guide) -> None:
    again = f"hookline account events {guided['account']} --channel {account_events.OURS}"
    if not typer.confirm(f"Listen to {account_events.OURS} from now on?", default=True):
        out.print(f"Later: `{again}`", soft_wrap=True, markup=False)
        return

    async def act(tools: Tools) -> None:
        account = await tools.registry.account(guided["account"])
        known = await account_events.of_account(tools.registry, account.id)
        await account_events.switch_on(
            tools.registry, tools.settings, tools.engine, account, known, account_events.OURS
        )

    try:
        with_tools(act)
    except ConsoleError as error:
        # Beside outbound messages it is no condition of anything: the set-up goes on, and the check says it again.
        out.print(f"Not yet: {error}\nLater: `{again}`", soft_wrap=True, markup=False)
        return
    out.print("Every `hookline serve salesforce-events` (or `up`) listens within two seconds.")


def _check(guided: Guide) -> None:
    async def act(tools: Tools) -> list[Any]:
        account = await tools.registry.account(guided["account"])
        sight = Sight(tools.settings, tools.engine, tools.registry, tools.keyring)
        async with connected(tools.settings, account.crm) as client:
            return await check(sight, client, account)

    points = with_tools(act)
    accounts.print_points(points)
    if any(point.result == "failed" for point in points):
        raise ConsoleError("mend what failed, then run the same command again: it checks anew and goes on here")


def _backfill(guided: Guide) -> None:
    async def act(tools: Tools) -> Any:
        account = await tools.registry.account(guided["account"])
        backfills = Backfills(tools.engine)
        async with connected(tools.settings, account.crm) as client:
            return await plan(tools.settings, backfills, client, account, by=getpass.getuser())

    one = with_tools(act)
    out.print(f"{one.records} records, {one.calls} of the account's calls ({one.calls_per_day} a day at most).")
    if not typer.confirm("Read them now, in the background?", default=True):
        out.print(f"Later: `hookline backfill run {one.id}`")
        return

    async def queue(tools: Tools) -> None:
        await Backfills(tools.engine).update(one.id, only_from=("planned",), state="queued")

    with_tools(queue)
    out.print(f"`hookline serve api` runs it; `hookline backfill show {one.id}` tells how far it is.")


Step = tuple[str, str, str, Callable[[Guide], None]]
_LAST: tuple[Step, ...] = (
    (
        "fields",
        "Our fields",
        "Insights are written to fields of our own, so that nothing a person typed is ever overwritten. They are made now.",
        _fields,
    ),
    ("check", "Check", "Everything is tried once: reading, a signed delivery, a write and its echo.", _check),
    (
        "backfill",
        "What is there already",
        "Webhooks tell of changes alone. A backfill reads every existing record once, within a share of the account's daily calls.",
        _backfill,
    ),
)
STEPS: dict[str, tuple[Step, ...]] = {
    "hubspot": (
        (
            "app",
            "The app",
            (
                "Webhooks and cards belong to a HubSpot project app. As a super admin: install HubSpot's CLI, then in infra/crm_apps/hubspot "
                "`hs project upload`; open Development, Projects, Hookline. Its client secret signs every delivery, so that we can tell HubSpot from anybody."
            ),
            _hubspot_app,
        ),
        (
            "endpoint",
            "Where HubSpot delivers",
            (
                "In the app's webhooks: set this address as target URL, and let contacts, companies, deals, tickets and notes be subscribed "
                "(creation, property change, merge, restore, association change, deletion, privacy deletion); never properties that begin with hookline_."
            ),
            _endpoint,
        ),
        ("account", "The portal", "Which HubSpot account is this? One app may serve several.", _hubspot_account),
        (
            "connect",
            "Let the app in",
            "An admin of the portal agrees to the scopes in the browser. We keep a refresh token, sealed; it can be taken back in HubSpot under Connected Apps.",
            _connect,
        ),
        *_LAST,
    ),
    "salesforce": (
        (
            "app",
            "The external client app",
            (
                "Setup, External Client App Manager, New: enable OAuth with the scopes api and refresh_token; for client credentials name a run-as user "
                "(a dedicated integration user, with Send Outbound Messages off, so that our own writes send none)."
            ),
            _salesforce_app,
        ),
        ("account", "The org", "Which org is this, and where does it live?", _salesforce_account),
        (
            "endpoint",
            "Where Salesforce delivers",
            (
                "Deploy infra/crm_apps/salesforce (`sf project deploy start`), and set this address as the endpoint of its outbound messages. The address "
                "is itself the secret, since Salesforce signs nothing: paste it there and nowhere else. Assign the permission set Hookline Integration to the integration user."
            ),
            _endpoint,
        ),
        (
            "connect",
            "Let us in",
            "With client credentials nobody has to agree again; with an admin's consent access can be taken back under OAuth Connected Apps Usage.",
            _connect,
        ),
        _LAST[0],
        (
            "events",
            "Change events",
            (
                "Salesforce's event bus (Change Data Capture) tells every change with its author and keeps it for 72 hours, where an outbound message that "
                "cannot be delivered is dropped after a day. They come beside the messages or instead of them, from the channel in infra/crm_apps/salesforce."
            ),
            _events,
        ),
        *_LAST[1:],
    ),
}
