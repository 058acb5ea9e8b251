"""What change events mean: kinds, gaps, wildcards, echoes, fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.dialects.salesforce_pubsub import translate
from ingress.pubsub.avro import KNOWN
from ingress.sources.source import Event, Ignored, Resync, Untranslatable
from schemas.dead_letter import Cause
from tests.ingress.pubsub.events import (
    COMMITTED,
    LEAD,
    ORG,
    PERSON,
    ROBOT,
    SCHEMA,
    bits,
    delivery,
    endpoint,
    payload,
    read,
)

AT = datetime.fromtimestamp(COMMITTED / 1000, UTC)
OURS = "com/salesforce/api/rest/66.0;client=hookline"


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ("CREATE", "created", "webhook"),
        ("UPDATE", "updated", "webhook"),
        ("DELETE", "deleted", "webhook"),
        ("UNDELETE", "restored", "webhook"),
        ("GAP_CREATE", "created", "gap"),
        ("GAP_UPDATE", "updated", "gap"),
        ("GAP_DELETE", "deleted", "gap"),
        ("GAP_UNDELETE", "restored", "gap"),
    ],
)
def test_each_change_type_is_a_change_of_each_record_that_it_names(change, kind, reason):
    other = "00Q5g000000000CEAQ"
    changed = [bits("Title")] if change == "UPDATE" else []
    found = read(changeType=change, recordIds=[LEAD, other], changedFields=changed)
    assert [(one.object, one.id, one.kind, one.reason) for one in found] == [
        ("lead", LEAD, kind, reason),
        ("lead", other, kind, reason),
    ]
    assert {one.key for one in found} == {f"{ORG} e1"}
    assert {one.edited_by for one in found} == {PERSON}
    assert found[0].account == ORG


def test_a_gap_names_no_fields_whatever_its_bitmaps_say():
    (found,) = read(changeType="GAP_UPDATE", changedFields=[bits("Title")])
    assert (found.properties, found.reason) == ((), "gap")


def test_an_overflow_asks_for_the_whole_object_since_before_its_commit():
    (found,) = read(changeType="GAP_OVERFLOW", recordIds=[], changedFields=[])
    assert isinstance(found, Resync)
    assert (found.object, found.cause, found.account) == ("lead", "GAP_OVERFLOW", ORG)
    assert found.since == AT - timedelta(minutes=15)


def test_a_wildcard_asks_for_its_object_and_costs_its_neighbours_nothing():
    found = read(entityName="Account", recordIds=["001*", "0015g000000000AEAQ", "001*"], changeType="GAP_UPDATE")
    assert [(type(one), one.object) for one in found] == [(Resync, "company"), (Event, "company")]
    assert found[0].cause == "WILDCARD"


def test_names_come_from_all_three_bitmaps_as_the_rest_api_spells_them():
    found = read(
        changedFields=[bits("Title", "LastModifiedDate", "LastModifiedById"), "1-0x6", "3-0x2"],
        nulledFields=["4-0x1"],
        diffFields=[bits("WhatId")],
    )
    assert set(found[0].properties) == {"Title", "FirstName", "LastName", "MailingCity", "OtherStreet", "WhatId"}


def test_our_own_write_of_our_own_fields_is_dropped_unread():
    own = [bits("Hookline_Score__c", "LastModifiedDate", "LastModifiedById")]
    for ours in (
        {"changeOrigin": OURS},
        {"commitUser": ROBOT},
        {"commitUser": ROBOT[:15]},
        {"changeOrigin": "x; client=Hookline"},
    ):
        assert read(changedFields=own, **ours) == [Ignored("own_property", ORG)]
    assert read(changedFields=[bits("LastModifiedDate")], changeOrigin=OURS) == [Ignored("own_property", ORG)]


def test_an_edit_that_shares_our_transaction_passes():
    """INVARIANT: who wrote it never suffices to drop an event. If it fails, what an automation or a person changed with our write
    is never looked at.
    """
    both = [bits("Hookline_Score__c", "Title")]
    (found,) = read(changedFields=both, changeOrigin=OURS, commitUser=ROBOT)
    assert set(found.properties) == {"Title", "Hookline_Score__c"}
    assert isinstance(read(changedFields=[bits("Hookline_Score__c"), "1-0x2"], changeOrigin=OURS)[0], Event)
    for kind in ("CREATE", "DELETE", "UNDELETE", "GAP_UPDATE"):
        assert isinstance(read(changeType=kind, changedFields=[], changeOrigin=OURS, commitUser=ROBOT)[0], Event)


def test_a_reps_feedback_in_our_own_field_passes():
    (found,) = read(changedFields=[bits("Hookline_Feedback__c", "LastModifiedDate")])
    assert found.properties == ("Hookline_Feedback__c",)


@pytest.mark.parametrize("origin", ["client=hooklines", "client=other;x=hookline", "hookline", "x;notclient=hookline"])
def test_another_client_is_not_us(origin):
    assert isinstance(read(changedFields=[bits("Hookline_Score__c")], changeOrigin=origin)[0], Event)


def test_a_save_carries_its_own_time_and_not_its_commits():
    saved = COMMITTED - 4_000
    (found,) = read({"LastModifiedDate": saved})
    assert found.occurred_at == AT - timedelta(seconds=4)
    (later,) = read({"LastModifiedDate": COMMITTED + 9_000})
    assert later.occurred_at == AT
    (gap,) = read({"LastModifiedDate": saved}, changeType="GAP_UPDATE")
    assert gap.occurred_at == AT


def test_a_new_task_changes_what_it_hangs_on_and_an_old_one_itself():
    task = "00T5g000000000AEAQ"
    values = {"WhatId": "0065g000000000AEAQ", "WhoId": "0035g000000000AEAQ"}
    made = read(values, entityName="Task", changeType="CREATE", recordIds=[task], changedFields=[])
    assert [(one.object, one.kind) for one in made] == [("deal", "associated"), ("contact", "associated")]
    for kind in ("UPDATE", "DELETE", "GAP_CREATE"):
        (found,) = read(values, entityName="Task", changeType=kind, recordIds=[task], changedFields=[])
        assert (found.object, found.id) == ("note", task)


def test_objects_that_nobody_reads_are_counted_and_gone():
    assert read(entityName="Invoice__c") == [Ignored("unread_object", ORG)]


@pytest.mark.parametrize(
    "broken",
    [
        {"recordIds": []},
        {"recordIds": ["nonsense"]},
        {"recordIds": ["001**x"]},
        {"entityName": ""},
        {"commitTimestamp": 10**17},
        {"changedFields": ["0xZZ"]},
        {"changedFields": ["7"]},
        {"changedFields": [hex(1 << 11)]},
        {"changedFields": ["99-0x1"]},
        {"changedFields": ["2-0x1"]},
        {"changedFields": ["3-0x4"]},
    ],
)
def test_what_no_change_event_holds_is_a_dead_letter_that_repeats_nothing(broken):
    (found,) = read(**broken)
    assert isinstance(found, Untranslatable)
    assert found.cause is Cause.MALFORMED_BODY
    for values in broken.values():
        for value in values if isinstance(values, list) else [values]:
            assert len(str(value)) < 3 or str(value) not in found.detail


def test_a_change_type_that_is_new_is_unsupported():
    assert read(changeType="MELT")[0].cause is Cause.UNSUPPORTED_EVENT


def test_an_event_whose_schema_is_gone_can_be_tried_again():
    (found,) = translate(delivery(payload(), schema_id="never-seen"), endpoint())
    assert (found.cause, found.account) == (Cause.UNKNOWN_VERSION, ORG)


def test_another_endpoints_schema_of_the_same_name_is_not_taken():
    """INVARIANT: a schema is an org's own. If it fails, one customer's org gives another's events their meaning."""
    KNOWN.put("another-endpoint", "shared-name", SCHEMA)
    (found,) = translate(delivery(payload(), schema_id="shared-name"), endpoint())
    assert found.cause is Cause.UNKNOWN_VERSION


@given(body=st.binary(max_size=400))
def test_no_bytes_raise(body):
    KNOWN.put(endpoint().id, "s1", SCHEMA)
    for one in (delivery(body), delivery(body).model_copy(update={"body": body})):
        for found in translate(one, endpoint()):
            assert isinstance(found, Event | Ignored | Resync | Untranslatable)


@given(place=st.integers(0, 10_000), by=st.integers(1, 255))
def test_no_single_changed_byte_of_an_event_raises(place, by):
    KNOWN.put(endpoint().id, "s1", SCHEMA)
    whole = payload({"Title": "CTO", "Name": {"FirstName": "Ada", "LastName": "L", "Salutation": None}})
    place %= len(whole)
    changed = whole[:place] + bytes([(whole[place] + by) % 256]) + whole[place + 1 :]
    for found in translate(delivery(changed), endpoint()):
        assert isinstance(found, Event | Ignored | Resync | Untranslatable)
