"""HubSpot's events in our words, from published deliveries and from bad ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingress.dialects.hubspot import MAX_MERGED, translate
from ingress.sources.source import Event, Ignored, Untranslatable
from schemas.dead_letter import Cause
from tests.ingress.fakes import NOW, delivery, endpoint

SAMPLES = json.loads((Path(__file__).parents[2] / "data" / "hubspot-samples" / "webhook_batches.json").read_text())
GOOD = {
    "eventId": 1, "subscriptionId": 2, "portalId": 33, "appId": 4, "occurredAt": 1751276050977,
    "subscriptionType": "contact.propertyChange", "attemptNumber": 0, "objectId": 55, "propertyName": "jobtitle",
    "propertyValue": "VP", "changeSource": "CRM_UI", "sourceId": "userId:10000001",
}  # fmt: skip


def read(*events, **config):
    return list(translate(delivery(json.dumps(events).encode()), endpoint(config=config)))


def event(**changes):
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


def sample(name, **config):
    return read(*SAMPLES[name]["batch"], **config)


def said(found):
    return [(one.object, one.id, one.kind) for one in found]


@pytest.mark.parametrize("name", SAMPLES)
def test_no_published_delivery_is_a_dead_letter(name):
    assert not [found for found in sample(name) if isinstance(found, Untranslatable)]


def test_a_property_change_names_record_property_time_and_author():
    (found,) = read(event())
    assert (found.account, found.object, found.id, found.kind) == ("hubspot:33", "contact", "55", "updated")
    assert found.properties == ("jobtitle",)
    assert found.occurred_at == datetime(2025, 6, 30, 9, 34, 10, 977000, tzinfo=UTC)
    assert found.edited_by == "userId:10000001"
    assert not found.bulk


def test_generic_and_typed_events_say_the_same():
    (typed,), (generic,) = read(event()), read(event(subscriptionType="object.propertyChange", objectTypeId="0-1"))
    assert (typed.object, typed.id, typed.kind) == (generic.object, generic.id, generic.kind)


@pytest.mark.parametrize(
    ("type_id", "name"),
    [
        ("0-1", "contact"),
        ("0-2", "company"),
        ("0-3", "deal"),
        ("0-5", "ticket"),
        ("0-46", "note"),
        ("0-49", "email"),
        ("0-136", "lead"),
    ],
)
def test_object_type_ids_are_ours(type_id, name):
    (found,) = read(event(subscriptionType="object.creation", objectTypeId=type_id))
    assert (found.object, found.kind) == (name, "created")


def test_event_type_stands_in_for_subscription_type():
    assert said(sample("doc_example_uses_eventType")) == [
        ("contact", "1246965", "updated"),
        ("contact", "1246978", "created"),
    ]


def test_an_import_waits_behind_live_traffic():
    assert [found.bulk for found in sample("doc_example_uses_eventType")] == [False, True]


def test_an_event_without_app_or_event_id_passes():
    assert said(sample("legacy_deletion_without_appId", app_id="77")) == [("contact", "123", "deleted")]
    (found,) = read(event(eventId=...))
    assert isinstance(found, Event)


@pytest.mark.parametrize("name", ["hookline_feedback", "hookline_feedback_note"])
def test_what_a_rep_writes_into_our_properties_is_a_change(name):
    (found,) = read(event(propertyName=name))
    assert isinstance(found, Event)
    assert found.properties == (name,)


def test_events_on_our_own_properties_are_dropped_unread():
    assert read(event(propertyName="hookline_score", objectId="not even a number")) == [
        Ignored("own_property", "hubspot:33")
    ]


def test_an_integrations_edit_of_a_foreign_property_is_not_taken_for_our_echo():
    """INVARIANT: authorship never suffices to drop. If this fails, what another tool writes through our app's user is lost."""
    assert said(sample("own_write_echo")) == [("contact", "541935488729", "updated")]


def test_what_nothing_reads_is_dropped_and_counted():
    assert {found.reason for found in sample("one_ui_create_arrives_unordered")} == {"unread_object"}
    assert read(event(subscriptionType="line_item.creation")) == [Ignored("unread_object", "hubspot:33")]
    assert read() == [Ignored("empty")]


def test_a_merge_is_the_survivor_and_the_gone():
    found = sample("merge_reconstructed")
    assert said(found) == [("contact", "100", "merged"), ("contact", "200", "deleted"), ("contact", "300", "deleted")]
    assert found[0].merged_ids == ("200", "300")
    assert len({one.key for one in found}) == 1


def test_a_merge_into_a_new_record_ends_the_primary_one_too():
    found = read(event(subscriptionType="company.merge", primaryObjectId=1, mergedObjectIds=[2], newObjectId=3))
    assert said(found) == [("company", "3", "merged"), ("company", "2", "deleted"), ("company", "1", "deleted")]


def test_an_association_changes_both_ends():
    assert said(sample("association_reconstructed")) == [
        ("contact", "1246965", "associated"),
        ("company", "7654321", "associated"),
    ]


def test_a_note_put_on_a_deal_changes_the_deal():
    given = event(
        subscriptionType="object.associationChange",
        objectId=...,
        fromObjectId=9,
        fromObjectTypeId="0-46",
        toObjectId=8,
        toObjectTypeId="0-3",
    )
    assert said(read(given)) == [("deal", "8", "associated")]


def test_an_association_without_type_ids_is_read_by_its_old_name():
    given = event(
        subscriptionType="deal.associationChange", associationType="DEAL_TO_LINE_ITEM", fromObjectId=9, toObjectId=8
    )
    assert said(read(given)) == [("deal", "9", "associated")]
    given = event(
        subscriptionType="deal.associationChange", associationType="LINE_ITEM_TO_QUOTE", fromObjectId=9, toObjectId=8
    )
    assert read(given) == [Ignored("unread_object", "hubspot:33")]


@pytest.mark.parametrize(
    ("action", "kind"),
    [("deletion", "deleted"), ("restore", "restored"), ("privacyDeletion", "erased"), ("creation", "created")],
)
def test_what_makes_and_ends_a_record(action, kind):
    assert said(read(event(subscriptionType=f"deal.{action}"))) == [("deal", "55", kind)]


def test_a_retry_has_the_key_of_the_first_try_and_nothing_else_has():
    """INVARIANT: the key is portal, subscription, event, object, property and time, without the attempt.

    If this fails, retries pass as new events, or distinct events are lost as duplicates.
    """
    first = read(event())[0].key
    assert read(event(attemptNumber=7))[0].key == first
    for changes in (
        {"portalId": 34},
        {"subscriptionId": 3},
        {"eventId": 2},
        {"objectId": 56},
        {"propertyName": "phone"},
        {"occurredAt": 1},
    ):
        assert read(event(**changes))[0].key != first


def test_without_an_event_id_the_value_tells_events_apart():
    keys = {read(event(eventId=..., propertyValue=value))[0].key for value in ("a", "b")}
    assert len(keys) == 2


def test_events_of_another_app_are_foreign():
    (found,) = read(event(), app_id="999")
    assert found.cause is Cause.FOREIGN_ACCOUNT
    assert said(read(event(), app_id="4")) == [("contact", "55", "updated")]


@pytest.mark.parametrize("name", ["contact.newThing", "spaceship.creation", "object.telepathy"])
def test_what_hubspot_did_not_have_is_for_an_admin(name):
    (found,) = read(event(subscriptionType=name, objectTypeId="0-1"))
    assert (found.cause, found.position) == (Cause.UNSUPPORTED_EVENT, 0)


BAD = {
    "portalId missing": event(portalId=...),
    "portalId a boolean": event(portalId=True),
    "portalId huge": event(portalId=10**30),
    "portalId negative": event(portalId=-1),
    "objectId missing": event(objectId=...),
    "objectId zero": event(objectId=0),
    "objectId a path": event(objectId="../1"),
    "objectId a float": event(objectId=1.5),
    "objectId nested": event(objectId={"a": 1}),
    "occurredAt a text": event(occurredAt="yesterday"),
    "occurredAt beyond time": event(occurredAt=10**18),
    "occurredAt negative": event(occurredAt=-1),
    "no type": event(subscriptionType=...),
    "type a number": event(subscriptionType=5),
    "type without action": event(subscriptionType="contact"),
    "property missing": event(propertyName=...),
    "property empty": event(propertyName=""),
    "property nested": event(propertyName=["a"]),
    "property endless": event(propertyName="x" * 256),
    "generic without type id": event(subscriptionType="object.creation"),
    "merge without primary": event(subscriptionType="contact.merge"),
    "merge of too many": event(subscriptionType="contact.merge", primaryObjectId=1, mergedObjectIds=list(range(2, MAX_MERGED + 3))),
    "merge of texts": event(subscriptionType="contact.merge", primaryObjectId=1, mergedObjectIds=["x"]),
    "association of nothing": event(subscriptionType="contact.associationChange"),
    "key part nested": event(subscriptionId=[[[]]]),
    "appId nested": event(appId={"a": []}),
    "a text": "event",
    "null": None,
    "a list": [],
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_one_bad_event_is_laid_aside_alone(bad):
    """INVARIANT: a bad event never costs its neighbours. If this fails, one odd event loses up to 99 good ones."""
    found = read(event(objectId=1), bad, event(objectId=2), app_id="4")
    letters = [one for one in found if isinstance(one, Untranslatable)]
    assert [(one.cause, one.position) for one in letters] == [(Cause.MALFORMED_BODY, 1)]
    assert [one.id for one in found if isinstance(one, Event)] == ["1", "2"]


def test_a_detail_names_the_field_and_holds_no_content():
    (found,) = read(event(objectId="Jane Doe <jane@example.com>"))
    assert "objectId" in found.detail
    assert "jane" not in found.detail.lower()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "byte"),
        (b"[", "byte"),
        (b"[{}", "byte"),
        (b"\xff\xfe[]", "byte"),
        (b'{"a":1}', "an object"),
        (b'"text"', "a text"),
        (b"5", "a number"),
        (b"null", "null"),
        (b"[" * 100_000, "byte"),
        (b'[{"a":' * 50_000, "byte"),
        (b"[NaN]", "byte"),
        (b'["\\ud800"]', "byte"),
    ],
)
def test_a_body_that_is_no_array_is_one_dead_letter_with_its_position(body, detail):
    (found,) = translate(delivery(body), endpoint())
    assert found.cause is Cause.MALFORMED_BODY
    assert found.position is None
    assert detail in found.detail


def test_deep_nesting_inside_an_event_harms_nothing():
    deep = b"[" * 900 + b"]" * 900
    for name in (b"propertyValue", b"subscriptionId", b"appId", b"sourceId", b"changeSource", b"occurredAt"):
        body = b'[{"eventId":null,"portalId":33,"objectId":5,"subscriptionType":"deal.creation","%s":%s}]' % (
            name,
            deep,
        )
        assert len(list(translate(delivery(body), endpoint(config={"app_id": "4"})))) == 1


def test_without_a_time_the_moment_of_arrival_counts():
    assert read(event(occurredAt=...))[0].occurred_at == NOW
