"""When accounts were last heard of."""

from __future__ import annotations

from datetime import timedelta

from ingress.touches import Touches
from tests.ingress.fakes import NOW


class Registry:
    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.away = False

    async def touch(self, account, *, last_delivery_at=None) -> None:
        if self.away:
            raise OSError("connection refused")
        self.calls.append((account, last_delivery_at))


async def test_many_deliveries_are_one_write_with_the_latest_time():
    registry = Registry()
    touches = Touches(registry)
    for seconds in (1, 3, 2):
        touches.note("a", NOW + timedelta(seconds=seconds))
    await touches.flush()
    await touches.flush()
    assert registry.calls == [("a", NOW + timedelta(seconds=3))]


async def test_stopping_writes_what_waits_and_a_database_that_is_away_harms_nobody():
    registry = Registry()
    touches = Touches(registry, every_seconds=60)
    await touches.start()
    touches.note("a", NOW)
    await touches.stop()
    assert len(registry.calls) == 1
    registry.away = True
    touches.note("a", NOW + timedelta(seconds=1))
    await touches.flush()
    assert len(registry.calls) == 1
