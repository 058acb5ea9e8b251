"""A delivery that an operator sends again: what passed is not repeated, what failed is not lost."""

from __future__ import annotations

from dataclasses import replace

from infra.kafka.letters import again
from infra.kafka.raw import RawMessage
from schemas.dead_letter import Cause, DeadLetter
from tests.ingress.fakes import NOW, PORTAL, FakeDirectory, endpoint
from tests.ingress.test_translator import Desk, event


def redriven(raw, offset):
    """As `hookline dead-letters redrive` publishes it."""
    letter = DeadLetter(
        cause=Cause.FOREIGN_ACCOUNT, stage="translator", tenant="acme", at=NOW,
        original_topic=raw.topic, original_partition=raw.partition, original_offset=raw.offset,
    ).model_copy(
        update={"original_key": raw.key, "original_headers": tuple(raw.headers), "original_value": raw.value}
    )  # fmt: skip
    sent = again(letter, "0-1", raw.value).sealed
    return RawMessage(raw.topic, raw.partition, offset, sent.key, sent.value, sent.headers, sent.timestamp_ms)


def connected(desk, *accounts):
    known = endpoint()
    desk.directory.known[known.id] = replace(known, accounts=frozenset({PORTAL, *accounts}))


async def test_only_the_events_that_failed_pass_the_second_time():
    """INVARIANT: a redriven delivery is no duplicate for the events that were refused; else mending the cause helps nobody."""
    desk = Desk()
    raw = await desk.raw(event(1), event(2, portalId=777), event(3))
    await desk.handle(raw)
    assert desk.ids == ["1", "3"]
    connected(desk, "hubspot:777")
    await desk.handle(redriven(raw, 10))
    assert desk.ids == ["1", "3", "2"]
    await desk.handle(redriven(raw, 11))
    assert desk.ids == ["1", "3", "2"], "redriven twice, it passes once"
    assert len(desk.causes) == 1


async def test_what_is_redriven_before_its_cause_was_mended_is_a_letter_again_and_not_lost():
    desk = Desk()
    raw = await desk.raw(event(2, portalId=777))
    await desk.handle(raw)
    again_ = redriven(raw, 10)
    await desk.handle(again_)
    assert desk.causes == [(Cause.FOREIGN_ACCOUNT, "hubspot:777")] * 2
    connected(desk, "hubspot:777")
    await desk.handle(redriven(again_, 11))
    assert desk.ids == ["2"]


async def test_an_event_that_the_sender_repeated_meanwhile_is_not_made_twice():
    desk = Desk()
    raw = await desk.raw(event(2, portalId=777))
    await desk.handle(raw)
    connected(desk, "hubspot:777")
    await desk.handle(await desk.raw(event(2, portalId=777), offset=5))
    await desk.handle(redriven(raw, 10))
    assert desk.ids == ["2"]


async def test_a_delivery_that_no_endpoint_knew_passes_whole_once_it_is_known():
    desk = Desk()
    raw = await desk.raw(event(1), event(2))
    known = desk.directory
    desk.directory = desk.translator._known = FakeDirectory({})
    await desk.handle(raw)
    assert desk.ids == []
    desk.translator._known = known
    await desk.handle(redriven(raw, 10))
    assert desk.ids == ["1", "2"]
