"""What a restart knows of a stop for poison: a supervisor may start a bad release again and again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka.marks import STOPPED, read_marks
from infra.kafka.poison import Poison, PoisonLimits, TooMuchPoison
from tests.infra.kafka.consumer import FakeConsumer
from tests.infra.kafka.test_pump import ONE, TWO, pumping, until


async def bad(_raws) -> None:
    raise ZeroDivisionError


async def good(_raws) -> None:
    return None


async def stopped(consumer: FakeConsumer, handler=bad, **more) -> list[int]:
    """Run until it stops for poison; the offsets that it laid aside."""
    async with pumping(consumer, handler, concurrency=1, **more) as pump:
        with pytest.raises(TooMuchPoison):
            async with asyncio.timeout(5):
                await pump.wait()
    return [offset for _, offset, _ in pump.laid]


async def test_a_bad_release_that_is_started_again_lays_one_message_aside_and_stops() -> None:
    """INVARIANT: a supervisor does not drain a topic into dead letters. If this fails, each restart lets twenty go, for ever."""
    consumer = FakeConsumer(1)
    consumer.append(0, *[b"%d" % number for number in range(200)])
    assert len(await stopped(consumer)) == 19
    assert consumer.metadata[ONE] == STOPPED
    began = consumer.committed[ONE]
    for number in range(5):
        assert await stopped(consumer) == [began + number]
    assert consumer.committed[ONE] == began + 5


async def test_no_partition_that_fails_begins_anew_at_a_restart() -> None:
    consumer = FakeConsumer(3)
    for partition in range(3):
        consumer.append(partition, *[b"%d-%d" % (partition, number) for number in range(100)])
    await stopped(consumer, max_batch=7)
    for _ in range(5):
        assert len(await stopped(consumer)) <= 3


async def test_what_a_handler_lays_aside_itself_is_little_after_a_restart_too() -> None:
    consumer, laid = FakeConsumer(1), []

    async def unread(raws) -> None:
        for raw in raws:
            laid.append(raw.offset)
            pumps[-1].laid_aside(raw, "UNKNOWN_VERSION")

    consumer.append(0, *[b"%d" % number for number in range(300)])
    pumps, seen = [], []
    for _ in range(3):
        laid.clear()
        async with pumping(consumer, unread, concurrency=1, max_batch=50) as pump:
            pumps.append(pump)
            with pytest.raises(TooMuchPoison):
                await pump.wait()
        seen.append(len(laid))
    assert seen == [50, 2, 2]


async def test_a_release_that_fails_in_most_messages_stops_soon_after_a_restart() -> None:
    consumer = FakeConsumer(1)

    async def mostly(raws) -> None:
        if any(raw.offset % 10 for raw in raws):
            raise ZeroDivisionError

    consumer.append(0, *[b"%d" % number for number in range(2000)])
    assert len(await stopped(consumer, mostly)) >= 15
    for _ in range(5):
        assert len(await stopped(consumer, mostly)) <= 3


async def test_one_bad_message_does_not_keep_a_mended_release_from_going_on() -> None:
    """INVARIANT: what was stopped can go on. If this fails, a single bad message at the front holds a partition up for ever."""
    consumer = FakeConsumer(1)
    consumer.append(0, *[b"%d" % number for number in range(60)])
    await stopped(consumer)
    front = consumer.committed[ONE]

    async def mended(raws) -> None:
        if any(raw.offset == front for raw in raws):
            raise ZeroDivisionError

    async with pumping(consumer, mended) as pump:
        await until(lambda: consumer.committed == {ONE: 60})
        assert pump.laid == [(0, front, "ZeroDivisionError")]
    assert consumer.metadata[ONE] == ""


async def test_a_good_message_ends_the_suspicion_and_the_whole_limit_holds_again() -> None:
    consumer = FakeConsumer(1)
    consumer.append(0, *[b"%d" % number for number in range(19)], b"last")
    await stopped(consumer)
    async with pumping(consumer, good):
        await until(lambda: consumer.committed == {ONE: 20})
    assert consumer.metadata[ONE] == ""
    consumer.append(0, *[b"%d" % number for number in range(50)])
    assert len(await stopped(consumer)) == 19


async def test_a_stop_is_known_to_whoever_gets_the_partition_and_of_no_other() -> None:
    consumer = FakeConsumer()
    consumer.append(0, *[b"%d" % number for number in range(20)])
    await stopped(consumer)
    consumer.append(1, *[b"x%d" % number for number in range(20)])
    async with pumping(consumer, good) as pump:
        assert await read_marks(consumer, [("t", 0), ("t", 1)], 1.0) == {("t", 0)}
        await until(lambda: consumer.committed == {ONE: 20, TWO: 20})
        assert not pump._poison.suspects
    assert STOPPED not in consumer.metadata.values()


async def test_while_a_stopped_partition_has_nothing_to_do_batches_are_whole() -> None:
    consumer, sizes = FakeConsumer(), []

    async def handler(raws) -> None:
        sizes.append(len(raws))

    consumer.committed, consumer.metadata = {ONE: 0}, {ONE: STOPPED}
    consumer.append(1, *[b"%d" % number for number in range(40)])
    async with pumping(consumer, handler, concurrency=1):
        await until(lambda: consumer.committed.get(TWO) == 40)
    assert max(sizes) == 40


async def test_one_at_a_time_until_a_stopped_partition_has_proved_good() -> None:
    consumer, sizes = FakeConsumer(1), []

    async def handler(raws) -> None:
        sizes.append(len(raws))

    consumer.committed, consumer.metadata = {ONE: 0}, {ONE: STOPPED}
    consumer.append(0, *[b"%d" % number for number in range(40)])
    async with pumping(consumer, handler, concurrency=1):
        await until(lambda: consumer.committed.get(ONE) == 40)
    assert sizes == [1, 39]


async def refuses(_places):
    raise KafkaError


async def hangs(_places):
    await asyncio.sleep(60)


@pytest.mark.parametrize("fetch", [refuses, hangs])
async def test_where_marks_cannot_be_read_nothing_is_marked(fetch) -> None:
    consumer = SimpleNamespace(_coordinator=SimpleNamespace(fetch_committed_offsets=fetch))
    assert await read_marks(consumer, [("t", 0)], 0.05) == frozenset()
    assert await read_marks(object(), [("t", 0)], 0.05) == frozenset()


async def test_other_metadata_is_no_mark() -> None:
    consumer = FakeConsumer(1)
    consumer.committed, consumer.metadata = {TopicPartition("t", 0): 3}, {ONE: "somebody's note"}
    assert await read_marks(consumer, [("t", 0)], 1.0) == frozenset()


def test_limits_of_one_are_still_limits() -> None:
    poison = Poison(PoisonLimits(run=1, least=1), "g")
    poison.begin([("t", 0)], {("t", 0)})
    with pytest.raises(TooMuchPoison, match="it had stopped before"):
        poison.bad(("t", 0), 1, "KeyError")
