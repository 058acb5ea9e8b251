"""Connecting an account by OAuth: an admin is sent to the CRM and comes back with a code.

Law: what comes back is believed only with a state that we gave out, once, and only if the CRM itself says that it is of the
account that was meant: else a stranger's portal would be written into a customer's name. The command and the HTTP API do the
same by these functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from console.runtime import ConsoleError, out, registry, run
from infra.accounts import Account, Registry, salesforce_id
from infra.accounts.flows import LASTS_SECONDS, Flow, Flows
from infra.crm import oauth
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable
from infra.crm.oauth_tokens import SharedTokens
from infra.crm.vendors import connected
from infra.keyring import Keyring
from infra.settings import Settings, variable

LOOK_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Connecting:
    """What connecting works with."""

    settings: Settings
    registry: Registry
    flows: Flows


def public_base(settings: Settings) -> str:
    """Scheme, host and path prefix by which a CRM and its admins reach the HTTP API, without a trailing slash."""
    base = (
        settings.api_public_url
        or f"http://{'localhost' if settings.api_host == '127.0.0.1' else settings.api_host}:{settings.api_port}"
    )
    return base.rstrip("/")


def redirect_uri(settings: Settings, crm: str) -> str:
    """Where the CRM sends the admin back; it has to be entered in the app, letter by letter."""
    return f"{public_base(settings)}/oauth/{crm}/callback"


async def authorize(at: Connecting, account: Account) -> str:
    """The address that an admin of the CRM has to open, good for ten minutes. Raises ConsoleError where a client id is missing."""
    target = redirect_uri(at.settings, account.crm)
    try:
        begun = oauth.begin(at.settings, account, target)
    except ValueError as error:
        raise ConsoleError(str(error)) from None
    await at.flows.begin(begun.state, Flow(account.id, target, begun.verifier))
    return begun.url


async def complete(at: Connecting, crm: str, given: Mapping[str, str]) -> Account:
    """What the CRM sent the admin back with (`state`, `code` or `error`); the account is active afterwards, and what waited for it due.

    Raises:
        ConsoleError: it cannot be believed or used; the text says what to do next, and nothing was changed.
    """
    flow = await at.flows.take(given.get("state", ""))
    if flow is None or flow.account.partition(":")[0] != crm:
        raise ConsoleError(
            "this way back is unknown, used or older than ten minutes: begin again with `hookline account connect`"
        )
    account = await at.registry.account(flow.account)
    if given.get("error") or not given.get("code"):
        raise ConsoleError(
            f"{crm} did not let us in ({_word(given.get('error', 'no code'))}): open the address again as an admin who may "
            "install apps, and agree"
        )
    try:
        grant = await asyncio.to_thread(
            oauth.exchange, at.settings, account, given["code"], flow.verifier, flow.redirect_uri
        )
    except oauth.GrantRefused as error:
        raise ConsoleError(
            f"{crm} refuses the code ({error.code}): check client id, client secret and redirect address "
            f"{flow.redirect_uri} in the app, then begin again"
        ) from None
    except oauth.TokenEndpointAway as error:
        raise ConsoleError(f"{crm}'s token endpoint is away ({error}): begin again in a few minutes") from None
    if not grant.refresh_token:
        raise ConsoleError(
            f"{crm} gave no refresh token: give the app the scope refresh_token (offline access), then begin again"
        )
    config = await _check_identity(at.settings, account, grant)
    kept = {
        name: value
        for name, value in (account.credentials or {}).items()
        if name not in {"access_token", "private_key"}
    }
    # Before the row: a process that sees the new credentials must not meet the old token in the cache.
    tokens = SharedTokens(at.settings)
    try:
        await tokens.share(account.id, grant)
        return await at.registry.reconnect(account.id, {**kept, "refresh_token": grant.refresh_token}, config)
    finally:
        await tokens.close()


async def _check_identity(settings: Settings, account: Account, grant: oauth.Grant) -> dict[str, Any]:
    """What to add to the configuration; raises ConsoleError when the admin let us into another account."""
    config = {"connected_at": datetime.now(UTC).isoformat(timespec="seconds")}
    instance = grant.instance_url
    if account.crm == "salesforce" and instance and not settings.sandbox_url:
        config["instance_url"] = instance
    identity = str(grant.extra.get("id") or "").rstrip("/").split("/")
    if account.crm == "salesforce" and len(identity) >= 2:
        found = f"salesforce:{salesforce_id(identity[-2])}"
        config["integration_user"] = identity[-1]
    else:
        trial = replace(
            account,
            credentials={"access_token": grant.access_token},
            config={**account.config, **({"instance_url": instance} if instance else {})},
        )
        try:
            async with connected(settings, account.crm) as client:
                found = await client.identify(trial)
        except (AccountUnavailable, CrmUnavailable) as error:
            raise ConsoleError(
                f"{account.crm} did not say whose token it gave ({type(error).__name__}): begin again"
            ) from error
    if found != account.id:
        raise ConsoleError(
            f"the app was let into {found}, and this is {account.id}: open the address again while signed in to the right "
            "account; nothing was changed"
        )
    return config


async def provision(client: CrmClient, account: Account) -> tuple[list[str], list[str]]:
    """Make what is missing of our fields; returns those made, and what an older release left behind."""
    made = await client.provision(account)
    left = []
    for object_ in sorted(client.own_objects):
        left += [f"{object_}.{name}" for name in (await client.survey(account, object_)).left_over]
    return made, left


def connect(
    id_: Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. hubspot:145883449")],
    wait: Annotated[bool, typer.Option(help="Wait until the admin has come back.")] = True,
) -> None:
    """Print the address at which an admin lets us in (OAuth), and wait for it. Again after access was taken away."""

    async def command() -> tuple[Account, str]:
        async with registry() as (found, settings, engine, keyring):
            account = await found.account(id_)
            at = connecting(settings, found, engine, keyring)
            out.print(f"{account.crm} sends the admin back to {redirect_uri(settings, account.crm)}", soft_wrap=True)
            out.print(
                f"That address has to stand among the app's redirect URLs, and `hookline serve api` must answer there ({variable('api_public_url')})."
            )
            url = await authorize(at, account)
            out.print(f"Open, as an admin of {account.id}, within ten minutes:\n{url}", soft_wrap=True, markup=False)
            return (await waited(found, account) if wait else account), url

    account, _ = run(command)
    if wait:
        out.print(f"account {account.id} is connected; what waited for it is due at once.")


async def waited(found: Registry, account: Account, seconds: float = LASTS_SECONDS) -> Account:
    """The account once it was connected anew; raises ConsoleError after ten minutes."""
    before = account.config.get("connected_at")
    for _ in range(int(seconds / LOOK_EVERY_SECONDS)):
        now = await found.account(account.id)
        if now.config.get("connected_at") != before:
            return now
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    raise ConsoleError(f"nobody came back within ten minutes: `hookline account connect {account.id}` begins again")


def connecting(settings: Settings, found: Registry, engine: Any, keyring: Keyring) -> Connecting:
    """Its parts."""
    return Connecting(settings, found, Flows(engine, keyring))


def _word(text: str) -> str:
    return text if text.replace("_", "").replace(" ", "").isalnum() and len(text) < 60 else "an error"
