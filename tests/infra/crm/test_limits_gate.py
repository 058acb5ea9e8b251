"""Whose turn it is in one process: the fullest call, and none is passed over for long."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.crm.batching import Batches
from infra.crm.client import AccountUnavailable
from infra.crm.limits import Policy, bulk_work, fill_of_task, filling
from infra.crm.limits_gate import MOST_PASSED, SharedGate, _Line, _Waiter


def gate(concurrency: int = 1, **policy) -> SharedGate:
    return SharedGate("hubspot", Policy(concurrency, **policy))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Callers:
    """Calls that hold their turn until they are told to end."""

    def __init__(self, door: SharedGate) -> None:
        self.door = door
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[str]] = {}

    async def come(self, name: str, fill: float = 1.0) -> None:
        async def enter() -> str:
            with filling(lambda: fill):
                turn = await self.door.enter("a")
            self.inside.append(name)
            return turn

        self.tasks[name] = asyncio.create_task(enter())
        await settle()

    async def go(self, name: str) -> None:
        self.inside.remove(name)
        self.door.leave("a", self.tasks[name].result())
        await settle()


async def test_the_fullest_call_gets_the_turn_and_among_equals_who_came_first():
    callers = Callers(gate())
    await callers.come("under way")
    for name, fill in (("small", 0.1), ("full 1", 1.0), ("half", 0.5), ("full 2", 1.0)):
        await callers.come(name, fill)
    order = []
    for _ in range(5):
        (name,) = callers.inside
        order.append(name)
        await callers.go(name)
    assert order == ["under way", "full 1", "full 2", "half", "small"]


async def test_how_full_a_call_is_is_asked_when_the_turn_is_given():
    callers = Callers(gate())
    await callers.come("under way")
    rows = [0.1]

    async def fills() -> None:
        with filling(lambda: rows[0]):
            await callers.door.enter("a")
        callers.inside.append("fills")

    task = asyncio.create_task(fills())
    await callers.come("half", 0.5)
    rows[0] = 0.9
    await callers.go("under way")
    await task
    assert callers.inside == ["fills"]


async def test_a_small_call_is_passed_over_so_often_and_no_more():
    """INVARIANT: whatever else comes, every call gets its turn. If it fails, a record waits until its account is set aside."""
    callers = Callers(gate())
    await callers.come("0")
    await callers.come("small", 0.01)
    for number in range(1, MOST_PASSED + 1):
        await callers.come(str(number))
        await callers.go(str(number - 1))
        assert callers.inside == [str(number)]
    await callers.come("one more")
    await callers.go(str(MOST_PASSED))
    assert callers.inside == ["small"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.floats(0, 1), st.none()), max_size=300))
def test_nobody_is_passed_over_more_often_whatever_comes_and_goes(steps: list[float | None]):
    """INVARIANT: as above, for any order of calls (a fill) and turns (None)."""
    loop = asyncio.new_event_loop()
    try:
        line, waiting = _Line(1_000), []
        for step in steps:
            if step is None:
                before = [each for each in waiting if not each.turn.done()]
                assert line.grant("turn") == bool(before)
                chosen = next((each for each in before if each.turn.done()), None)
                assert chosen is None or max(each.passed for each in before) <= MOST_PASSED
            else:
                waiting.append(_Waiter(loop.create_future(), 0.0, lambda fill=step: fill))
                line.waiting.append(waiting[-1])
        assert line.free + sum(each.turn.done() for each in waiting) == 1_000
    finally:
        loop.close()


async def test_who_gives_up_leaves_no_place_taken_and_keeps_nobody_waiting():
    """INVARIANT: a place is given back however a call ends. If it fails, an account's calls stand still for ever."""
    callers = Callers(gate())
    await callers.come("under way")
    await callers.come("gives up")
    await callers.come("stays", 0.5)
    callers.tasks["gives up"].cancel()
    await settle()
    await callers.go("under way")
    assert callers.inside == ["stays"]
    # Granted in the very moment in which it gives up.
    await callers.come("late")
    callers.inside.remove("stays")
    callers.door.leave("a", callers.tasks["stays"].result())
    for _ in range(3):
        await asyncio.sleep(0)
        if callers.door._lines["a", False].free == 0:
            break
    callers.tasks["late"].cancel()
    await settle()
    assert callers.tasks["late"].cancelled()
    await callers.come("next")
    assert callers.inside == ["next"]


async def test_whose_time_is_up_is_told_though_all_places_are_taken():
    door = gate(wait_seconds=0.01)
    await door.enter("a")
    with pytest.raises(AccountUnavailable, match="own limit"):
        await door.enter("a")
    assert door.crowded("a")
    door.leave("a", "")
    assert not door.crowded("a")
    await asyncio.wait_for(door.enter("a"), 5)


async def test_a_closed_gate_lets_nobody_hang_who_waits_for_a_place():
    door = gate()
    await door.enter("a")
    waits = asyncio.create_task(door.enter("a"))
    await settle()
    await door.close()
    with pytest.raises(asyncio.CancelledError):
        await waits


async def test_lanes_have_places_of_their_own():
    door = gate(2)
    with bulk_work():
        await door.enter("a")
        waits = asyncio.create_task(door.enter("a"))
    await settle()
    assert not waits.done(), "bulk work has half of the places"
    await asyncio.wait_for(door.enter("a"), 5)
    door.leave("a", "", bulk=True)
    await asyncio.wait_for(waits, 5)


async def test_rows_are_taken_when_the_turn_is_given_and_a_batch_that_fills_overtakes():
    """A call of few rows lets full ones of other kinds go first, and takes what has come for it by then."""
    door, batches = gate(), Batches(4)
    calls: list[tuple[str, list[str]]] = []
    ends = asyncio.Semaphore(0)

    def runs(kind: str):
        async def run(take):
            turn = await door.enter("a")
            try:
                rows = take()
                calls.append((kind, list(rows)))
                await ends.acquire()
            finally:
                door.leave("a", turn)
            return rows

        return run

    async def ask(kind: str, *rows: str) -> None:
        asks.append(asyncio.create_task(batches.ask((kind,), dict.fromkeys(rows, 1), runs(kind))))
        await settle()

    asks: list[asyncio.Task[dict[str, int]]] = []
    await ask("contacts", "1")
    await ask("companies", "a")
    await ask("notes", *"123456")
    await ask("companies", "b", "c")
    await ask("contacts", "2")
    for _ in range(5):
        ends.release()
        await settle()
    await asyncio.gather(*asks)
    assert calls == [
        ("contacts", ["1"]),
        ("notes", list("1234")),
        ("companies", ["a", "b", "c"]),
        ("notes", ["5", "6"]),
        ("contacts", ["2"]),
    ]


async def test_what_is_no_batch_counts_as_full():
    assert fill_of_task()() == 1.0
    with filling(lambda: 0.25):
        assert fill_of_task()() == 0.25
    assert fill_of_task()() == 1.0
