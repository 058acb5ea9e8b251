"""The loop of a run, with a clock and a table of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from console.replay.index import Item
from console.replay.runner import MOST_FAILED, Cancelled, Progress, Runner, TooManyFailedError
from console.replay.snapshots import Fetched
from console.replay.store import Replay, Replays
from infra.unavailable import Unavailable
from schemas.record import RecordRef


@dataclass
class Row:
    id: str = "r1"
    rate: float = 10.0
    state: str = "running"


@dataclass
class Table:
    row: Row = field(default_factory=Row)
    notes: list[dict[str, Any]] = field(default_factory=list)

    async def get(self, id: str) -> Row:  # noqa: A002 -- the protocol's word
        assert id == self.row.id
        return self.row

    async def alive(self, id: str, **values: Any) -> None:  # noqa: A002 -- the protocol's word
        assert id == self.row.id
        self.notes.append(values)


@dataclass
class Work:
    """Handles; `away` times it cannot, and never what is in `broken`."""

    grouped: bool = False
    wrote: bool = False
    handled: list[str] = field(default_factory=list)
    away: int = 0
    broken: set[str] = field(default_factory=set)
    on_page: Any = None

    async def fetch(self, items: Sequence[Item]) -> Fetched:
        return [(item, None) for item in items]

    async def handle(self, fetched: Fetched) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("model", 2.0, "rests")
        ids = [item.ref.id for item, _ in fetched]
        if self.broken & set(ids):
            raise ValueError("never printed")
        self.handled += ids
        if self.on_page:
            self.on_page()

    async def settle(self) -> None:
        self.wrote = False


@dataclass
class Run:
    table: Table = field(default_factory=Table)
    work: Work = field(default_factory=Work)
    now: float = 0.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    committed: list[dict[int, int]] = field(default_factory=list)
    progress: Progress = field(default_factory=lambda: Progress(0))

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def __call__(self, number: int) -> bool:
        async def commit(offsets: Any) -> None:
            self.committed.append(dict(offsets))

        items = [Item(0, place, RecordRef("acme", "hubspot:1", "deal", str(place))) for place in range(number)]
        runner = Runner(
            cast("Replay", self.table.row), cast("Replays", self.table), self.work, commit=commit,
            used=lambda: {"model_calls": len(self.work.handled)}, stop=self.stop, sleep=self.sleep, clock=lambda: self.now,
        )  # fmt: skip
        return await runner.run(items, self.progress)


async def test_it_keeps_its_rate_and_commits_after_each_page() -> None:
    run = Run()
    assert await run(100)
    assert run.work.handled == [str(number) for number in range(100)]
    assert 8.0 <= run.now <= 10.5
    assert run.committed[-1] == {0: 100}
    assert len(run.committed) == 10
    assert run.table.notes[-1] == {"records_done": 100, "used": {"model_calls": 100}}


async def test_it_follows_another_rate_within_a_second() -> None:
    run = Run(table=Table(Row(rate=1.0)))
    run.work.on_page = lambda: setattr(run.table.row, "rate", 1_000.0)
    assert await run(200)
    assert run.now < 5.0


async def test_a_part_that_is_away_makes_it_wait_and_costs_no_record() -> None:
    run = Run(work=Work(away=3))
    assert await run(10)
    assert len(run.work.handled) == 10
    assert run.now >= 6.0, "it was told to wait two seconds, three times"
    assert run.progress.failures == 0


async def test_what_fails_alone_is_passed_over_and_named() -> None:
    run = Run(work=Work(broken={"7"}))
    assert await run(30)
    assert sorted(map(int, run.work.handled)) == [number for number in range(30) if number != 7]
    assert run.progress.failed == ["acme/hubspot:1/deal/7: ValueError"]


async def test_when_too_much_fails_it_stops_and_does_not_commit_past_it() -> None:
    run = Run(work=Work(broken={str(number) for number in range(100)}))
    with pytest.raises(TooManyFailedError):
        await run(100)
    assert run.progress.failures == MOST_FAILED + 1
    assert sum(offsets[0] for offsets in run.committed[-1:]) <= 20


async def test_a_cancellation_is_heard_after_the_page_in_work() -> None:
    run = Run()
    run.work.on_page = lambda: setattr(run.table.row, "state", "cancelling")
    with pytest.raises(Cancelled):
        await run(1_000)
    assert 0 < len(run.work.handled) <= 30


async def test_asked_to_stop_it_ends_between_pages() -> None:
    run = Run()
    run.work.on_page = run.stop.set
    assert not await run(100)
    assert len(run.work.handled) == 10
    assert run.committed == [{0: 10}]
