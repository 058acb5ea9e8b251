"""Who may call HubSpot's API, how often, and what planted faults do."""

import json

import httpx
import pytest
from hubspot import HubSpot
from hubspot.crm.contacts import ApiException
from hubspot.oauth import ApiException as OAuthException


def status_of(call):
    try:
        call()
    except ApiException as error:
        return error.status, json.loads(error.body)
    return 200, {}


def page(client):
    return client.crm.contacts.basic_api.get_page(limit=1)


def test_unknown_and_revoked_tokens_are_refused_with_401(sandbox, hubspot, controls):
    assert status_of(lambda: page(HubSpot(access_token="nobody", host=sandbox.base)))[0] == 401
    page(hubspot)
    controls.revoke_token("token-of-hookline")
    status, body = status_of(lambda: page(hubspot))
    assert (status, body["category"]) == (401, "INVALID_AUTHENTICATION")


def test_a_salesforce_session_opens_no_portal(sandbox, portal, org):
    assert status_of(lambda: page(HubSpot(access_token="session-of-hookline", host=sandbox.base)))[0] == 401


def test_a_refresh_token_brings_an_access_token_for_its_portal(sandbox, controls, receiver):
    controls.create_app(7, "secret", receiver.url, client_id="client")
    controls.create_portal(33, 7, "first", refresh_token="refresh")
    api = HubSpot(host=sandbox.base).oauth.tokens_api
    granted = api.create(
        grant_type="refresh_token", refresh_token="refresh", client_id="client", client_secret="secret"
    )
    assert granted.expires_in == 1800
    client = HubSpot(access_token=granted.access_token, host=sandbox.base)
    assert page(client).results
    assert client.oauth.access_tokens_api.get(granted.access_token).hub_id == 33
    with pytest.raises(OAuthException):
        api.create(grant_type="refresh_token", refresh_token="refresh", client_id="client", client_secret="wrong")


def test_the_dated_token_path_answers_alike(sandbox, controls, receiver):
    controls.create_app(7, "secret", receiver.url, client_id="client")
    controls.create_portal(33, 7, refresh_token="refresh")
    form = {"grant_type": "refresh_token", "refresh_token": "refresh", "client_id": "client", "client_secret": "secret"}
    assert httpx.post(f"{sandbox.base}/oauth/2026-03/token", data=form).json()["token_type"] == "bearer"


def test_too_many_calls_within_ten_seconds_meet_429_and_say_so_in_headers(sandbox, hubspot, controls, portal):
    controls.set_limits(portal, per_ten_seconds=3, daily=1000)
    headers = {"Authorization": "Bearer token-of-hookline"}
    answers = [httpx.get(f"{sandbox.base}/crm/v3/objects/contacts", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["X-HubSpot-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[0].headers["X-HubSpot-RateLimit-Max"] == "3"
    assert answers[0].headers["X-HubSpot-RateLimit-Interval-Milliseconds"] == "10000"
    assert answers[0].headers["X-HubSpot-RateLimit-Daily-Remaining"] == "999"
    assert answers[3].json()["policyName"] == "TEN_SECONDLY_ROLLING"
    controls.set_limits(portal, per_ten_seconds=190)
    page(hubspot)


def test_searches_have_a_limit_a_second_of_their_own(sandbox, controls, portal):
    controls.set_limits(portal, search_per_second=2)
    headers = {"Authorization": "Bearer token-of-hookline"}
    found = [
        httpx.post(f"{sandbox.base}/crm/v3/objects/contacts/search", headers=headers, json={}).status_code
        for _ in range(3)
    ]
    assert found == [200, 200, 429]


@pytest.mark.parametrize("kind", ["401", "403", "423", "429", "500", "502", "503"])
def test_a_planted_fault_is_met_once_by_the_operation_it_names(hubspot, controls, portal, kind):
    controls.plant_fault(portal, "objects.list", kind)
    assert status_of(lambda: page(hubspot))[0] == int(kind)
    page(hubspot)


def test_a_fault_for_another_operation_is_not_met(hubspot, controls, portal):
    controls.plant_fault(portal, "objects.batch_*", "500")
    page(hubspot)
    controls.clear_faults()
    hubspot.crm.contacts.batch_api.read({"inputs": [], "properties": [], "propertiesWithHistory": []})


def test_a_planted_207_lets_the_first_rows_of_an_update_fail(hubspot, controls, portal):
    ids = controls.records(portal, "contact")[:3]
    controls.plant_fault(portal, "objects.batch_update", "207", rows=2)
    rows = [{"id": i, "properties": {"city": "Turku"}, "objectWriteTraceId": i} for i in ids]
    result = hubspot.crm.contacts.batch_api.update({"inputs": rows})
    assert [row.id for row in result.results] == ids[2:]
    assert [error.context["objectWriteTraceId"][0] for error in result.errors] == ids[:2]
    assert controls.record(portal, "contact", ids[0])["properties"]["city"] != "Turku"


def test_latency_holds_an_answer_back_and_a_timeout_loses_it(sandbox, controls, portal):
    headers = {"Authorization": "Bearer token-of-hookline"}
    controls.plant_fault(portal, "*", "latency", ms=60)
    answered = httpx.get(f"{sandbox.base}/crm/v3/objects/contacts", headers=headers)
    assert answered.status_code == 200
    assert answered.elapsed.total_seconds() >= 0.06
    controls.plant_fault(portal, "*", "timeout", ms=2_000)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{sandbox.base}/crm/v3/objects/contacts", headers=headers, timeout=0.05)


def test_a_body_that_is_no_json_is_refused_in_the_vendors_shape(sandbox, portal):
    headers = {"Authorization": "Bearer token-of-hookline"}
    for body in (b"[1]", b"{", b"\xff", b"[" * 100_000):
        answered = httpx.post(f"{sandbox.base}/crm/v3/objects/contacts/batch/read", headers=headers, content=body)
        assert (answered.status_code, answered.json()["category"]) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/crm/v3/objects/contacts/batch/read", {"inputs": [1]}),
        ("POST", "/crm/v3/objects/contacts/batch/read", {}),
        ("POST", "/crm/v3/objects/contacts/batch/update", {"inputs": [{"id": "1", "properties": "x"}]}),
        ("POST", "/crm/v3/objects/contacts", {"properties": [1]}),
        ("POST", "/crm/v3/objects/contacts/search", {"filterGroups": [1], "limit": "x"}),
        ("POST", "/crm/v4/associations/deals/contacts/batch/create", {"inputs": [{"from": 1}]}),
        ("POST", "/crm/v3/properties/contacts", {"name": "x"}),
        ("GET", "/crm/v3/objects/contacts?limit=x", None),
    ],
)
def test_input_of_the_wrong_shape_is_a_400_in_the_vendors_shape(sandbox, portal, method, path, body):
    headers = {"Authorization": "Bearer token-of-hookline"}
    answered = httpx.request(method, sandbox.base + path, headers=headers, json=body)
    assert (answered.status_code, answered.json()["category"]) == (400, "VALIDATION_ERROR")
