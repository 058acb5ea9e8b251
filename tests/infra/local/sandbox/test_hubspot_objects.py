"""hubspot-api-client, unchanged, against the sandbox's objects, properties and associations."""

import json

import pytest
from hubspot.crm.associations.v4 import BatchInputPublicFetchAssociationsBatchRequest
from hubspot.crm.contacts import ApiException as ContactsException
from hubspot.crm.objects import (
    ApiException,
    BatchInputSimplePublicObjectBatchInput,
    BatchInputSimplePublicObjectBatchInputForCreate,
    BatchInputSimplePublicObjectBatchInputUpsert,
    BatchReadInputSimplePublicObjectId,
    PublicObjectSearchRequest,
)
from hubspot.crm.properties import ApiException as PropertiesException
from hubspot.crm.properties import BatchInputPropertyCreate, PropertyCreate, PropertyGroupCreate


def read(hubspot, kind, ids, properties=(), history=()):
    body = {"inputs": [{"id": i} for i in ids], "properties": list(properties), "propertiesWithHistory": list(history)}
    return hubspot.crm.objects.batch_api.read(kind, body)


def update(hubspot, kind, rows):
    return hubspot.crm.objects.batch_api.update(kind, BatchInputSimplePublicObjectBatchInput(inputs=rows))


def error_of(caught):
    return json.loads(caught.value.body)


def test_a_batch_read_returns_the_properties_asked_for_with_their_history(hubspot, controls, portal):
    contact = controls.records(portal, "contact")[0]
    controls.save(portal, "contact", contact, {"city": "Turku"})
    result = read(hubspot, "contacts", [contact], ["city", "no_such_property"], ["city"]).results[0]
    assert result.id == contact
    assert result.properties["city"] == "Turku"
    assert "no_such_property" not in result.properties
    assert result.properties_with_history["city"][0].value == "Turku"
    assert result.properties_with_history["city"][0].source_type == "CRM_UI"


def test_ids_that_do_not_exist_come_back_in_a_207_beside_those_that_do(hubspot, controls, portal):
    contact = controls.records(portal, "contact")[0]
    result = read(hubspot, "contacts", [contact, "4711", "4712"])
    assert [row.id for row in result.results] == [contact]
    assert result.num_errors == 1
    assert result.errors[0].context == {"ids": ["4711", "4712"]}


@pytest.mark.parametrize("verb", ["read", "update", "create", "upsert"])
def test_a_batch_takes_a_hundred_inputs_and_no_more(hubspot, verb):
    inputs = [{"id": str(n), "properties": {}, "objectWriteTraceId": str(n)} for n in range(101)]
    kinds = {
        "read": lambda rows: BatchReadInputSimplePublicObjectId(inputs=rows, properties=[], properties_with_history=[]),
        "update": lambda rows: BatchInputSimplePublicObjectBatchInput(inputs=rows),
        "create": lambda rows: BatchInputSimplePublicObjectBatchInputForCreate(inputs=rows),
        "upsert": lambda rows: BatchInputSimplePublicObjectBatchInputUpsert(inputs=rows),
    }
    call = getattr(hubspot.crm.objects.batch_api, verb)
    with pytest.raises(ApiException) as caught:
        call("companies", kinds[verb](inputs))
    assert caught.value.status == 400
    assert error_of(caught)["category"] == "VALIDATION_ERROR"
    call("companies", kinds[verb](inputs[:100]))


def test_an_update_changes_the_record_and_its_last_modified_time(hubspot, controls, portal):
    deal = controls.records(portal, "deal")[0]
    before = read(hubspot, "deals", [deal], ["hs_lastmodifieddate"]).results[0]
    after = update(hubspot, "deals", [{"id": deal, "properties": {"amount": "4711"}}]).results[0]
    assert after.properties["amount"] == "4711"
    assert after.properties["hs_lastmodifieddate"] > before.properties["hs_lastmodifieddate"]
    assert after.updated_at > before.updated_at


def test_two_saves_within_a_millisecond_have_different_last_modified_times(controls, portal):
    contact = controls.records(portal, "contact")[0]
    times = [controls.save(portal, "contact", contact, {"city": f"City {n}"})["modified_at"] for n in range(50)]
    assert len(set(times)) == 50
    assert times == sorted(times)


def test_an_unknown_property_refuses_the_whole_batch_and_changes_nothing(hubspot, controls, portal):
    one, other = controls.records(portal, "contact")[:2]
    rows = [{"id": one, "properties": {"city": "Turku"}}, {"id": other, "properties": {"hookline_nothing": "1"}}]
    with pytest.raises(ApiException) as caught:
        update(hubspot, "contacts", rows)
    assert caught.value.status == 400
    assert error_of(caught)["errors"][0]["code"] == "PROPERTY_DOESNT_EXIST"
    assert controls.record(portal, "contact", one)["properties"]["city"] != "Turku"


def test_rows_with_a_trace_id_fail_alone_and_are_named_by_it(hubspot, controls, portal):
    one = controls.records(portal, "contact")[0]
    rows = [
        {"id": one, "properties": {"city": "Turku"}, "objectWriteTraceId": "row-1"},
        {"id": "4711", "properties": {"city": "Turku"}, "objectWriteTraceId": "row-2"},
        {"id": "4712", "properties": {"nothing_like_it": "1"}, "objectWriteTraceId": "row-3"},
    ]
    result = update(hubspot, "contacts", rows)
    assert [row.object_write_trace_id for row in result.results] == ["row-1"]
    assert {error.context["objectWriteTraceId"][0]: error.category for error in result.errors} == {
        "row-2": "OBJECT_NOT_FOUND",
        "row-3": "VALIDATION_ERROR",
    }


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("lifecyclestage", "nonsense", "INVALID_OPTION"),
        ("num_notes", "5", "READ_ONLY_VALUE"),
        ("notes_last_contacted", "soon", "INVALID_DATE"),
        ("hs_email_optout", "perhaps", "INVALID_BOOLEAN"),
    ],
)
def test_values_that_do_not_fit_their_property_are_refused(hubspot, controls, portal, name, value, code):
    contact = controls.records(portal, "contact")[0]
    with pytest.raises(ApiException) as caught:
        update(hubspot, "contacts", [{"id": contact, "properties": {name: value}}])
    assert error_of(caught)["errors"][0]["code"] == code


def test_upsert_creates_by_a_unique_property_and_then_updates(hubspot):
    row = {"id": "nils@fjord.example", "idProperty": "email", "properties": {"firstname": "Nils"}}
    body = BatchInputSimplePublicObjectBatchInputUpsert(inputs=[row])
    first = hubspot.crm.objects.batch_api.upsert("contacts", body).results[0]
    second = hubspot.crm.objects.batch_api.upsert("contacts", body).results[0]
    assert (first.new, second.new) == (True, False)
    assert first.id == second.id


def test_a_contact_with_an_address_that_is_taken_is_a_conflict(hubspot):
    hubspot.crm.contacts.basic_api.create({"properties": {"email": "a@b.example"}})
    with pytest.raises(ContactsException) as caught:
        hubspot.crm.contacts.basic_api.create({"properties": {"email": "A@b.example"}})
    assert caught.value.status == 409


def test_a_record_is_created_read_changed_listed_and_archived(hubspot):
    api = hubspot.crm.companies.basic_api
    made = api.create({"properties": {"name": "Fjord Instruments", "domain": "fjord.example"}})
    assert api.get_by_id(made.id, properties=["name"]).properties["name"] == "Fjord Instruments"
    api.update(made.id, {"properties": {"city": "Bergen"}})
    pages = hubspot.crm.companies.get_all(properties=["city"])
    assert {row.id: row for row in pages}[made.id].properties["city"] == "Bergen"
    api.archive(made.id)
    assert made.id not in {row.id for row in hubspot.crm.companies.get_all()}
    with pytest.raises(Exception, match="404"):
        api.get_by_id(made.id)


def test_search_filters_sorts_and_pages(hubspot, controls, portal):
    request = PublicObjectSearchRequest(
        filter_groups=[{"filters": [{"propertyName": "amount", "operator": "GTE", "value": "1000"}]}],
        sorts=[{"propertyName": "amount", "direction": "DESCENDING"}],
        properties=["amount"],
        limit=3,
    )
    first = hubspot.crm.objects.search_api.do_search("deals", request)
    assert first.total == len(controls.records(portal, "deal"))
    request.after = first.paging.next.after
    second = hubspot.crm.objects.search_api.do_search("deals", request)
    amounts = [float(row.properties["amount"]) for row in [*first.results, *second.results]]
    assert amounts == sorted(amounts, reverse=True)
    assert len(amounts) == 6


def test_properties_and_groups_are_created_read_and_archived(hubspot):
    api = hubspot.crm.properties
    api.groups_api.create("contacts", PropertyGroupCreate(name="hookline", label="Hookline"))
    definition = PropertyCreate(
        name="hookline_score",
        label="Score",
        type="number",
        field_type="number",
        group_name="hookline",
        description="0 to 100",
    )
    assert api.core_api.create("contacts", definition).name == "hookline_score"
    with pytest.raises(PropertiesException) as caught:
        api.core_api.create("contacts", definition)
    assert caught.value.status == 409
    found = {row.name: row for row in api.core_api.get_all("contacts").results}
    assert found["hookline_score"].group_name == "hookline"
    assert found["email"].hubspot_defined
    api.core_api.archive("contacts", "hookline_score")
    assert "hookline_score" not in {row.name for row in api.core_api.get_all("contacts").results}


def test_a_property_in_a_group_that_does_not_exist_is_refused(hubspot):
    rows = [PropertyCreate(name="x_score", label="Score", type="number", field_type="number", group_name="no_group")]
    result = hubspot.crm.properties.batch_api.create("deals", BatchInputPropertyCreate(inputs=rows))
    assert result.num_errors == 1
    assert result.errors[0].context == {"name": ["x_score"]}


def test_associations_are_read_in_a_batch_and_none_is_an_error_row(hubspot, controls, portal):
    deal = controls.records(portal, "deal")[0]
    made = controls.note(portal, deal, "They must have single sign-on.")
    body = BatchInputPublicFetchAssociationsBatchRequest(inputs=[{"id": deal}, {"id": "4711"}])
    result = hubspot.crm.associations.v4.batch_api.get_page("deals", "notes", body)
    assert made["id"] in {target.to_object_id for target in result.results[0].to}
    assert result.results[0].to[0].association_types[0].type_id == 213
    assert result.errors[0].context["fromObjectId"] == ["4711"]
    assert result.errors[0].sub_category == "crm.associations.NO_ASSOCIATIONS_FOUND"


def test_a_note_is_created_through_the_api_with_its_associations(hubspot, controls, portal):
    deal = controls.records(portal, "deal")[0]
    before = controls.record(portal, "deal", deal)["modified_at"]
    types = [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 214}]
    row = {
        "properties": {"hs_note_body": "Hello", "hs_timestamp": "1795387410275"},
        "associations": [{"to": {"id": deal}, "types": types}],
    }
    note = hubspot.crm.objects.notes.basic_api.create(row)
    assert note.id in controls.record(portal, "deal", deal)["links"]["notes"]
    assert controls.record(portal, "deal", deal)["modified_at"] > before
    assert note.properties["hs_timestamp"] == "2026-11-22T22:43:30.275Z"


def test_a_merge_folds_one_record_into_the_other(hubspot, controls, portal):
    winner, loser = controls.records(portal, "contact")[:2]
    hubspot.crm.contacts.basic_api.merge({"primaryObjectId": winner, "objectIdToMerge": loser})
    assert loser not in controls.records(portal, "contact")
    assert controls.record(portal, "contact", loser)["gone"] == "merged"
