"""The sandbox's answers against HubSpot's OpenAPI documents."""

import json
from pathlib import Path

import httpx
import pytest
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse
from openapi_schema_validator import OAS30Validator, validate

DOCUMENTS = Path(__file__).parents[3] / "data" / "hubspot-openapi"
HOST = "https://api.hubapi.com"


def document(name):
    loaded = json.loads((DOCUMENTS / f"{name}.json").read_text())
    schemas = loaded["components"]["schemas"]
    for schema in schemas.values():
        # The wire says null for a property without a value, which the documents leave out.
        values = schema.get("properties", {}).get("properties", {}).get("additionalProperties")
        if values:
            values["nullable"] = True
    # The wire says a string such as crm.associations.NO_ASSOCIATIONS_FOUND, the documents an object.
    schemas["StandardError"]["properties"]["subCategory"] = {"type": "string"}
    return loaded


LOADED = {name: document(name) for name in ("contacts", "companies", "deals", "notes", "properties", "associations_v4")}
APIS = {name: OpenAPI.from_dict(loaded) for name, loaded in LOADED.items()}


@pytest.fixture
def call(sandbox, portal):
    """Send a request, and hold both it and its answer against the document."""
    with httpx.Client(base_url=sandbox.base, headers={"Authorization": "Bearer token-of-hookline"}) as client:

        def send(name, method, path, body=None, params=None, expect=200):
            answered = client.request(method, path, json=body, params=params)
            assert answered.status_code == expect, answered.text
            data = json.dumps(body).encode() if body is not None else None
            asked = MockRequest(
                HOST, method.lower(), path, args=params, data=data, headers={"Authorization": "Bearer x"}
            )
            APIS[name].validate_request(asked)
            if answered.content:
                told = MockResponse(answered.content, answered.status_code, content_type="application/json")
                APIS[name].validate_response(asked, told)
                return answered.json()
            return None

        yield send


@pytest.mark.parametrize(("plural", "singular"), [("contacts", "contact"), ("companies", "company"), ("deals", "deal")])
def test_batch_read_update_and_create(call, controls, portal, plural, singular):
    ids = controls.records(portal, singular)[:3]
    base = f"/crm/v3/objects/{plural}"
    reading = {
        "inputs": [{"id": i} for i in ids],
        "properties": ["hs_object_id", "phone"],
        "propertiesWithHistory": ["phone"],
    }
    assert len(call(plural, "POST", f"{base}/batch/read", reading)["results"]) == 3
    reading["inputs"].append({"id": "4711"})
    assert call(plural, "POST", f"{base}/batch/read", reading, expect=207)["numErrors"] == 1
    text = {"contacts": "city", "companies": "city", "deals": "hs_next_step"}[plural]
    rows = [{"id": i, "properties": {text: "x"}, "objectWriteTraceId": f"t{i}"} for i in ids]
    call(plural, "POST", f"{base}/batch/update", {"inputs": rows})
    rows.append({"id": "4711", "properties": {text: "x"}, "objectWriteTraceId": "gone"})
    rows.append({"id": "4712", "properties": {"nothing": "x"}, "objectWriteTraceId": "bad"})
    assert call(plural, "POST", f"{base}/batch/update", {"inputs": rows}, expect=207)["numErrors"] == 2
    made = [{"properties": {text: "y"}, "associations": [], "objectWriteTraceId": "a"}]
    call(plural, "POST", f"{base}/batch/create", {"inputs": made}, expect=201)
    made.append({"properties": {"nothing": "y"}, "associations": [], "objectWriteTraceId": "b"})
    assert call(plural, "POST", f"{base}/batch/create", {"inputs": made}, expect=207)["numErrors"] == 1


def test_batch_upsert(call):
    row = {"id": "a@b.example", "idProperty": "email", "properties": {"firstname": "A"}, "objectWriteTraceId": "1"}
    assert call("contacts", "POST", "/crm/v3/objects/contacts/batch/upsert", {"inputs": [row]})["results"][0]["new"]
    bad = {"id": "c@d.example", "idProperty": "email", "properties": {"nothing": "A"}, "objectWriteTraceId": "2"}
    assert (
        call("contacts", "POST", "/crm/v3/objects/contacts/batch/upsert", {"inputs": [row, bad]}, expect=207)[
            "numErrors"
        ]
        == 1
    )


def test_single_records(call, controls, portal):
    deal = controls.records(portal, "deal")[0]
    found = call(
        "deals",
        "GET",
        f"/crm/v3/objects/deals/{deal}",
        params={"properties": "amount,hs_next_step", "associations": "contacts"},
    )
    assert found["associations"]["contacts"]["results"]
    call("deals", "PATCH", f"/crm/v3/objects/deals/{deal}", {"properties": {"amount": "5"}})
    made = call(
        "deals", "POST", "/crm/v3/objects/deals", {"properties": {"dealname": "x"}, "associations": []}, expect=201
    )
    page = call("deals", "GET", "/crm/v3/objects/deals", params={"limit": "2"})
    assert page["paging"]["next"]["after"]
    call("deals", "DELETE", f"/crm/v3/objects/deals/{made['id']}", expect=204)


def test_search(call):
    body = {"query": "", "limit": 2, "after": "0", "sorts": ["-amount"], "properties": ["amount"], "filterGroups": []}
    assert call("deals", "POST", "/crm/v3/objects/deals/search", body)["total"] > 2


def test_notes(call, controls, portal):
    deal = controls.records(portal, "deal")[0]
    note = controls.note(portal, deal, "Hello")["id"]
    body = {"inputs": [{"id": note}], "properties": ["hs_note_body", "hubspot_owner_id"], "propertiesWithHistory": []}
    assert (
        call("notes", "POST", "/crm/v3/objects/notes/batch/read", body)["results"][0]["properties"]["hs_note_body"]
        == "Hello"
    )


def test_properties(call):
    base = "/crm/v3/properties/contacts"
    call("properties", "GET", base)
    call("properties", "POST", f"{base}/groups", {"name": "hookline", "label": "Hookline"}, expect=201)
    call("properties", "GET", f"{base}/groups")
    made = {
        "name": "hookline_score",
        "label": "Score",
        "type": "number",
        "fieldType": "number",
        "groupName": "hookline",
    }
    call("properties", "POST", base, made, expect=201)
    call("properties", "GET", f"{base}/hookline_score")
    call("properties", "PATCH", f"{base}/hookline_score", {"label": "Lead score"})
    rows = [{**made, "name": f"hookline_{n}"} for n in ("grade", "summary")]
    call("properties", "POST", f"{base}/batch/create", {"inputs": rows}, expect=201)
    assert call("properties", "POST", f"{base}/batch/create", {"inputs": rows}, expect=207)["numErrors"] == 2
    names = {"archived": False, "inputs": [{"name": "email"}, {"name": "hookline_score"}]}
    call("properties", "POST", f"{base}/batch/read", names)
    names["inputs"].append({"name": "nothing"})
    call("properties", "POST", f"{base}/batch/read", names, expect=207)
    call("properties", "DELETE", f"{base}/hookline_score", expect=204)


def test_associations(call, controls, portal):
    deal = controls.records(portal, "deal")[0]
    contact = controls.records(portal, "contact")[-1]
    base = "/crm/v4/associations/deals/contacts/batch"
    assert call("associations_v4", "POST", f"{base}/read", {"inputs": [{"id": deal}]})["results"]
    call("associations_v4", "POST", f"{base}/read", {"inputs": [{"id": deal}, {"id": "4711"}]}, expect=207)
    pair = {"from": {"id": deal}, "to": {"id": contact}}
    call("associations_v4", "POST", f"{base}/associate/default", {"inputs": [pair]})
    call("associations_v4", "GET", f"/crm/v4/objects/deals/{deal}/associations/contacts")
    call(
        "associations_v4",
        "POST",
        f"{base}/archive",
        {"inputs": [{"from": pair["from"], "to": [pair["to"]]}]},
        expect=204,
    )
    typed = {**pair, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 3}]}
    call("associations_v4", "POST", f"{base}/create", {"inputs": [typed]}, expect=201)


def test_errors_have_the_vendors_shape(sandbox, portal):
    requests = [
        ("GET", "/crm/v3/objects/contacts", {}, 401),
        ("GET", "/crm/v3/objects/unheard_of", {"Authorization": "Bearer token-of-hookline"}, 400),
        ("GET", "/crm/v3/objects/contacts/4711", {"Authorization": "Bearer token-of-hookline"}, 404),
        ("GET", "/crm/v9/nothing", {"Authorization": "Bearer token-of-hookline"}, 404),
    ]
    schema = {**LOADED["contacts"]["components"]["schemas"]["Error"], "components": LOADED["contacts"]["components"]}
    for method, path, headers, status in requests:
        answered = httpx.request(method, sandbox.base + path, headers=headers)
        assert answered.status_code == status
        validate(answered.json(), schema, cls=OAS30Validator)
