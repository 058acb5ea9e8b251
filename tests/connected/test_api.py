"""The HTTP API as its callers meet it: over HTTP, with keys, two tenants beside one another."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import positive_data_acceptance

from console.api.app import build_app
from console.api.openapi import document
from console.api.operations import OPERATIONS
from infra.accounts.keys import ApiKeys
from infra.database.tables import api_keys, insights
from infra.settings import SettingsError

EXAMPLES = int(os.environ.get("FUZZ_API_EXAMPLES", "0"))
"""Calls drawn per operation; 0: a few, of those that answer from PostgreSQL alone."""
pytestmark = [pytest.mark.connected, pytest.mark.timeout(3_600 if EXAMPLES else 180)]
SECRET = "client-secret-of-the-app-0d55ecae"


@pytest.fixture
async def api(settings):
    role = build_app(settings.model_copy(update={"api_port": 0}))
    await role.start()
    yield role
    await role.drain(5)


@pytest.fixture
async def keys(api, tenant):
    """Texts of keys: of the tenant by role, and `other`: an admin of another one."""
    await api.parts.registry.add_tenant(tenant)
    await api.parts.registry.add_tenant(f"{tenant}x")
    table = ApiKeys(api.parts.engine)
    found = {role: (await table.create(tenant, role))[1] for role in ("viewer", "engineer", "admin")}
    return {**found, "other": (await table.create(f"{tenant}x", "admin"))[1]}


@pytest.fixture
async def call(api, keys):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", timeout=30) as client:

        async def send(method: str, path: str, role: str = "admin", **more):
            text = keys.get(role, role)
            return await client.request(method, path, headers={"Authorization": f"Bearer {text}"}, **more)

        yield send


async def test_every_operation_asks_for_a_key_of_a_sufficient_role(api, keys, call):
    """INVARIANT: nothing is open. If it fails, whoever reaches the port reads or changes a customer's set-up."""
    ranks = ("viewer", "engineer", "admin")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}") as anybody:
        for each in OPERATIONS:
            path = "/api" + each.path.replace("{", "x").replace("}", "")
            for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {keys['admin']}"}):
                answer = await anybody.request(each.method, path, headers=headers)
                assert answer.status_code == 401, each.name
                assert answer.headers["content-type"] == "application/problem+json"
            for role in ranks[: ranks.index(each.role)]:
                refused = await call(each.method, path, role)
                assert (refused.status_code, refused.json()["remedy"][:3]) == (403, "Use"), (each.name, role)
        assert (await anybody.get("/api/openapi.json")).status_code == 401
        assert (await anybody.get("/nowhere")).status_code == 401


async def test_a_key_of_one_tenant_sees_nothing_of_another(api, tenant, call):
    """INVARIANT: a tenant's key reaches no other tenant's rows, by list, by id or by change."""
    number = f"hubspot:{int(tenant[1:], 16) % 10**9 + 1}"
    registry = api.parts.registry
    endpoint = await registry.add_endpoint(tenant, "hubspot", "theirs", secret=SECRET)
    await registry.add_account(
        tenant, "hubspot", number, credentials={"access_token": "token-1"}, endpoints=[endpoint.id]
    )
    planned = (await call("GET", "/api/keys", "admin")).json()
    for path in ("/api/endpoints", "/api/accounts", "/api/insights", "/api/backfills", "/api/requests"):
        own, foreign = await call("GET", path), await call("GET", path, "other")
        assert own.status_code == foreign.status_code == 200, own.text
        assert foreign.json() == []
    assert [each["id"] for each in (await call("GET", "/api/accounts")).json()] == [number]
    assert {each["tenant"] for each in (await call("GET", "/api/keys", "other")).json()} == {f"{tenant}x"}
    for method, path, body in (
        ("GET", f"/api/accounts/{number}", None),
        ("GET", f"/api/endpoints/{endpoint.id}", None),
        ("GET", "/api/endpoints/theirs", None),
        ("PUT", f"/api/endpoints/{endpoint.id}/enabled", {"enabled": False}),
        ("POST", f"/api/endpoints/{endpoint.id}/rotate-secret", {"secret": SECRET + "2"}),
        ("PUT", f"/api/accounts/{number}/credentials", {"credentials": {"access_token": "mine"}}),
        ("POST", f"/api/accounts/{number}/connect", None),
        ("POST", "/api/backfills", {"account": number}),
        ("DELETE", f"/api/keys/{planned[0]['id']}", None),
    ):
        answer = await call(method, path, "other", **({"json": body} if body else {}))
        assert answer.status_code == 404, (path, answer.text)
        assert SECRET not in answer.text
    # Nor may it be taken over by registering it again.
    taken = await call(
        "POST", "/api/accounts", "other", json={"crm": "hubspot", "id": number, "credentials": {"access_token": "x"}}
    )
    assert taken.status_code == 422
    assert (await registry.account(number)).credentials == {"access_token": "token-1"}
    assert (await registry.endpoint(endpoint.id)).enabled
    status = (await call("GET", "/api/status", "other")).json()
    assert status["accounts"] == status["set_aside"] == status["dead_letters"] == []


async def test_endpoints_and_accounts_are_made_shown_and_never_give_a_secret_back(call, tenant):
    number = f"hubspot:{int(tenant[1:], 16) % 10**9 + 2}"
    made = await call(
        "POST",
        "/api/endpoints",
        json={"source": "hubspot", "name": "app", "secret": SECRET, "config": {"app_id": "77"}},
    )
    assert made.status_code == 201, made.text
    weak = await call("POST", "/api/endpoints", json={"source": "hubspot", "name": "app", "secret": "x"})
    assert weak.status_code == 422
    assert weak.json()["remedy"]
    added = await call(
        "POST",
        "/api/accounts",
        json={
            "crm": "hubspot",
            "id": number,
            "credentials": {"client_id": "c", "client_secret": "cs-1"},
            "endpoints": ["app"],
        },
    )
    assert added.status_code == 201, added.text
    assert added.json()["state"] == "disconnected"
    assert added.json()["credentials"] == ["client_id", "client_secret"]
    seen = (await call("GET", "/api/endpoints/app")).text + (await call("GET", f"/api/accounts/{number}")).text
    assert SECRET not in seen
    assert "cs-1" not in seen
    way = (await call("POST", f"/api/accounts/{number}/connect")).json()
    assert way["redirect_uri"].endswith("/oauth/hubspot/callback")
    assert way["authorize_url"].startswith("https://app.hubspot.com/oauth/authorize?client_id=c&")
    own = await call("POST", "/api/endpoints", json={"source": "salesforce", "name": "sf"})
    assert "/hooks/" in own.json()["url"]
    for_viewers = (await call("GET", "/api/endpoints/sf", "viewer")).json()
    assert for_viewers["url"] is None
    assert own.json()["id"] not in str(for_viewers)


async def test_a_key_ends_when_it_is_revoked_or_expires_and_is_kept_as_a_digest(api, call, keys, tenant):
    made = (await call("POST", "/api/keys", json={"role": "viewer", "name": "dashboard"})).json()
    assert (await call("GET", "/api/tenant", made["key"])).json() | {"key": ""} == {
        "id": tenant, "name": tenant, "changes_per_second": 100, "changes_burst": 100, "key": "", "role": "viewer",
    }  # fmt: skip
    assert (await call("GET", "/api/tenant", made["key"][:-1] + "!")).status_code == 401
    async with api.parts.engine.connect() as connection:
        rows = str((await connection.execute(sa.select(api_keys))).all())
    for text in (*keys.values(), made["key"]):
        assert text[-20:] not in rows
    assert (await call("DELETE", f"/api/keys/{made['id']}")).json()["state"] == "revoked"
    assert (await call("GET", "/api/tenant", made["key"])).status_code == 401
    async with api.parts.engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await connection.execute(api_keys.update().where(api_keys.c.tenant == tenant).values(expires_at=past))
    assert (await call("GET", "/api/tenant")).status_code == 401


async def test_insights_are_the_tenants_own(api, call, tenant):
    values = {
        "account": "hubspot:1", "object": "deal", "record_id": "7", "analysis": "lead_intel", "epoch": 1, "snapshot_offset": 3,
        "generation": 1, "crm": "hubspot", "as_of": datetime.now(UTC), "analyzed_at": datetime.now(UTC), "model": "offline-rules",
        "prompt_version": "1", "payload": None, "retracted": True,
    }  # fmt: skip
    async with api.parts.engine.begin() as connection:
        await connection.execute(insights.insert(), [{**values, "tenant": tenant}, {**values, "tenant": f"{tenant}x"}])
    found = (await call("GET", "/api/insights?object=deal&record=7", "viewer")).json()
    assert [(each["tenant"], each["id"]) for each in found] == [(tenant, "7")]


async def test_what_is_malformed_is_a_problem_with_a_remedy(call):
    for method, path, more, status in (
        ("POST", "/api/keys", {"content": b"{", "headers_": 1}, 415),
        ("POST", "/api/keys", {"json": {"role": "root"}}, 422),
        ("POST", "/api/keys", {"json": {"rule": "viewer"}}, 422),
        ("GET", "/api/requests?limit=0", {}, 422),
        ("GET", "/api/requests?since=yesterday", {}, 422),
        ("GET", "/api/requests?limit=1&limit=2", {}, 422),
        ("GET", "/api/tenant?x=1", {}, 422),
        ("PATCH", "/api/tenant", {}, 405),
        ("GET", "/api/dead-letters/99999999999999999999-1", {}, 404),
        ("POST", "/api/keys", {"content": b"x" * 300_000}, 413),
    ):
        more.pop("headers_", None)
        answer = await call(method, path, **more)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["remedy"]
        assert answer.headers["cache-control"] == "no-store"


async def test_it_binds_no_address_that_others_can_reach_unless_told(settings):
    with pytest.raises(SettingsError, match="HOOKLINE_API_ALLOW_REMOTE"):
        await build_app(settings.model_copy(update={"api_port": 0, "api_host": "0.0.0.0"})).start()


def test_the_document_is_valid_openapi_and_names_every_role():
    made = document(OPERATIONS)
    validate(made)
    assert all("role" in each["description"] for path in made["paths"].values() for each in path.values())


CALLING_OUT = (
    "check_account",
    "provision_account",
    "connect_account",
    "plan_backfill",
    "show_status",
    "list_requests",
    "redrive_dead_letters",
    "discard_dead_letters",
    "list_dead_letters",
    "show_dead_letter",
    "show_account",
    "retry_request",
)
"""They read Kafka or a CRM, which takes seconds a call: `make fuzz-api` has them too."""


async def test_any_call_is_answered_as_the_document_says(api, keys):
    """Schemathesis draws calls from the document, fitting and not, and judges the answers by it."""
    schema = schemathesis.openapi.from_dict(document(OPERATIONS))
    if not EXAMPLES:
        schema = schema.exclude(operation_id=list(CALLING_OUT))
    schema = schema.exclude(operation_id=["revoke_key"])  # it would end the key that it calls with
    base = f"http://127.0.0.1:{api.port}"
    headers = {"Authorization": f"Bearer {keys['admin']}"}

    def run() -> int:
        calls = 0
        for found in schema.get_all_operations():
            operation = found.ok()

            @hypothesis_settings(
                max_examples=EXAMPLES or 4, deadline=None, database=None, derandomize=not EXAMPLES,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def one(case):
                nonlocal calls
                calls += 1
                # What a schema cannot say (is there such an account? does the secret count?) is answered with 422.
                case.call_and_validate(base_url=base, headers=headers, excluded_checks=[positive_data_acceptance])

            one()
        return calls

    assert await asyncio.to_thread(run) > 10
