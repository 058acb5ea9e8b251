"""Rows that wait for the same call go together in it."""

import asyncio

import pytest

from infra.crm.batching import Batches


class Vendor:
    """Answers batches one at a time, when told to."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.batches: list[dict[str, int]] = []
        self.fail: set[str] = set()

    async def run(self, take):
        async with self.turn:
            rows = await asyncio.to_thread(take)
            assert take() == rows, "the same rows each time"
            self.batches.append(rows)
            if self.fail & set(rows):
                raise LookupError("refused")
            return {one: value * 2 for one, value in rows.items() if one != "silent"}


async def test_what_waits_when_the_previous_call_returns_is_the_next_batch():
    vendor, batches = Vendor(), Batches(3)
    await vendor.turn.acquire()
    first = asyncio.create_task(batches.ask("k", {"a": 1}, vendor.run))
    await asyncio.sleep(0)
    others = [asyncio.create_task(batches.ask("k", {one: place}, vendor.run)) for place, one in enumerate("bcdef")]
    await asyncio.sleep(0)
    vendor.turn.release()
    assert await first == {"a": 2}
    assert await asyncio.gather(*others) == [{one: place * 2} for place, one in enumerate("bcdef")]
    assert [list(batch) for batch in vendor.batches] == [["a", "b", "c"], ["d", "e", "f"]]


async def test_a_lone_row_goes_at_once_and_large_asks_are_split():
    vendor, batches = Vendor(), Batches(3)
    assert await batches.ask("k", {"a": 1}, vendor.run) == {"a": 2}
    rows = {str(number): number for number in range(7)}
    assert await batches.ask("k", rows, vendor.run) == {one: 2 * number for one, number in rows.items()}
    assert [len(batch) for batch in vendor.batches] == [1, 3, 3, 1]
    assert await batches.ask("k", {}, vendor.run) == {}


async def test_an_id_is_in_a_batch_once_and_its_rows_keep_their_order():
    vendor, batches = Vendor(), Batches(3)
    await vendor.turn.acquire()
    asks = [asyncio.create_task(batches.ask("k", {"a": number}, vendor.run)) for number in range(3)]
    await asyncio.sleep(0)
    vendor.turn.release()
    assert await asyncio.gather(*asks) == [{"a": 0}, {"a": 2}, {"a": 4}]
    assert vendor.batches == [{"a": 0}, {"a": 1}, {"a": 2}]


async def test_a_failed_batch_is_told_to_its_own_rows_alone():
    vendor, batches = Vendor(), Batches(2)
    vendor.fail = {"b"}
    await vendor.turn.acquire()
    asks = [asyncio.create_task(batches.ask("k", {one: 1}, vendor.run)) for one in "abcd"]
    await asyncio.sleep(0)
    vendor.turn.release()
    a, b, c, d = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(a, LookupError)
    assert isinstance(b, LookupError)
    assert (c, d) == ({"c": 2}, {"d": 2})


async def test_what_a_call_says_nothing_of_is_not_in_the_answer():
    vendor, batches = Vendor(), Batches(3)
    assert await batches.ask("k", {"a": 1, "silent": 1}, vendor.run) == {"a": 2}


async def test_a_call_that_never_got_its_turn_fails_the_rows_that_waited():
    async def refused(take):
        raise LookupError("no turn")

    batches = Batches(2)
    with pytest.raises(LookupError):
        await batches.ask("k", {"a": 1, "b": 1, "c": 1}, refused)
    assert await batches.ask("k", {"a": 1}, Vendor().run) == {"a": 2}


async def test_who_gave_up_is_not_in_the_batch():
    vendor, batches = Vendor(), Batches(3)
    await vendor.turn.acquire()
    gone = asyncio.create_task(batches.ask("k", {"a": 1}, vendor.run))
    stays = asyncio.create_task(batches.ask("k", {"b": 1}, vendor.run))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    vendor.turn.release()
    assert await stays == {"b": 2}
    assert vendor.batches == [{"b": 1}]
    await batches.close()


async def test_different_calls_do_not_mix():
    vendor, batches = Vendor(), Batches(3)
    await asyncio.gather(batches.ask("k", {"a": 1}, vendor.run), batches.ask("l", {"b": 1}, vendor.run))
    assert sorted(map(list, vendor.batches)) == [["a"], ["b"]]


async def test_what_comes_during_a_call_waits_for_its_end_unless_it_fills_a_batch():
    began: list[list[str]] = []
    ends = asyncio.Event()

    async def run(take):
        began.append(list(take()))
        await ends.wait()
        return {}

    batches = Batches(2)
    asks = [asyncio.create_task(batches.ask("k", {"a": 1}, run))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for one in "bcd":
        asks.append(asyncio.create_task(batches.ask("k", {one: 1}, run)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert began == [["a"], ["b", "c"]]
    ends.set()
    await asyncio.gather(*asks)
    assert began == [["a"], ["b", "c"], ["d"]]


async def test_a_call_that_takes_long_holds_nobody_back(monkeypatch):
    monkeypatch.setattr("infra.crm.batching.PATIENCE_SECONDS", 0.01)
    never = asyncio.Event()

    async def run(take):
        if "a" in take():
            await never.wait()
        return dict.fromkeys(take(), 1)

    batches = Batches(2)
    stuck = asyncio.create_task(batches.ask("k", {"a": 1}, run))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(batches.ask("k", {"b": 1}, run), 5) == {"b": 1}
    never.set()
    await stuck


async def test_what_a_full_batch_leaves_over_goes_too_when_that_takes_long(monkeypatch):
    """INVARIANT: no row waits for more than the patience for calls under way. If it fails, it waits for the slowest of them."""
    monkeypatch.setattr("infra.crm.batching.PATIENCE_SECONDS", 0.01)
    never, went = asyncio.Event(), asyncio.Event()

    async def run(take):
        if "d" in take():
            went.set()
        else:
            await never.wait()
        return dict.fromkeys(take(), 1)

    batches = Batches(2)
    first = asyncio.create_task(batches.ask("k", {"a": 1}, run))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(batches.ask("k", {"b": 1, "c": 1, "d": 1}, run))
    await asyncio.wait_for(went.wait(), 5)
    never.set()
    assert await second == {"b": 1, "c": 1, "d": 1}
    await first


async def test_where_calls_are_scarce_rows_wait_for_others_until_their_call_is_full():
    vendor, batches = Vendor(), Batches(3, worth_waiting=lambda key: 60.0 if key[0] == "scarce" else 0.0)
    asks = [asyncio.create_task(batches.ask(("scarce",), {one: 1}, vendor.run)) for one in "ab"]
    assert await batches.ask(("plenty",), {"z": 1}, vendor.run) == {"z": 2}
    assert vendor.batches == [{"z": 1}]
    assert await asyncio.wait_for(batches.ask(("scarce",), {"c": 1}, vendor.run), 5) == {"c": 2}
    await asyncio.gather(*asks)
    assert vendor.batches[1:] == [{"a": 1, "b": 1, "c": 1}]


async def test_they_wait_no_longer_than_a_call_is_worth():
    vendor, batches = Vendor(), Batches(3, worth_waiting=lambda _key: 0.02)
    asks = [asyncio.create_task(batches.ask(("k",), {one: 1}, vendor.run)) for one in "ab"]
    await asyncio.wait_for(asyncio.gather(*asks), 5)
    assert vendor.batches == [{"a": 1, "b": 1}]
    await batches.close()
