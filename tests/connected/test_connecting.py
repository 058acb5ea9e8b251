"""Connecting accounts by OAuth, over the API's way back, against the sandbox; tokens shared by replicas; set aside and back."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from console.accounts_check import check
from console.api.app import build_app
from console.backfill.planner import plan
from console.backfill.store import Backfills
from console.connect import authorize, connecting, provision
from console.status_lag import Lag
from console.status_section import Sight
from infra.accounts.keys import ApiKeys
from infra.crm.client import AccountUnavailable, Read
from infra.crm.oauth import Grant, GrantRefused
from infra.crm.oauth_tokens import SharedTokens
from infra.crm.vendors import connect
from infra.database.tables import hydrator_state
from infra.local.sandbox.server import Sandbox
from ingress.app import build_role as build_door
from schemas.record import RecordRef
from schemas.topics import RECORDS
from tests.processors.world import snapshot

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
APP, SECRET = 14947547, "0d55ecae-dd5e-4b3c-9c1f"
ORG = "salesforce:00D5g000004XyzAEAS"


@pytest.fixture
async def sandbox(tmp_path):
    async with Sandbox(tmp_path) as found:
        yield found


@pytest.fixture
async def api(settings, sandbox):
    role = build_app(settings.model_copy(update={"api_port": 0, "sandbox_url": sandbox.base}))
    await role.start()
    yield role
    await role.drain(5)


def portal_of(tenant: str) -> int:
    return int(tenant[1:], 16) % 10**9 + 10


async def hubspot(api, sandbox, tenant):
    number = portal_of(tenant)
    sandbox.controls.create_app(APP, SECRET, client_id="client-1")
    sandbox.controls.create_portal(number, size=6)
    await api.parts.registry.add_tenant(tenant)
    given = {"client_id": "client-1", "client_secret": SECRET}
    return await api.parts.registry.add_account(
        tenant, "hubspot", f"hubspot:{number}", config={"app_id": str(APP)}, credentials=given
    )


async def salesforce(api, sandbox, tenant):
    made = sandbox.controls.create_org(ORG.partition(":")[2], size=6)
    await api.parts.registry.add_tenant(tenant)
    given = {"consumer_key": made["consumer_key"], "consumer_secret": made["consumer_secret"]}
    config = {"instance_url": "https://acme.my.salesforce.com"}
    return await api.parts.registry.add_account(tenant, "salesforce", ORG, config=config, credentials=given)


async def consent(api, account, choice: dict[str, str]) -> httpx.Response:
    """An admin opens the address and presses a button; what they see in the end."""
    at = connecting(api.settings, api.parts.registry, api.parts.engine, api.parts.keyring)
    url = await authorize(at, account)
    async with httpx.AsyncClient() as browser:
        assert (await browser.get(url)).status_code == 200
        back = await browser.post(url, data=choice)
        assert back.status_code == 302
        target = back.headers["location"]
        assert target.startswith(f"http://localhost:{api.port}/oauth/{account.crm}/callback?")
        seen = await browser.get(target)
        assert "code=" not in seen.text
        again = await browser.get(target)
        assert (again.status_code, "older than ten minutes" in again.text) == (422, True), "a state counts once"
        return seen


@pytest.mark.parametrize("make", [hubspot, salesforce])
async def test_an_admin_lets_us_in_and_the_account_works(api, sandbox, tenant, make):
    account = await make(api, sandbox, tenant)
    await api.parts.registry.set_account_state(account.id, "disconnected", "not connected yet")
    seen = await consent(api, account, {"account": account.id})
    assert seen.status_code == 200, seen.text
    now = await api.parts.registry.account(account.id)
    assert now.state == "active"
    assert now.credentials["refresh_token"]
    assert now.credentials["refresh_token"] not in repr(now)
    client = connect(api.settings, [account.crm])[account.crm]
    try:
        assert await client.identify(now) == account.id
        made, left = await provision(client, now)
        assert made
        assert left == []
        assert (await provision(client, now))[0] == []
    finally:
        await client.close()


async def test_who_says_no_or_lets_us_into_another_portal_changes_nothing(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    other = portal_of(tenant) + 1
    sandbox.controls.create_portal(other, size=0)
    denied = await consent(api, account, {"deny": "1"})
    assert (denied.status_code, "access_denied" in denied.text) == (422, True)
    wrong = await consent(api, account, {"account": f"hubspot:{other}"})
    assert (wrong.status_code, f"let into hubspot:{other}" in wrong.text) == (422, True)
    assert (await api.parts.registry.account(account.id)).credentials == account.credentials


async def test_the_verifier_is_demanded_where_a_challenge_was_sent(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    at = connecting(api.settings, api.parts.registry, api.parts.engine, api.parts.keyring)
    url = await authorize(at, account)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    async with httpx.AsyncClient(base_url=sandbox.base) as thief:
        back = await thief.post(url, data={"account": account.id})
        code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": "client-1",
            "client_secret": SECRET,
            "redirect_uri": asked["redirect_uri"],
        }
        assert (await thief.post("/oauth/2026-03/token", data={**form, "code_verifier": "guess"})).status_code == 400


@pytest.mark.parametrize("make", [hubspot, salesforce])
async def test_replicas_renew_a_rotating_token_once_and_keep_the_new_one(api, sandbox, tenant, make):
    """INVARIANT: one renewal whatever the number of replicas. If it fails, a rotated refresh token is used twice, and the CRM ends the account."""
    account = await make(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    sandbox.controls.set_rotation(account.id)
    connected = await api.parts.registry.account(account.id)
    replicas = [connect(api.settings, [account.crm])[account.crm] for _ in range(4)]
    try:
        await asyncio.gather(*(each.identify(connected) for each in replicas))
        assert (await api.parts.registry.account(account.id)).credentials == connected.credentials, (
            "the token at hand served all"
        )
        for token in list(sandbox._app.world.tokens):
            sandbox.controls.revoke_token(token)
        assert await asyncio.gather(*(each.identify(connected) for each in replicas)) == [account.id] * 4
        now = await api.parts.registry.account(account.id)
        assert now.credentials["refresh_token"] != connected.credentials["refresh_token"]
        live = [token for token in sandbox._app.world.tokens.values() if not token.revoked]
        assert len(live) == 1
    finally:
        await asyncio.gather(*(each.close() for each in replicas))


async def test_an_account_whose_access_was_taken_back_says_so_and_comes_back_by_consent(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    connected = await api.parts.registry.account(account.id)
    sandbox.controls.uninstall(account.id)
    client = connect(api.settings, ["hubspot"])["hubspot"]
    try:
        with pytest.raises(AccountUnavailable, match="account connect") as refused:
            await client.read(connected, "contact", ["1"])
        assert refused.value.cause == "TOKEN_REVOKED"
        await api.parts.registry.set_account_state(account.id, "disconnected", str(refused.value))
        await consent(api, connected, {"account": account.id})
        back = await api.parts.registry.account(account.id)
        assert back.state == "active"
        contact = sandbox.controls.records(account.id, "contact")[0]
        assert isinstance((await client.read(back, "contact", [contact]))[contact], Read)
    finally:
        await client.close()


async def test_a_check_names_what_is_missing_and_what_to_do_and_puts_back_what_it_wrote(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    registry, engine = api.parts.registry, api.parts.engine
    sight = Sight(
        api.settings.model_copy(update={"public_url": "http://127.0.0.1:9"}), engine, registry, api.parts.keyring
    )
    client = connect(api.settings, ["hubspot"])["hubspot"]
    try:
        points = await check(sight, client, account)
        assert [(point.name, point.result) for point in points] == [("credentials", "failed")]
        assert "account connect" in points[0].remedy
        await consent(api, account, {"account": account.id})
        endpoint = await registry.add_endpoint(tenant, "hubspot", "app", secret=SECRET)
        await registry.allow(endpoint.id, account.id)
        account = await registry.account(account.id)
        found = {point.name: point for point in await check(sight, client, account)}
        assert found["credentials"].result == "passed"
        assert (found["fields contact"].result, "provision" in found["fields contact"].remedy) == ("failed", True)
        assert (found["delivery app"].result, found["subscriptions"].result) == ("failed", "unknown")
        await client.provision(account)
        contact = sandbox.controls.records(account.id, "contact")[0]
        await client.write(account, "contact", {contact: {"model": "offline-rules"}})
        found = {
            point.name: point
            for point in await check(sight, client, account, record=f"contact/{contact}", echo_seconds=0)
        }
        assert (found["fields contact"].result, found["write-back"].result) == ("passed", "passed"), found
        assert found["echo"].result == "unknown"
        assert (await client.own_fields(account, "contact", [contact]))[contact] == {"model": "offline-rules"}
        sandbox.controls.create_properties(
            account.id,
            "contact",
            [{"name": "hookline_old", "label": "Old", "groupName": "hookline", "type": "string", "fieldType": "text"}],
        )
        assert (await provision(client, account)) == ([], ["contact.hookline_old"])
    finally:
        await client.close()


@pytest.mark.parametrize("make", [hubspot, salesforce])
async def test_a_signed_delivery_passes_the_door_and_causes_nothing(api, sandbox, tenant, make):
    account = await make(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    endpoint = await api.parts.registry.add_endpoint(tenant, account.crm, "app", secret=SECRET)
    await api.parts.registry.allow(endpoint.id, account.id)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = api.settings.model_copy(update={"ingress_port": port, "public_url": f"http://127.0.0.1:{port}"})
    door = build_door(settings)
    await door.start()
    client = connect(api.settings, [account.crm])[account.crm]
    try:
        sight = Sight(settings, api.parts.engine, api.parts.registry, api.parts.keyring)
        account = await api.parts.registry.account(account.id)
        await client.provision(account)
        found = {point.name: point for point in await check(sight, client, account, echo_seconds=0)}
        assert found["delivery app"].result == "passed", found["delivery app"]
        assert found["write-back"].result == "passed"
    finally:
        await client.close()
        await door.drain(5)


async def test_an_echo_is_a_snapshot_after_our_own_write_and_is_not_judged_while_a_role_is_behind(
    api, sandbox, tenant, monkeypatch
):
    account = await hubspot(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    account = await api.parts.registry.account(account.id)
    client = connect(api.settings, ["hubspot"])["hubspot"]
    contact = sandbox.controls.records(account.id, "contact")[0]
    sight = Sight(api.settings, api.parts.engine, api.parts.registry, api.parts.keyring)
    known = {
        "tenant": tenant, "account": account.id, "object": "contact", "record_id": contact, "content": b"x", "fields": {},
        "modified_at": datetime.now(UTC), "read_at": datetime.now(UTC),
    }  # fmt: skip
    async with api.parts.engine.begin() as connection:
        await connection.execute(hydrator_state.insert().values(known))

    async def echo(behind, *, snapshots: int = 0):
        async def lags(_settings):
            if snapshots:
                ref = RecordRef(tenant, account.id, "contact", contact)
                await api.publisher.publish(RECORDS, [snapshot(ref)] * snapshots)
            return [Lag("hydrator", "hookline.hydrator", "crm.changes", behind, 1.0, 1, "live")]

        monkeypatch.setattr("console.accounts_check.lags", lags)
        points = await check(sight, client, account, record=f"contact/{contact}", echo_seconds=0)
        return next(point.result for point in points if point.name == "echo")

    try:
        await client.provision(account)
        assert await echo(behind=3) == "unknown"
        assert await echo(behind=0) == "passed"
        assert await echo(behind=0, snapshots=1) == "failed"
    finally:
        await client.close()


async def test_a_queued_backfill_is_run_by_the_api_and_gone_on_with_where_a_runner_died(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    account = await api.parts.registry.account(account.id)
    backfills = Backfills(api.parts.engine)
    client = connect(api.settings, ["hubspot"])["hubspot"]
    try:
        first = await plan(api.settings, backfills, client, account, rate=5_000.0)
        second = await plan(api.settings, backfills, client, account, rate=5_000.0)
    finally:
        await client.close()
    # As a runner leaves it that died a minute ago after the companies.
    dead = {"state": "running", "seen_at": datetime.now(UTC) - timedelta(minutes=1), "position": {"company": "end"}}
    await backfills.update(second.id, **dead)
    _, text = await ApiKeys(api.parts.engine).create(tenant, "engineer")
    headers = {"Authorization": f"Bearer {text}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", headers=headers, timeout=30) as caller:
        assert (await caller.post(f"/api/backfills/{first.id}/run")).json()["state"] == "queued"
        async with asyncio.timeout(60):
            while {each["state"] for each in (await caller.get("/api/backfills")).json()} != {"done"}:  # noqa: ASYNC110 -- over HTTP one can only ask again
                await asyncio.sleep(0.2)
        found = {each["id"]: each for each in (await caller.get("/api/backfills")).json()}
        assert (await caller.post(f"/api/backfills/{first.id}/run")).status_code == 409
    assert found[first.id]["records_done"] == first.records
    assert found[second.id]["records_done"] == first.records - first.planned["company"]["records"]


async def test_without_redis_replicas_take_turns_and_no_refresh_token_is_used_twice(api, sandbox, tenant):
    account = await hubspot(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    sandbox.controls.set_rotation(account.id)
    connected = await api.parts.registry.account(account.id)
    settings = api.settings.model_copy(update={"redis_url": None})
    replicas = [connect(settings, ["hubspot"])["hubspot"] for _ in range(3)]
    try:
        assert await asyncio.gather(*(each.identify(connected) for each in replicas)) == [account.id] * 3
        now = await api.parts.registry.account(account.id)
        assert now.credentials["refresh_token"] in sandbox._app.hubspot.oauth.grants
    finally:
        await asyncio.gather(*(each.close() for each in replicas))


async def test_who_lost_the_race_for_a_rotated_token_uses_the_winners(api, sandbox, tenant):
    """INVARIANT: only a refusal of the newest refresh token disconnects an account."""
    account = await hubspot(api, sandbox, tenant)
    await consent(api, account, {"account": account.id})
    before = await api.parts.registry.account(account.id)
    tokens = SharedTokens(api.settings)
    used = []

    async def ask(_account, refresh_token):
        used.append(refresh_token)
        if len(used) == 1:
            await api.parts.registry.rotate_refresh_token(account.id, refresh_token, "the-winners")
            raise GrantRefused("invalid_grant")
        if len(used) == 3:
            raise GrantRefused("invalid_grant")
        return Grant(f"access-{len(used)}", "", 1800.0, "", {})

    try:
        await tokens.forget(account.id)
        assert (await tokens.renewed(before, "", ask)).token == "access-2"
        assert used == [before.credentials["refresh_token"], "the-winners"]
        with pytest.raises(GrantRefused):
            await tokens.renewed(before, "access-2", ask)
    finally:
        await tokens.close()
