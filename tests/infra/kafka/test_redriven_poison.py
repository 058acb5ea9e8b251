"""What an operator redrove too early must not stop a role."""

from __future__ import annotations

import pytest

from infra.kafka.attempt import Attempts
from infra.kafka.poison import Poison, PoisonLimits, TooMuchPoison
from infra.kafka.raw import RawMessage
from infra.kafka.schedule import Schedule


async def handled(number, headers):
    schedule = Schedule(max_messages=1000, max_bytes=10**6)
    laid = []

    async def broken(_):
        raise KeyError

    async def lay_aside(raw, _):
        laid.append(raw.offset)

    attempts = Attempts(
        group="g",
        handler=broken,
        on_poison=lay_aside,
        poison=Poison(PoisonLimits(run=5), "g"),
        pause=lambda _: None,
        resume=lambda _: None,
    )
    for offset in range(number):
        schedule.arrive(RawMessage("t", 0, offset, b"%d" % offset, b"x", headers), 0.0)
    await attempts.handle(schedule.take(0.0, 100))
    return laid


async def test_a_run_of_failures_stops_the_role_unless_an_operator_sent_them():
    with pytest.raises(TooMuchPoison):
        await handled(8, [])
    assert await handled(8, [("hl_letter", b"0-1")]) == list(range(8))
