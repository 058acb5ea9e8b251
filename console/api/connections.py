"""Operations on the tenant, its keys, endpoints and accounts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from console import accounts, connect, keys
from console.accounts_check import check
from console.api import models
from console.api.problems import Problem
from console.api.routes import Call, Operation
from console.endpoint_config import accepted, check_secret
from console.endpoints import refused, url_of
from console.installed_sources import installed
from console.status_accounts import health
from infra.accounts import Account, Endpoint, RegistryError
from infra.accounts.keys import ApiKeys
from infra.crm.vendors import connected
from ingress.allowances import Allowances

# the tenant and its keys


async def _tenant(call: Call) -> dict[str, Any]:
    names = await call.at.registry.tenants()
    allowance, _ = await Allowances(call.at.parts.engine, call.at.settings).one(call.tenant)
    return {
        "id": call.tenant,
        "name": names[call.tenant],
        "changes_per_second": allowance.per_second,
        "changes_burst": allowance.burst,
        "key": call.key.id,
        "role": call.key.role,
    }


async def _keys(call: Call) -> list[dict[str, Any]]:
    return [keys.plain(each) for each in await ApiKeys(call.at.parts.engine).all(call.tenant)]


async def _new_key(call: Call) -> dict[str, Any]:
    days = call.body.expires_in_days
    end = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made, text = await ApiKeys(call.at.parts.engine).create(
        call.tenant, call.body.role, name=call.body.name, expires_at=end, by=call.who
    )
    return {"key": text, "id": made.id, "role": made.role}


async def _revoke_key(call: Call) -> dict[str, Any]:
    try:
        return keys.plain(await ApiKeys(call.at.parts.engine).revoke(call.path["key"], tenant=call.tenant))
    except RegistryError:
        raise Problem(404, "there is no such key", "GET /api/keys lists those that are there.") from None


# endpoints


def _endpoint(call: Call, endpoint: Endpoint, refusals: dict[str, int] | None = None) -> dict[str, Any]:
    source = installed().get(endpoint.source)
    hidden = (source is None or source.id_is_secret) and not call.key.may("engineer")
    return {
        "id": f"{endpoint.id[:6]}…" if hidden else endpoint.id,
        "name": endpoint.name,
        "source": endpoint.source,
        "url": None if hidden else url_of(call.at.settings, endpoint),
        "enabled": endpoint.enabled,
        "accounts": sorted(endpoint.accounts),
        "refused_24h": refusals or {},
    }


async def _endpoints(call: Call) -> list[dict[str, Any]]:
    return [_endpoint(call, each) for each in await call.at.registry.endpoints() if each.tenant == call.tenant]


async def _show_endpoint(call: Call) -> dict[str, Any]:
    endpoint = await call.own_endpoint(call.path["endpoint"])
    counts = {cause: times for cause, times, _ in await refused(call.at.parts.engine, endpoint)}
    return _endpoint(call, endpoint, counts)


async def _add_endpoint(call: Call) -> dict[str, Any]:
    wanted, sources = call.body, installed()
    if wanted.source == "hubspot" and not wanted.secret:
        raise Problem(
            422, "a HubSpot endpoint needs the app's client secret", "Copy it from the app's Auth tab into `secret`."
        )
    given = accepted(sources[wanted.source], wanted.config)
    if wanted.secret:
        check_secret(wanted.source, wanted.secret, given)
    secret = wanted.secret.encode() if wanted.secret else sources[wanted.source].new_secret()
    made = await call.at.registry.add_endpoint(
        call.tenant,
        wanted.source,
        name=wanted.name or wanted.source,
        config=given,
        secret=secret,
        known_sources=sources,
    )
    shown = made.secrets[0].value.decode() if not wanted.secret and wanted.source != "salesforce" else None
    return {**_endpoint(call, made), "secret": shown}


async def _rotate(call: Call) -> dict[str, Any]:
    endpoint = await call.own_endpoint(call.path["endpoint"])
    given = call.body.secret
    if endpoint.source == "hubspot" and not given:
        raise Problem(
            422, "HubSpot draws the secret itself", "Rotate it in the app's Auth tab, then send it as `secret`."
        )
    if given:
        check_secret(endpoint.source, given, endpoint.config)
    secret = given.encode() if given else installed()[endpoint.source].new_secret()
    made = await call.at.registry.rotate_secret(endpoint.id, secret, overlap_seconds=call.body.overlap_seconds)
    return {**_endpoint(call, made), "secret": None if given else secret.decode()}


async def _switch(call: Call) -> dict[str, Any]:
    endpoint = await call.own_endpoint(call.path["endpoint"])
    await call.at.registry.enable_endpoint(endpoint.id, call.body.enabled)
    return _endpoint(call, await call.at.registry.endpoint(endpoint.id))


# accounts


def _account(account: Account, wrong: list[str] | None = None) -> dict[str, Any]:
    names = ("id", "crm", "name", "state", "state_reason", "last_delivery_at", "last_insight_at")
    return {
        **{name: getattr(account, name) for name in names},
        "config": dict(account.config),
        "credentials": sorted(account.credentials or ()),
        "health": wrong,
    }


async def _accounts(call: Call) -> list[dict[str, Any]]:
    return [_account(each) for each in await call.at.registry.accounts() if each.tenant == call.tenant]


async def _show_account(call: Call) -> dict[str, Any]:
    account = await call.account()
    return _account(account, await health(call.at.sight, account))


async def _add_account(call: Call) -> dict[str, Any]:
    wanted = call.body
    accounts.enough(wanted.crm, wanted.credentials)
    config = accounts.config_of(wanted.crm, wanted.instance, wanted.app_id, wanted.integration_user)
    endpoints = [(await call.own_endpoint(each)).id for each in wanted.endpoints]
    return _account(
        await accounts.register(
            call.at.registry, call.tenant, wanted.crm, wanted.id, wanted.name, config, wanted.credentials, endpoints
        )
    )


async def _provision(call: Call) -> dict[str, Any]:
    account = await call.account()
    async with connected(call.at.settings, account.crm) as client:
        made, left = await connect.provision(client, account)
    return {"made": made, "left_over": left}


async def _check(call: Call) -> dict[str, Any]:
    account = await call.account()
    async with connected(call.at.settings, account.crm) as client:
        points = await check(
            call.at.sight, client, account, record=call.body.record, echo_seconds=call.body.echo_seconds
        )
    failed = any(point.result == "failed" for point in points)
    return {"account": account.id, "passed": not failed, "points": [point.plain() for point in points]}


async def _connect(call: Call) -> dict[str, Any]:
    account = await call.account()
    at = connect.connecting(call.at.settings, call.at.registry, call.at.parts.engine, call.at.keyring)
    url = await connect.authorize(at, account)
    return {"authorize_url": url, "redirect_uri": connect.redirect_uri(call.at.settings, account.crm)}


async def _reconnect(call: Call) -> dict[str, Any]:
    account = await call.account()
    accounts.enough(account.crm, call.body.credentials)
    return _account(await call.at.registry.reconnect(account.id, call.body.credentials))


_E, _A = "/endpoints/{endpoint}", "/accounts/{account}"
OPERATIONS = (
    Operation("GET", "/tenant", "show_tenant", "The tenant that the key belongs to.", "viewer", _tenant, models.Tenant, tag="tenant"),
    Operation("GET", "/keys", "list_keys", "Keys of the tenant, without the keys.", "admin", _keys, list[dict[str, Any]], tag="keys"),
    Operation("POST", "/keys", "create_key", "Make a key; it is shown once.", "admin", _new_key, models.MadeKey, models.NewKey, status=201, tag="keys"),
    Operation("DELETE", "/keys/{key}", "revoke_key", "End a key at once.", "admin", _revoke_key, dict[str, Any], tag="keys"),
    Operation("GET", "/endpoints", "list_endpoints", "Endpoints.", "viewer", _endpoints, list[models.Endpoint], tag="endpoints"),
    Operation("POST", "/endpoints", "add_endpoint", "Register where a sender delivers.", "admin", _add_endpoint, models.MadeEndpoint, models.NewEndpoint, status=201, tag="endpoints"),
    Operation("GET", _E, "show_endpoint", "One endpoint, with what was refused in 24 hours.", "viewer", _show_endpoint, models.Endpoint, tag="endpoints"),
    Operation("POST", f"{_E}/rotate-secret", "rotate_secret", "Give it a new secret; the old ones count on for a while.", "admin", _rotate, models.MadeEndpoint, models.Rotation, tag="endpoints"),
    Operation("PUT", f"{_E}/enabled", "enable_endpoint", "Open or close it.", "admin", _switch, models.Endpoint, models.Switch, tag="endpoints"),
    Operation("GET", "/accounts", "list_accounts", "Accounts.", "viewer", _accounts, list[models.AccountBody], tag="accounts"),
    Operation("POST", "/accounts", "add_account", "Register a CRM org, or give it new credentials.", "admin", _add_account, models.AccountBody, models.NewAccount, status=201, tag="accounts"),
    Operation("GET", _A, "show_account", "One account and its health.", "viewer", _show_account, models.AccountBody, tag="accounts"),
    Operation("POST", f"{_A}/check", "check_account", "Try everything that it needs.", "engineer", _check, models.Checked, models.CheckOf, tag="accounts"),
    Operation("POST", f"{_A}/provision", "provision_account", "Make what is missing of our fields.", "admin", _provision, models.Provisioned, tag="accounts"),
    Operation("POST", f"{_A}/connect", "connect_account", "Where an admin lets us in (OAuth).", "admin", _connect, models.Consent, tag="accounts"),
    Operation("PUT", f"{_A}/credentials", "reconnect_account", "Give it new credentials; what waited is due at once.", "admin", _reconnect, models.AccountBody, models.Credentials, tag="accounts"),
)  # fmt: skip
