"""What a redrive publishes: harmless twice, to where it failed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from infra.kafka.broker import partition_of
from infra.kafka.letters import (
    GOES_TO,
    NotRedrivableError,
    again,
    attempt_of,
    is_for,
    is_redriven,
    original,
)
from infra.kafka.raw import RawMessage
from schemas.dead_letter import REMEDIES, Cause, DeadLetter, kind_of
from schemas.topics import ALL, CHANGES, DEAD_LETTERS, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS
from tests.sinks.making import insight


def letter(topic, key=b"acme/hubspot:1/deal/7", stage="hydrator", **more):
    return DeadLetter(
        cause=Cause.HANDLER_BUG, stage=stage, tenant="acme", at=datetime(2026, 11, 23, tzinfo=UTC),
        original_topic=topic.name, original_partition=1, original_offset=2,
    ).model_copy(update={"original_key": key, "original_value": b"sealed", **more})  # fmt: skip


def raw_of(outgoing):
    return RawMessage("t", 0, 0, outgoing.key, outgoing.value, outgoing.headers)


def test_every_topic_that_a_stage_reads_has_a_way_back():
    assert GOES_TO.keys() == {topic.name for topic in ALL} - {DEAD_LETTERS.name}


def test_no_redrive_writes_to_a_compacted_topic():
    """INVARIANT: an old message must not become the newest of its key; else the past overwrites the present."""
    assert not [topic.name for topic in GOES_TO.values() if topic.compacted]


def test_bytes_go_back_as_they_were_and_say_what_they_are():
    found = again(
        letter(CHANGES, original_headers=(("ce_id", b"x"), ("hl_attempt", b"4")), attempt=4), "3-7", b"sealed"
    )
    raw = raw_of(found.sealed)
    assert (raw.key, raw.value) == (b"acme/hubspot:1/deal/7", b"sealed")
    assert (attempt_of(raw), is_redriven(raw)) == (5, True)
    assert [name for name, _ in raw.headers] == ["ce_id", "hl_letter", "hl_attempt"]


def test_a_redriven_message_takes_the_partition_of_its_topic():
    """INVARIANT: what concerns one record lies on one partition, redriven or not; else its order is lost."""
    one = insight()
    key = INSIGHTS.key(one).encode()
    found = again(letter(INSIGHTS, key, "sink:hubspot"), "1-1", b"sealed").sealed
    assert partition_of(found.partition_key, 64) == partition_of(INSIGHTS_REDRIVEN.partition_by(one).encode(), 64)
    delivery = again(letter(DELIVERIES, b"acme/request-1", "translator"), "1-1", b"sealed").sealed
    assert delivery.partition_key == b"request-1"


def test_an_insight_is_for_the_destination_that_refused_it_and_for_all_where_nobody_knows():
    mine = raw_of(again(letter(INSIGHTS, b"a/b/c/d/e", "sink:hubspot"), "1-1", b"s").sealed)
    assert (is_for(mine, "hubspot"), is_for(mine, "postgres")) == (True, False)
    anybodys = raw_of(again(letter(INSIGHTS, b"a/b/c/d/e", "sinks"), "1-1", b"s").sealed)
    assert (is_for(anybodys, "hubspot"), is_for(anybodys, "postgres")) == (True, True)


def test_a_snapshot_becomes_a_trigger_even_where_its_bytes_are_gone():
    found = again(letter(RECORDS, stage="analyst"), "1-1", b"")
    assert found.sealed is None
    assert (str(found.trigger.ref), found.trigger.reason) == ("acme/hubspot:1/deal/7", "redrive")


@pytest.mark.parametrize(
    ("given", "value", "why"),
    [
        (letter(RECORDS, b"odd"), b"s", "names no record"),
        (letter(CHANGES), b"", "too large to be kept"),
        (letter(DEAD_LETTERS), b"s", "nothing reads"),
    ],
)
def test_what_cannot_go_back_says_why(given, value, why):
    with pytest.raises(NotRedrivableError, match=why):
        again(given, "1-1", value)


def test_an_odd_attempt_counts_as_the_first():
    for value in (b"", b"-1", b"x", b"9" * 12):
        assert attempt_of(RawMessage("t", 0, 0, None, None, [("hl_attempt", value)])) == 1


def test_every_cause_says_what_to_do_and_whose_it_is():
    assert REMEDIES.keys() == set(Cause)
    assert {kind_of(cause) for cause in Cause} == {"poison", "account"}
    assert kind_of("OF_A_NEWER_RELEASE") == "poison"


def test_the_original_is_had_as_it_was():
    found = original(letter(CHANGES, original_headers=(("a", b"b"),)))
    assert (found.topic, found.partition, found.offset, found.headers) == ("crm.changes", 1, 2, (("a", b"b"),))
