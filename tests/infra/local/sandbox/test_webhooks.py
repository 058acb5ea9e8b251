"""Webhooks as they arrive: signed, in the vendors' shapes, retried, doubled, echoed."""

import json
import socket
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hubspot.utils.signature import Signature

from infra.local.sandbox.journal import Journal
from infra.local.sandbox.soap import acknowledged

SAMPLES = Path(__file__).parents[3] / "data"
PUBLISHED = json.loads((SAMPLES / "hubspot-samples" / "webhook_batches.json").read_text())
APP, SECRET = 14947547, "0d55ecae-dd5e-4b3c"
SOAP = "{http://soap.sforce.com/2005/09/outbound}"
SF = "{urn:sobject.enterprise.soap.sforce.com}"


def events(received):
    return [event for one in received for event in json.loads(one.body)]


def shape(event):
    return {name: type(value).__name__ for name, value in event.items()}


def kinds(found):
    return {event["subscriptionType"] for event in found}


def make(controls, receiver, **app):
    controls.create_app(APP, SECRET, f"{receiver.url}/hook", **app)
    controls.create_portal(145883449, APP, "token-of-hookline")
    return "hubspot:145883449"


def test_one_save_arrives_as_one_signed_request_with_an_event_a_property(sandbox, controls, receiver, portal):
    contact = controls.records(portal, "contact")[0]
    controls.save(portal, "contact", contact, {"city": "Turku", "jobtitle": "Kapteeni"})
    (one,) = receiver.take_all(sandbox)
    found = json.loads(one.body)
    assert {(event["propertyName"], event["propertyValue"]) for event in found} == {
        ("city", "Turku"),
        ("jobtitle", "Kapteeni"),
    }
    assert {event["occurredAt"] for event in found} == {found[0]["occurredAt"]}
    assert {event["attemptNumber"] for event in found} == {0}
    assert found[0]["objectId"] == int(contact)
    assert (found[0]["changeSource"], found[0]["sourceId"]) == ("CRM_UI", "userId:10000001")
    # Signed is the uri with its escapes decoded, which HubSpot's own library leaves to its caller.
    uri = f"{receiver.url}/hooks/hubspot?tenant=a/b"
    stamp = one.headers["x-hubspot-request-timestamp"]
    given = {"http_uri": uri, "http_method": "POST", "signature_version": "v3", "timestamp": stamp}
    assert Signature.is_valid(one.headers["x-hubspot-signature-v3"], SECRET, one.body.decode(), **given)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_older_signatures_hold(sandbox, controls, receiver, version):
    account = make(controls, receiver, signature_version=version, public_url="https://hooks.acme.example/in")
    controls.save(account, "deal", controls.records(account, "deal")[0], {"hs_next_step": "Zoë ruft an"})
    (one,) = receiver.take_all(sandbox)
    given = {"http_uri": "https://hooks.acme.example/in", "http_method": "POST", "signature_version": version}
    assert Signature.is_valid(one.headers["x-hubspot-signature"], SECRET, one.body.decode(), **given)
    assert "x-hubspot-signature-v3" not in one.headers


def test_a_save_that_changes_nothing_sends_nothing(sandbox, controls, receiver, portal):
    contact = controls.records(portal, "contact")[0]
    controls.save(portal, "contact", contact, {"city": "Turku"})
    assert len(receiver.take_all(sandbox)) == 1
    before = controls.record(portal, "contact", contact)["modified_at"]
    controls.save(portal, "contact", contact, {"city": "Turku"})
    assert receiver.take_all(sandbox) == []
    assert controls.record(portal, "contact", contact)["modified_at"] == before


def test_generic_events_have_the_published_shape(sandbox, controls, receiver):
    account = make(controls, receiver, form="generic")
    controls.save(account, "contact", controls.records(account, "contact")[0], {"email": "a@b.example"})
    (event,) = events(receiver.take_all(sandbox))
    assert shape(event) == shape(PUBLISHED["generic_contact_change"]["batch"][0])
    assert (event["subscriptionType"], event["objectTypeId"]) == ("object.propertyChange", "0-1")


def test_legacy_events_have_the_published_shape(sandbox, controls, receiver):
    account = make(controls, receiver, form="legacy")
    controls.save(account, "contact", controls.records(account, "contact")[0], {"email": "a@b.example"})
    (event,) = events(receiver.take_all(sandbox))
    assert shape(event) == shape(PUBLISHED["own_write_echo"]["batch"][0])
    assert event["subscriptionType"] == "contact.propertyChange"


def test_both_forms_are_mixed_by_default(sandbox, controls, receiver, portal):
    changes = {
        "city": "a",
        "phone": "b",
        "jobtitle": "c",
        "zip": "d",
        "company": "e",
        "country": "f",
        "firstname": "g",
        "lastname": "h",
    }
    controls.save(portal, "contact", controls.records(portal, "contact")[0], changes)
    assert kinds(events(receiver.take_all(sandbox))) == {"contact.propertyChange", "object.propertyChange"}


def test_a_creation_comes_in_one_batch_and_is_not_first(sandbox, controls, receiver):
    account = make(controls, receiver, form="generic")
    for _ in range(10):
        controls.create_record(account, "company", {"name": "Fjord", "domain": "fjord.example", "city": "Bergen"})
    batches = [json.loads(one.body) for one in receiver.take_all(sandbox)]
    found = [event for batch in batches for event in batch]
    published = PUBLISHED["one_ui_create_arrives_unordered"]["batch"]
    creation = next(event for event in found if event["subscriptionType"] == "object.creation")
    assert shape(creation) == shape(published[3])
    assert creation["changeFlag"] == "CREATED"
    assert all("changeFlag" not in batch[0] for batch in batches)
    assert len(found) == 40


def test_deletion_restore_merge_and_privacy_deletion(sandbox, controls, receiver):
    account = make(controls, receiver, form="generic")
    one, two, three = controls.records(account, "contact")[:3]
    controls.delete(account, "contact", one)
    (deleted,) = events(receiver.take_all(sandbox))
    assert shape(deleted) == shape(PUBLISHED["generic_deletion"]["batch"][0])
    controls.restore(account, "contact", one)
    assert kinds(events(receiver.take_all(sandbox))) == {"object.restore"}
    controls.merge(account, "contact", one, [two])
    merged = next(event for event in events(receiver.take_all(sandbox)) if event["subscriptionType"] == "object.merge")
    assert shape(merged) == {**shape(PUBLISHED["merge_reconstructed"]["batch"][0]), "sourceId": "str"}
    assert (merged["primaryObjectId"], merged["mergedObjectIds"]) == (int(one), [int(two)])
    controls.delete(account, "contact", three, erase=True)
    assert kinds(events(receiver.take_all(sandbox))) == {"object.deletion", "contact.privacyDeletion"}


@pytest.mark.parametrize(("kind", "type_id", "pair"), [("note", "0-46", (214, 213)), ("email", "0-49", (210, 209))])
def test_a_note_or_email_on_a_deal_is_created_and_associated_both_ways(
    sandbox, controls, receiver, kind, type_id, pair
):
    account = make(controls, receiver, form="generic")
    deal = controls.records(account, "deal")[0]
    made = controls.note(account, deal, "They must have single sign-on.", kind=kind, subject="Offer")
    found = events(receiver.take_all(sandbox))
    creation = next(event for event in found if event["subscriptionType"] == "object.creation")
    assert (creation["objectTypeId"], creation["objectId"]) == (type_id, int(made["id"]))
    there, back = (event for event in found if event["subscriptionType"] == "object.associationChange")
    assert shape(there) == {
        **shape(PUBLISHED["association_reconstructed"]["batch"][0]),
        "sourceId": "str",
        "objectTypeId": "str",
    }
    assert (there["fromObjectTypeId"], there["toObjectTypeId"], there["toObjectId"]) == (type_id, "0-3", int(deal))
    assert (back["fromObjectTypeId"], back["objectId"]) == ("0-3", int(deal))
    assert (there["associationTypeId"], back["associationTypeId"]) == pair
    assert not there["associationRemoved"]


def test_our_own_writes_echo_with_the_apps_id_and_others_with_theirs(sandbox, controls, receiver, hubspot, portal):
    """INVARIANT: a write through the API comes back as a webhook. Without it, loop prevention is never really tested."""
    contact = controls.records(portal, "contact")[0]
    hubspot.crm.contacts.basic_api.update(contact, {"properties": {"city": "Turku"}})
    (event,) = events(receiver.take_all(sandbox))
    assert (event["changeSource"], event["sourceId"]) == ("INTEGRATION", str(APP))
    assert controls.state()["endpoints"][f"app:{APP}"]["echoes"] == 1
    controls.add_token(portal, "token-of-another", "Contact Sync", "2931120")
    hubspot.access_token = "token-of-another"
    hubspot.crm.contacts.basic_api.update(contact, {"properties": {"city": "Oulu"}})
    (event,) = events(receiver.take_all(sandbox))
    assert (event["changeSource"], event["sourceId"]) == ("INTEGRATION", "2931120")


def test_one_app_speaks_for_all_its_portals_and_for_no_other(sandbox, controls, receiver, portal):
    controls.create_portal(33, APP, "other")
    controls.create_portal(44, None)
    for number in ("145883449", "33", "44"):
        controls.save(f"hubspot:{number}", "deal", controls.records(f"hubspot:{number}", "deal")[0], {"amount": "1"})
    assert {event["portalId"] for event in events(receiver.take_all(sandbox))} == {145883449, 33}


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_any_4xx_or_5xx_is_tried_again_with_the_attempt_counted_and_signed_anew(
    sandbox, controls, receiver, portal, status
):
    receiver.answers.extend([(status, b""), (status, b"")])
    controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Turku"})
    found = receiver.take_all(sandbox)
    assert [json.loads(one.body)[0]["attemptNumber"] for one in found] == [0, 1, 2]
    assert len({json.loads(one.body)[0]["eventId"] for one in found}) == 1
    assert len({one.headers["x-hubspot-request-timestamp"] for one in found}) == 3
    journaled = Journal(sandbox.data).deliveries()
    assert [(line["status"], line["accepted"]) for line in journaled] == [(status, False), (status, False), (200, True)]


def test_delays_between_attempts_grow_and_it_gives_up_after_ten_retries(sandbox, controls, receiver, portal):
    receiver.otherwise = (500, b"")
    controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Turku"})
    found = receiver.take_all(sandbox)
    assert [json.loads(one.body)[0]["attemptNumber"] for one in found] == list(range(11))
    started = [line["at"] for line in Journal(sandbox.data).deliveries()]
    assert started[6] - started[5] > started[3] - started[2]
    assert controls.state()["endpoints"][f"app:{APP}"]["given_up"] == 1


def test_no_answer_in_time_is_tried_again(sandbox, controls, receiver, portal):
    controls.set_manners(f"app:{APP}", timeout_s=0.05)
    receiver.gate.clear()
    controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Turku"})
    receiver.take()
    assert json.loads(receiver.take().body)[0]["attemptNumber"] == 1
    controls.set_manners(f"app:{APP}", timeout_s=10)
    receiver.gate.set()
    receiver.take_all(sandbox)
    journaled = Journal(sandbox.data).deliveries()
    assert journaled[0]["problem"] == "timeout"
    assert journaled[-1]["accepted"]


def test_no_connection_is_tried_again(sandbox, controls, receiver, portal):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        controls.set_target(f"app:{APP}", f"http://127.0.0.1:{closed.getsockname()[1]}/nobody")
        controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Oulu"})
        while not controls.state()["endpoints"][f"app:{APP}"]["failed"]:
            pass
    controls.set_target(f"app:{APP}", receiver.url)
    assert json.loads(receiver.take().body)[0]["attemptNumber"] > 0
    assert Journal(sandbox.data).deliveries()[0]["problem"] == "ClientConnectorError"


def test_a_share_of_accepted_requests_is_sent_twice_when_asked_for(sandbox, controls, receiver, portal):
    controls.set_manners(f"app:{APP}", duplicate_rate=1.0)
    controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Turku"})
    one, again = receiver.take_all(sandbox)
    assert one.body == again.body
    assert [line["duplicate"] for line in Journal(sandbox.data).deliveries()] == [False, True]


def test_held_back_events_are_overtaken(sandbox, controls, receiver, portal):
    controls.set_manners(f"app:{APP}", delay_rate=0.5, delay_s=20.0)
    contact = controls.records(portal, "contact")[0]
    for n in range(60):
        controls.save(portal, "contact", contact, {"city": str(n)})
    seen = [int(event["propertyValue"]) for event in events(receiver.take_all(sandbox))]
    assert sorted(seen) == list(range(60))
    assert seen != sorted(seen)


def test_at_most_ten_requests_at_once_and_a_hundred_events_in_one(sandbox, controls, receiver, portal):
    receiver.gate.clear()
    contact = controls.records(portal, "contact")[0]
    for n in range(400):
        controls.save(portal, "contact", contact, {"city": str(n), "phone": str(n)})
    assert controls.state()["endpoints"][f"app:{APP}"]["in_flight"] == 10
    receiver.gate.set()
    sizes = [len(json.loads(one.body)) for one in receiver.take_all(sandbox)]
    assert sum(sizes) == 800
    assert max(sizes) == 100


def test_paused_deliveries_pile_up_and_go_out_later(sandbox, controls, receiver, portal):
    controls.set_manners(f"app:{APP}", paused=True)
    controls.save(portal, "contact", controls.records(portal, "contact")[0], {"city": "Turku"})
    assert controls.state()["endpoints"][f"app:{APP}"]["queued"] == 1
    controls.set_manners(f"app:{APP}", paused=False)
    assert receiver.take()


def test_properties_that_an_app_is_not_subscribed_to_are_not_told(sandbox, controls, receiver):
    account = make(controls, receiver, ignored_property_prefixes=["ci"])
    controls.save(account, "contact", controls.records(account, "contact")[0], {"city": "Turku", "zip": "1"})
    assert [event["propertyName"] for event in events(receiver.take_all(sandbox))] == ["zip"]


# -------------------------------------------------------------------- Salesforce


def tree_shape(element):
    """Tags below notifications, without the sObject's own fields."""
    return {element.tag: [child.tag for child in element]}


def test_an_outbound_message_has_the_shape_of_the_samples(sandbox, controls, receiver, org):
    contact = controls.records(org, "contact")[0]
    controls.save(org, "contact", contact, {"Title": "Head of <R&D> \x00"})
    (one,) = receiver.take_all(sandbox)
    assert one.path == "/hooks/salesforce/s3cret"
    assert one.headers["content-type"].startswith("text/xml")
    made = ET.fromstring(one.body).find(f".//{SOAP}notifications")
    sample = ET.parse(SAMPLES / "salesforce" / "outbound_message_two_contacts.xml").find(f".//{SOAP}notifications")
    assert [child.tag for child in made] == [child.tag for child in sample][:6]
    assert tree_shape(made.find(f"{SOAP}Notification")) == tree_shape(sample.find(f"{SOAP}Notification"))
    assert made.findtext(f"{SOAP}OrganizationId") == "00D5g000004XyzAEAS"
    thing, published = (tree.find(f".//{SOAP}sObject") for tree in (made, sample))
    assert thing.attrib == published.attrib
    assert thing.findtext(f"{SF}Id") == contact
    assert thing.findtext(f"{SF}Title") == "Head of <R&D> "
    assert thing.findtext(f"{SF}LastModifiedDate").endswith("Z")
    assert len(made.findtext(f".//{SOAP}Notification/{SOAP}Id")) == 18


def test_a_200_without_an_ack_is_tried_again_with_the_same_notification_id(sandbox, controls, receiver, org):
    receiver.answers.extend([(200, b""), (200, b"<r><Ack>true</Ack></r>"), (500, b"")])
    controls.save(org, "lead", controls.records(org, "lead")[0], {"City": "Turku"})
    found = [ET.fromstring(one.body).findtext(f".//{SOAP}Notification/{SOAP}Id") for one in receiver.take_all(sandbox)]
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_samples_acknowledgement_is_one_and_its_fault_is_none():
    assert acknowledged((SAMPLES / "salesforce" / "outbound_message_ack_response.xml").read_bytes())
    assert not acknowledged((SAMPLES / "salesforce" / "outbound_message_fault_response.xml").read_bytes())
    bomb = b'<!DOCTYPE a [<!ENTITY b "true">]><r xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>&b;</Ack></r>'
    assert not acknowledged(bomb)


def test_a_message_sends_the_latest_record_and_not_the_change(sandbox, controls, receiver, org):
    controls.set_manners(f"org:{org}", paused=True)
    lead = controls.records(org, "lead")[0]
    for city in ("Turku", "Oulu"):
        controls.save(org, "lead", lead, {"City": city})
    controls.set_manners(f"org:{org}", paused=False)
    (one,) = receiver.take_all(sandbox)
    assert [found.text for found in ET.fromstring(one.body).iter(f"{SF}City")] == ["Oulu", "Oulu"]


def test_a_write_through_the_api_echoes_with_the_integration_user_as_last_modifier(
    sandbox, controls, receiver, salesforce, org
):
    robot = controls.state()
    lead = controls.records(org, "lead")[0]
    salesforce.Lead.update(lead, {"City": "Turku"})
    (one,) = receiver.take_all(sandbox)
    modifier = ET.fromstring(one.body).findtext(f".//{SF}LastModifiedById")
    assert modifier == salesforce.Lead.get(lead)["LastModifiedById"]
    assert modifier == salesforce.oauth2("userinfo")["user_id"]
    assert robot["endpoints"][f"org:{org}"]["echoes"] == 0
    assert controls.state()["endpoints"][f"org:{org}"]["echoes"] == 1


def test_the_integration_users_own_messages_can_be_switched_off(sandbox, controls, receiver):
    controls.create_org("00D5g000004XyzA", "session", receiver.url, mute_integration_user=True)
    account = "salesforce:00D5g000004XyzAEAS"
    lead = controls.records(account, "lead")[0]
    import requests

    answered = requests.patch(
        f"{sandbox.base}/services/data/v66.0/sobjects/Lead/{lead}",
        json={"City": "x"},
        headers={"Authorization": "Bearer session"},
        timeout=5,
    )
    assert answered.status_code == 204
    controls.save(account, "lead", lead, {"City": "Turku"})
    assert len(receiver.take_all(sandbox)) == 1


def test_a_task_on_an_opportunity_tells_of_both(sandbox, controls, receiver, org):
    deal = controls.records(org, "deal")[0]
    before = controls.record(org, "deal", deal)["modified_at"]
    task = controls.note(org, deal, "They must have single sign-on.")["id"]
    controls.note(org, deal, "Budget approved", kind="email", subject="Budget")
    trees = [ET.fromstring(one.body) for one in receiver.take_all(sandbox)]
    told = {found.text for tree in trees for found in tree.iter(f"{SF}Id")}
    assert {task, deal} <= told
    assert {found.text for tree in trees for found in tree.iter(f"{SF}WhatId")} == {deal}
    assert {found.text for tree in trees for found in tree.iter(f"{SF}RelatedToId")} == {deal}
    assert controls.record(org, "deal", deal)["modified_at"] > before
