"""Bulk work gives way to live work, gets on all the same, and has everything when it is alone."""

from __future__ import annotations

import asyncio

import pytest

from infra.kafka.giving_way import FIRST, LEAST, LIVE_SECONDS, TICKS, GivingWay


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def ticks(way: GivingWay, late: float, rounds: int = 1) -> None:
    for _ in range(rounds * TICKS):
        way.tick(late)


def test_without_live_work_the_share_is_whole_however_busy_the_loop():
    way = GivingWay(clock=Clock())
    ticks(way, 0.5, 20)
    assert way.share == 1.0


def test_late_timers_shrink_it_while_live_work_is_under_way_but_never_to_nothing():
    clock = Clock()
    way = GivingWay(clock=clock)
    way.saw_live()
    ticks(way, 0.5)
    first = way.share
    ticks(way, 0.5, 50)
    assert 1.0 > first > way.share == LEAST
    ticks(way, 0.0, 20)
    assert way.share < 0.5, "five seconds of rest are not taken for a machine that has time"
    ticks(way, 0.0, 100)
    assert way.share == 1.0


def test_the_least_share_may_be_set():
    way = GivingWay(least=0.2, clock=Clock())
    way.saw_live()
    ticks(way, 0.5, 20)
    assert way.share == 0.2


def test_bulk_work_that_begins_beside_live_work_begins_small_and_grows():
    clock = Clock()
    way = GivingWay(clock=clock)
    way.saw_bulk()
    assert way.share == 1.0, "alone it has everything"
    way.saw_live(["one", "another"])
    assert way.share == FIRST
    assert way.share_of_one == 1.0, "a tenant's share is no bulk work's"
    ticks(way, 0.0, 40)
    grown = way.share
    way.saw_bulk()
    assert FIRST < grown == way.share < 1.0, "what goes on does not begin again"
    ticks(way, 0.0, 100)
    assert way.share == 1.0
    clock.now += LIVE_SECONDS
    way.saw_live()
    way.saw_bulk()
    assert way.share == FIRST


def test_a_single_pause_says_nothing():
    way = GivingWay(clock=Clock())
    way.saw_live()
    for _ in range(10):
        way.tick(0.5)
        for _ in range(TICKS - 1):
            way.tick(0.0)
    assert way.share == 1.0


def test_live_work_counts_for_a_while():
    clock = Clock()
    way = GivingWay(clock=clock)
    way.saw_live()
    ticks(way, 0.5)
    clock.now += LIVE_SECONDS + 0.1
    assert way.share == 1.0


async def test_a_turn_rests_in_proportion_to_its_work():
    clock = Clock()
    way = GivingWay(clock=clock)
    async with way.turn():
        clock.now += 100.0
    # Alone it rests not at all, or this test would have taken seconds.
    assert clock.now == 200.0


async def test_where_it_gives_way_pieces_go_one_at_a_time_and_each_rests(monkeypatch):
    """INVARIANT: several calls at once take no more than one would. If it fails, more calls mean less way given."""
    clock, events, real = Clock(), [], asyncio.sleep

    async def sleep(seconds: float) -> None:
        events.append(round(seconds, 6))
        await real(0)

    async def piece(way: GivingWay, name: str) -> None:
        async with way.turn():
            events.append(f"{name} begins")
            await real(0)
            clock.now += 0.1
            events.append(f"{name} ends")

    way = GivingWay(clock=clock)
    monkeypatch.setattr("infra.kafka.giving_way.asyncio.sleep", sleep)
    await asyncio.gather(piece(way, "a"), piece(way, "b"))
    assert events == ["a begins", "b begins", "a ends", "b ends"], "alone they need not wait for one another"
    events.clear()
    clock.now += LIVE_SECONDS
    way.saw_live()
    await asyncio.gather(piece(way, "a"), piece(way, "b"))
    rest = round(0.1 * (1 - FIRST) / FIRST, 6)
    assert events == ["a begins", "a ends", rest, "b begins", "b ends", rest]


async def test_what_fails_in_its_turn_does_not_rest(monkeypatch):
    monkeypatch.setattr("infra.kafka.giving_way.asyncio.sleep", None)
    way = GivingWay(clock=Clock())
    way.saw_live()
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            async with way.turn():
                raise ValueError("broken")


def test_a_tenant_gives_way_only_while_another_one_has_live_work():
    clock = Clock()
    way = GivingWay(clock=clock)
    ticks(way, 0.5)
    way.saw_live(["noisy"])
    way.saw_live(["noisy"])
    assert way.share_of_one == 1.0
    way.saw_live(["quiet"])
    assert way.share_of_one < 1.0
    clock.now += LIVE_SECONDS + 0.1
    way.saw_live(["quiet"])
    assert way.share_of_one == 1.0
