"""The emitter of what was set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from infra.set_aside import Due
from infra.unavailable import BrokerUnavailable
from processors.set_aside_emitter import PAGE, Emitter
from schemas.topics import CHANGES_BULK
from tests.processors.world import Log, at, ref


@dataclass
class Rows:
    """Implements DueRows."""

    waiting: list[Due] = field(default_factory=list)
    given_up: list[Due] = field(default_factory=list)

    async def due(self, limit: int = PAGE) -> list[Due]:
        return self.waiting[:limit]

    async def done(self, rows: Sequence[Due]) -> None:
        self.given_up.extend(rows)
        self.waiting = [row for row in self.waiting if row not in rows]

    async def forget(self) -> int:
        return 0


class EnoughError(Exception):
    pass


def due(number: int) -> Due:
    return Due(ref(str(number)), "hydrator", "CRM_UNAVAILABLE", 1, at(0), at(1))


async def run(rows: Rows, log: Log, sleeps: int) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        log.away = False
        if len(slept) == sleeps:
            raise EnoughError

    with pytest.raises(EnoughError):
        await Emitter(rows, log, sleep=sleep).run()
    return slept


async def test_what_is_due_is_triggered_in_the_bulk_lane_and_given_up():
    rows, log = Rows([due(1), due(2)]), Log()
    await run(rows, log, 1)
    assert [(change.id, change.reason) for change in log.of(CHANGES_BULK)] == [("1", "set_aside"), ("2", "set_aside")]
    assert rows.waiting == []


async def test_a_full_page_is_followed_by_the_next_without_a_pause():
    rows, log = Rows([due(number) for number in range(2 * PAGE + 1)]), Log()
    await run(rows, log, 1)
    assert len(log.of(CHANGES_BULK)) == 2 * PAGE + 1


async def test_nothing_is_given_up_while_kafka_is_away():
    rows, log = Rows([due(1)]), Log(away=True)
    with pytest.raises(BrokerUnavailable):
        await Emitter(rows, log).emit()
    assert rows.given_up == []
    await run(rows, Log(away=True), 1)
    assert rows.given_up == []


async def test_it_goes_on_when_kafka_is_back():
    rows, log = Rows([due(1)]), Log(away=True)
    await run(rows, log, 2)
    assert rows.given_up == [due(1)]
