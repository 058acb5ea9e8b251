"""What was redriven before asks for what is missing alone; the first message is taken at its word, and remains the first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest

from infra.kafka.codec import Received
from infra.kafka.raw import RawMessage
from processors.analyst import SKIPS_UNCHANGED
from processors.redriven import SENDS_AGAIN, asking_once
from schemas.change import Change
from schemas.envelope import Envelope
from schemas.record import Reason

LETTER = ("hl_letter", b"3-1042")


class Remembered:
    """Redriven in memory."""

    def __init__(self):
        self.rows = {}

    async def first(self, found):
        return {sending: self.rows.setdefault(sending, place) for sending, place in found.items()}


def received(offset, reason="set_aside", value=b"sealed", headers=(LETTER, ("hl_attempt", b"2")), partition=0):
    change = Change(
        tenant="acme", account="hubspot:1", object="deal", id="7", kind="updated",
        occurred_at=datetime(2026, 11, 23, tzinfo=UTC), reason=reason,
    )  # fmt: skip
    raw = RawMessage("crm.changes.bulk", partition, offset, b"acme/hubspot:1/deal/7", value, tuple(headers))
    envelope = Envelope(id="1", type="hookline.change.v1", source="test", time=change.occurred_at, tenant="acme")
    return Received(change, envelope, raw.topic, partition, offset, 0, raw)


async def reasons(redriven, *given):
    return [each.payload.reason for each in await asking_once(list(given), redriven)]


def test_every_reason_either_skips_what_is_unchanged_or_is_looked_up_when_redriven():
    """INVARIANT: a reason that has insights sent again is known here. Else a letter of it has effects twice."""
    assert set(get_args(Reason)) == SENDS_AGAIN | SKIPS_UNCHANGED
    assert not SENDS_AGAIN & SKIPS_UNCHANGED


@pytest.mark.parametrize("reason", sorted(SENDS_AGAIN))
async def test_the_second_message_of_a_letter_asks_for_what_is_missing_alone(reason):
    redriven = Remembered()
    assert await reasons(redriven, received(5, reason)) == [reason]
    assert await reasons(redriven, received(6, reason)) == ["redrive"]
    assert await reasons(redriven, received(8, reason), received(9, reason, b"another")) == ["redrive", reason]


async def test_the_first_message_is_the_first_still_when_a_crash_brings_it_again():
    """INVARIANT: noted by its place. If it fails, a crash after the note loses what the letter asked for."""
    redriven = Remembered()
    for _ in range(3):
        assert await reasons(redriven, received(5)) == ["set_aside"]


async def test_two_in_one_batch_are_one():
    assert await reasons(Remembered(), received(5), received(6)) == ["set_aside", "redrive"]


async def test_what_failed_again_is_another_letter_and_taken_at_its_word():
    redriven = Remembered()
    assert await reasons(redriven, received(5)) == ["set_aside"]
    assert await reasons(redriven, received(6, headers=(LETTER, ("hl_attempt", b"3")))) == ["set_aside"]


async def test_what_was_not_redriven_and_what_says_nothing_twice_costs_no_question():
    class Nobody:
        async def first(self, found):
            raise AssertionError

    given = [received(5, headers=()), received(6, "webhook"), received(7, "backfill")]
    assert await asking_once(given, Nobody()) is given
