"""The pump over a consumer in memory: what it hands out, commits, pauses and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from infra.kafka.pump import MANY, PATIENT_BYTES, FetcherEndedError, PoisonLimits, Pump, TooMuchPoison, Unavailable
from infra.kafka.raw import RawMessage
from infra.settings import Settings, SettingsError
from infra.unavailable import BrokerUnavailable
from tests.infra.kafka.consumer import FakeConsumer

ONE = TopicPartition("t", 0)
TWO = TopicPartition("t", 1)


@contextlib.asynccontextmanager
async def pumping(consumer: FakeConsumer, handler, *, drain: bool = True, **more):
    laid_aside: list = []

    async def on_poison(raw, error) -> None:
        laid_aside.append((raw.partition, raw.offset, type(error).__name__))

    settings = Settings(kafka_url="127.0.0.1:1", _env_file=None)
    more.setdefault("on_poison", on_poison)
    pump = Pump(settings, topics=["t"], group="g", handler=handler, consumer=consumer.build, **more)
    await pump.start()
    pump.laid = laid_aside
    try:
        yield pump
    finally:
        if drain:
            await pump.drain(2)


async def until(claim) -> None:
    async with asyncio.timeout(5):
        while not claim():  # noqa: ASYNC110 -- a claim about several parts has no one event
            await asyncio.sleep(0.001)


async def test_handles_in_order_and_commits_what_is_finished() -> None:
    consumer, seen = FakeConsumer(), []

    async def handler(raws) -> None:
        seen.extend((raw.partition, raw.offset) for raw in raws)

    consumer.append(0, b"a", b"a", b"b")
    consumer.append(1, b"c")
    async with pumping(consumer, handler):
        await until(lambda: consumer.committed == {ONE: 3, TWO: 1})
    assert [offset for partition, offset in seen if partition == 0] == [0, 1, 2]


async def test_a_consumer_whose_fetcher_ended_stops_the_pump_instead_of_staying_silent() -> None:
    """INVARIANT: a pump that can fetch nothing says so. If this fails, a group's lag grows while its role is healthy."""
    consumer = FakeConsumer()
    ended = asyncio.get_running_loop().create_future()
    consumer._fetcher = SimpleNamespace(_fetch_task=ended)

    async def handler(raws) -> None:
        return None

    async with pumping(consumer, handler) as pump:
        consumer.append(0, b"a")
        await until(lambda: consumer.committed == {ONE: 1})
        ended.set_result(None)
        with pytest.raises(FetcherEndedError, match="start this role again"):
            async with asyncio.timeout(5):
                await pump.wait()


async def test_a_bug_is_bisected_to_the_message_that_fails_alone() -> None:
    """INVARIANT: a handler's exception is never swallowed into a commit: the bad message is laid aside, the rest is handled."""
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        if any(raw.offset == 37 for raw in raws):
            raise KeyError("never shown")
        seen.extend(raw.offset for raw in raws)

    consumer.append(0, *[b"%d" % (number % 7) for number in range(100)])
    async with pumping(consumer, handler) as pump:
        await until(lambda: consumer.committed == {ONE: 100})
        assert pump.laid == [(0, 37, "KeyError")]
    assert sorted(seen) == [number for number in range(100) if number != 37]
    for key in range(7):
        assert [offset for offset in seen if offset % 7 == key] == sorted(
            offset for offset in seen if offset % 7 == key
        )


async def test_a_message_is_not_committed_before_it_was_laid_aside() -> None:
    consumer = FakeConsumer(1)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def handler(_raws) -> None:
        raise RuntimeError

    async def on_poison(_raw, _error) -> None:
        entered.set()
        await gate.wait()

    consumer.append(0, b"a")
    async with pumping(consumer, handler, on_poison=on_poison):
        await entered.wait()
        assert consumer.committed == {}
        gate.set()
        await until(lambda: consumer.committed == {ONE: 1})


async def test_while_a_part_is_away_it_pauses_keeps_polling_and_tries_the_same_batch_again() -> None:
    """INVARIANT: an outage costs no message and no membership."""
    consumer, calls, away = FakeConsumer(), [], True

    async def handler(raws) -> None:
        calls.append([(raw.partition, raw.offset) for raw in raws])
        if away:
            raise Unavailable("redis")

    consumer.append(0, b"a")
    async with pumping(consumer, handler, concurrency=2) as pump:
        await until(lambda: len(calls) >= 2)
        assert pump.paused == ("redis",)
        assert consumer.paused == {ONE, TWO}
        assert await pump.ask() == "g pauses because of redis"
        consumer.append(1, b"b")
        polls = consumer.polls
        await until(lambda: consumer.polls > polls)
        assert consumer.committed == {}
        away = False
        await until(lambda: consumer.committed == {ONE: 1, TWO: 1})
        assert await pump.ask() is None
    assert set(map(tuple, calls)) == {((0, 0),), ((1, 0),)}
    assert pump.laid == []


@pytest.mark.parametrize("error", [ConnectionError, OSError])
async def test_an_error_of_the_network_itself_is_not_taken_for_a_known_part(error) -> None:
    """Only what names its part pauses: a bug that raises OSError must not stop the role for ever without a dead letter."""
    consumer = FakeConsumer(1)

    async def handler(_raws) -> None:
        raise error

    consumer.append(0, b"a")
    async with pumping(consumer, handler) as pump:
        await until(lambda: pump.laid)


async def test_a_hanging_handler_stops_neither_polling_nor_other_keys() -> None:
    consumer, seen = FakeConsumer(), []

    async def handler(raws) -> None:
        if raws[0].key == b"hangs":
            await asyncio.Event().wait()
        seen.extend(raw.key for raw in raws)

    consumer.append(0, b"hangs")
    async with pumping(consumer, handler, concurrency=2, drain=False) as pump:
        await until(lambda: pump.in_flight == 1)
        consumer.append(0, b"b")
        consumer.append(1, b"c")
        polls = consumer.polls
        await until(lambda: len(seen) == 2 and consumer.polls > polls)
        await until(lambda: consumer.committed == {TWO: 1})
        started = time.monotonic()
        await pump.drain(0.05)
        assert time.monotonic() - started < 3
    assert consumer.committed == {TWO: 1}


async def test_over_the_bound_fetching_stops_and_goes_on_below_ninety_percent() -> None:
    consumer, gate = FakeConsumer(1), asyncio.Event()

    async def handler(_raws) -> None:
        await gate.wait()

    consumer.append(0, *[b"%d" % number for number in range(10)])
    async with pumping(consumer, handler, max_messages=10, concurrency=1, max_batch=2) as pump:
        await until(lambda: "memory" in pump.paused)
        assert consumer.paused == {ONE}
        consumer.append(0, b"later")
        polls = consumer.polls
        await until(lambda: consumer.polls > polls)
        assert pump.held == 10
        assert await pump.ask() is None
        gate.set()
        await until(lambda: consumer.committed == {ONE: 11})
        assert pump.paused == ()


async def test_a_rejected_commit_stops_nothing() -> None:
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        seen.extend(raw.offset for raw in raws)

    consumer.fenced = True
    consumer.append(0, b"a")
    async with pumping(consumer, handler) as pump:
        await consumer.commit_started.wait()
        await until(lambda: seen == [0])
        consumer.fenced = False
        consumer.append(0, b"b")
        await until(lambda: consumer.committed == {ONE: 2})
        assert await pump.ask() is None


async def test_batches_that_finish_during_a_commit_share_the_next_one() -> None:
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        seen.extend(raw.offset for raw in raws)

    consumer.commit_gate.clear()
    consumer.append(0, b"a")
    async with pumping(consumer, handler, max_batch=1):
        await consumer.commit_started.wait()
        consumer.append(0, *[b"%d" % number for number in range(50)])
        await until(lambda: len(seen) == 51)
        consumer.commit_gate.set()
        await until(lambda: consumer.committed == {ONE: 51})
    assert consumer.commits == [{ONE: 1}, {ONE: 51}]


async def test_a_few_finished_messages_wait_longer_for_their_commit_than_many(monkeypatch) -> None:
    monkeypatch.setattr("infra.kafka.pump.COMMIT_MANY_EVERY_SECONDS", 0.05)
    monkeypatch.setattr("infra.kafka.pump.COMMIT_EVERY_SECONDS", 60.0)
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        seen.extend(raw.offset for raw in raws)

    consumer.commit_gate.clear()
    consumer.append(0, b"a")
    async with pumping(consumer, handler):
        await consumer.commit_started.wait()
        consumer.append(0, *[b"%d" % number for number in range(MANY)])
        await until(lambda: len(seen) == MANY + 1)
        consumer.commit_gate.set()
        await until(lambda: consumer.committed == {ONE: 1 + MANY})
        consumer.append(0, b"b")
        await until(lambda: len(seen) == MANY + 2)
    assert consumer.commits == [{ONE: 1}, {ONE: 1 + MANY}, {ONE: 2 + MANY}], "the last one when the pump ends"


async def test_a_bug_in_taking_in_stops_the_pump_instead_of_the_consumers_fetches() -> None:
    consumer = FakeConsumer(1)

    async def handler(raws) -> None:
        raise AssertionError("never called")

    def broken(raw) -> bytes:
        raise ValueError(raw.offset)

    async with pumping(consumer, handler, key_of=broken) as pump:
        consumer.append(0, b"a")
        with pytest.raises(ValueError, match="0"):
            await pump.wait()


async def test_a_patient_pump_fetches_much_at_once_and_a_hurried_one_whatever_is_there() -> None:
    given: dict = {}
    consumer = FakeConsumer(1)
    consumer._fetcher = SimpleNamespace(_fetch_min_bytes=None)

    def build(**options):
        given.update(options)
        return consumer

    async def handler(raws) -> None:
        return None

    settings = Settings(kafka_url="127.0.0.1:1", _env_file=None)
    pump = Pump(settings, topics=["t"], group="g", handler=handler, on_poison=handler, consumer=build)
    pump.be_patient(True)
    await pump.start()
    assert given["fetch_min_bytes"] == PATIENT_BYTES
    pump.be_patient(False)
    assert consumer._fetcher._fetch_min_bytes == 1
    pump.be_patient(True)
    assert consumer._fetcher._fetch_min_bytes == PATIENT_BYTES
    await pump.drain(2)


async def test_draining_finishes_what_is_in_work_and_drops_what_waits() -> None:
    consumer, gate, seen = FakeConsumer(1), asyncio.Event(), []

    async def handler(raws) -> None:
        await gate.wait()
        seen.extend(raw.offset for raw in raws)

    consumer.append(0, b"a", b"b", b"c")
    async with pumping(consumer, handler, max_batch=1, concurrency=1, drain=False) as pump:
        await until(lambda: pump.in_flight == 1)
        draining = asyncio.ensure_future(pump.drain(5))
        await until(lambda: pump.held == 1)
        assert await pump.ask() == "g is draining"
        gate.set()
        await draining
        await pump.wait()
    assert seen == [0]
    assert consumer.committed == {ONE: 1}
    assert consumer.stopped


async def test_draining_does_not_wait_for_a_part_that_is_away() -> None:
    consumer = FakeConsumer(1)

    async def handler(_raws) -> None:
        raise Unavailable("postgres", retry_after=100)

    consumer.append(0, b"a")
    async with pumping(consumer, handler, drain=False) as pump:
        await until(lambda: pump.paused)
        started = time.monotonic()
        await pump.drain(60)
        assert time.monotonic() - started < 3
    assert consumer.committed == {}
    assert pump.laid == []


async def test_a_revoke_drains_what_is_in_work_commits_it_and_drops_the_rest() -> None:
    consumer, gate, seen = FakeConsumer(), asyncio.Event(), []

    async def handler(raws) -> None:
        await gate.wait()
        seen.extend((raw.partition, raw.offset) for raw in raws)

    consumer.append(0, b"a", b"b")
    async with pumping(consumer, handler, max_batch=1, concurrency=1) as pump:
        await until(lambda: pump.held == 2)
        rebalancing = asyncio.ensure_future(consumer.rebalance({TWO}))
        await until(lambda: pump.held == 1)
        assert pump.assigned is None
        gate.set()
        await rebalancing
        await until(lambda: pump.assigned == {("t", 1)})
        assert consumer.committed == {ONE: 1}
        consumer.append(1, b"c")
        await until(lambda: consumer.committed == {ONE: 1, TWO: 1})
    assert seen == [(0, 0), (1, 0)]


async def test_what_outlasts_the_drain_of_a_revoke_is_never_committed() -> None:
    """INVARIANT: after its partition was taken away, a late batch commits nothing: its next owner handles it again."""
    consumer, gate = FakeConsumer(), asyncio.Event()

    async def handler(raws) -> None:
        if raws[0].key == b"late":
            await gate.wait()

    consumer.append(0, b"late")
    async with pumping(consumer, handler, revoke_timeout=0.05) as pump:
        await until(lambda: pump.in_flight == 1)
        await consumer.rebalance({TWO})
        gate.set()
        await until(lambda: pump.in_flight == 0)
        consumer.append(1, b"c")
        await until(lambda: consumer.committed == {TWO: 1})
    assert ONE not in consumer.committed


async def test_a_revoke_does_not_wait_for_a_part_that_is_away() -> None:
    consumer, calls = FakeConsumer(), []

    async def handler(raws) -> None:
        calls.append(raws)
        raise Unavailable("model", retry_after=100)

    consumer.append(0, b"a")
    async with pumping(consumer, handler, revoke_timeout=60) as pump:
        await until(lambda: pump.paused)
        started = time.monotonic()
        await consumer.rebalance({TWO})
        assert time.monotonic() - started < 3
    assert len(calls) == 1, "tried again although its partition was taken away"
    assert consumer.committed == {}


async def test_a_partition_that_comes_back_is_handled_from_its_commit() -> None:
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        seen.extend(raw.offset for raw in raws)

    consumer.append(0, b"a", b"b")
    async with pumping(consumer, handler):
        await until(lambda: consumer.committed == {ONE: 2})
        await consumer.rebalance({ONE})
        consumer.append(0, b"c")
        await until(lambda: consumer.committed == {ONE: 3})
    assert seen == [0, 1, 2]


async def test_a_run_of_poison_stops_the_pump_and_says_what_to_do() -> None:
    """INVARIANT: a bad deploy stops instead of turning a topic into dead letters."""
    consumer = FakeConsumer(1)

    async def handler(_raws) -> None:
        raise ZeroDivisionError

    consumer.append(0, *[b"%d" % number for number in range(100)])
    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=5), concurrency=1) as pump:
        with pytest.raises(TooMuchPoison, match=r"g stopped: on t/0 the last 5 messages .* roll back this release"):
            await pump.wait()
        assert len(pump.laid) == 4
        assert "has stopped" in await pump.ask()
    assert consumer.committed.get(ONE, 0) <= 4


async def test_a_ratio_of_poison_stops_the_pump() -> None:
    consumer = FakeConsumer(1)

    async def handler(raws) -> None:
        if any(raw.offset % 4 for raw in raws):
            raise ZeroDivisionError

    consumer.append(0, *[b"%d" % number for number in range(200)])
    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=50, ratio=0.5, least=40)) as pump:
        with pytest.raises(TooMuchPoison):
            await pump.wait()


async def test_what_a_handler_lays_aside_itself_counts_too() -> None:
    consumer = FakeConsumer(1)

    async def handler(raws) -> None:
        for raw in raws:
            pump.laid_aside(raw, "UNPARSABLE")

    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=3)) as pump:
        consumer.append(0, b"a", b"b", b"c")
        with pytest.raises(TooMuchPoison, match="UNPARSABLE"):
            await pump.wait()


async def test_messages_that_a_handler_lays_aside_one_batch_each_are_a_run() -> None:
    """INVARIANT: a batch that ends is no success. If this fails, a release that reads nothing lays a whole quiet topic aside."""
    consumer = FakeConsumer(1)

    async def handler(raws) -> None:
        for raw in raws:
            pump.laid_aside(raw, "UNKNOWN_VERSION")

    consumer.append(0, *[b"%d" % number for number in range(30)])
    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=5), max_batch=1, concurrency=1) as pump:
        with pytest.raises(TooMuchPoison, match="the last 5 messages in a row"):
            async with asyncio.timeout(5):
                await pump.wait()
    assert consumer.committed[ONE] <= 6


@pytest.mark.parametrize(("bad", "stops"), [(9, True), (4, False)])
async def test_the_share_that_a_handler_lays_aside_is_the_share_that_is_counted(bad, stops) -> None:
    consumer = FakeConsumer(1)

    async def handler(raws) -> None:
        for raw in raws:
            if raw.offset % 10 < bad:
                pump.laid_aside(raw, "UNPARSABLE")

    consumer.append(0, *[b"%d" % number for number in range(300)])
    async with pumping(consumer, handler, max_batch=10, concurrency=1) as pump:
        await until(lambda: pump._stopped.done() or consumer.committed == {ONE: 300})
        assert pump._stopped.done() is stops
        if stops:
            with pytest.raises(TooMuchPoison, match=r"90% of the last 10\d"):
                await pump.wait()


async def test_a_message_that_is_laid_aside_at_each_try_counts_once() -> None:
    """INVARIANT: an outage is no poison. If this fails, one bad message stops the role while Redis is away."""
    consumer, tries = FakeConsumer(1), 0

    async def handler(raws) -> None:
        nonlocal tries
        tries += 1
        pump.laid_aside(raws[0], "UNPARSABLE")
        if tries < 4:
            raise Unavailable("redis", retry_after=0.001)

    consumer.append(0, b"a", b"b")
    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=3), concurrency=1) as pump:
        await until(lambda: consumer.committed == {ONE: 2})
        assert not pump._stopped.done()


async def test_what_another_pump_of_the_role_lays_aside_is_not_counted() -> None:
    consumer = FakeConsumer(1)

    async def handler(_raws) -> None:
        return None

    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=3)) as pump:
        for offset in range(5):
            pump.laid_aside(RawMessage("t", 0, offset, b"a", b"x"), "UNPARSABLE")
        assert not pump._stopped.done()


async def test_what_is_to_come_again_is_no_success_yet() -> None:
    consumer = FakeConsumer(1)

    async def handler(raws) -> dict[bytes, float]:
        if raws[0].offset % 2:
            raise ZeroDivisionError
        return {raws[0].key: 60.0}

    consumer.append(0, *[b"%d" % number for number in range(20)])
    async with pumping(consumer, handler, poison_limits=PoisonLimits(run=5), max_batch=1, concurrency=1) as pump:
        with pytest.raises(TooMuchPoison):
            async with asyncio.timeout(5):
                await pump.wait()


async def test_a_setting_that_is_wrong_stops_the_pump_and_costs_no_message() -> None:
    consumer = FakeConsumer(1)

    async def handler(_raws) -> None:
        raise SettingsError("HOOKLINE_MASTER_KEYS lacks a key")

    consumer.append(0, b"a")
    async with pumping(consumer, handler) as pump:
        with pytest.raises(SettingsError, match="lacks a key"):
            await pump.wait()
    assert pump.laid == []
    assert consumer.committed == {}


async def test_a_key_rests_after_it_was_handled_and_what_came_meanwhile_goes_together() -> None:
    consumer, calls = FakeConsumer(1), []

    async def handler(raws) -> None:
        calls.append((time.monotonic(), [raw.offset for raw in raws]))

    async with pumping(consumer, handler, cooldown=0.2):
        consumer.append(0, b"a")
        await until(lambda: calls)
        for _ in range(3):
            consumer.append(0, b"a")
        consumer.append(0, b"other")
        await until(lambda: consumer.committed == {ONE: 5})
    assert [offsets for _, offsets in calls] == [[0], [4], [1, 2, 3]]
    assert calls[2][0] - calls[0][0] >= 0.2


async def test_what_a_handler_wants_to_see_again_comes_again_and_is_committed_then() -> None:
    consumer, calls = FakeConsumer(1), []

    async def handler(raws) -> dict[bytes, float] | None:
        calls.append([raw.offset for raw in raws])
        return {b"a": 0.2} if len(calls) == 1 else None

    async with pumping(consumer, handler):
        consumer.append(0, b"a")
        await until(lambda: calls)
        assert consumer.committed == {}
        consumer.append(0, b"a")
        await until(lambda: consumer.committed == {ONE: 2})
    assert calls == [[0], [0, 1]]


async def test_pause_and_resume_are_counted_per_part() -> None:
    consumer, seen = FakeConsumer(1), []

    async def handler(raws) -> None:
        seen.extend(raws)

    async with pumping(consumer, handler) as pump:
        pump.pause("crm")
        pump.pause("crm")
        pump.resume("crm")
        consumer.append(0, b"a")
        polls = consumer.polls
        await until(lambda: consumer.polls > polls + 1)
        assert not seen
        pump.resume("crm")
        await until(lambda: seen)
        assert pump.lag() == {("t", 0): 0}


async def test_starting_without_a_broker_says_so_in_time() -> None:
    async def handler(_raws) -> None:
        return None

    settings = Settings(kafka_url="127.0.0.1:1", _env_file=None)
    pump = Pump(settings, topics=["t"], group="g", handler=handler, on_poison=handler)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"no broker at 127.0.0.1:1"):
        await pump.start(timeout=1.0)
    assert time.monotonic() - started < 5
