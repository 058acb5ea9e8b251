"""The front door's way to the broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from infra.kafka.codec import Outgoing
from infra.kafka.lane import MessageTooLarge
from infra.unavailable import BrokerUnavailable
from ingress.outlet import MANY, Outlet


class FakeBatch:
    def __init__(self, room: int) -> None:
        self.room, self.values = room, []

    def append(self, *, key, value, timestamp, headers):
        if self.values and sum(map(len, self.values)) + len(value) > self.room:
            return None
        self.values.append(value)
        return object()

    def close(self) -> None:
        pass


class FakeProducer:
    """Acknowledges when it is told to; `error` fails the next batch."""

    def __init__(self, room: int = 1_000) -> None:
        self.room, self.error, self.sent, self.under_way = room, None, [], []
        self.leaders = {0: 0, 1: 0, 2: 0}
        self.client = SimpleNamespace(
            cluster=SimpleNamespace(leader_for_partition=lambda place: self.leaders[place.partition])
        )
        self.open = asyncio.Event()
        self.open.set()

    async def partitions_for(self, topic):
        return {0, 1, 2}

    def create_batch(self):
        return FakeBatch(self.room)

    async def send_batch(self, batch, topic, *, partition):
        assert self.leaders[partition] not in self.under_way, "two batches at once to one broker"
        self.under_way.append(self.leaders[partition])

        async def acknowledge():
            await self.open.wait()
            self.under_way.remove(self.leaders[partition])
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            self.sent.append((partition, list(batch.values)))
            return SimpleNamespace(offset=0)

        return asyncio.create_task(acknowledge())


def message(value: bytes = b"v") -> Outgoing:
    return Outgoing(b"k", value, [], b"k", 1)


def outlet(producer: FakeProducer, *, seconds: float = 5.0, flushes: int = 2) -> tuple[Outlet, list]:
    told: list = []

    async def running():
        return producer

    async def broken(which, error):
        told.append(error)

    return Outlet("t", running, broken, seconds=seconds, max_message_bytes=2_000, flushes=flushes), told


async def test_what_waits_while_batches_are_under_way_goes_in_one():
    producer = FakeProducer()
    found, _ = outlet(producer)
    producer.open.clear()
    calls = [asyncio.create_task(found.publish([message(b"%d" % number)])) for number in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    producer.open.set()
    await asyncio.gather(*calls)
    assert sorted(int(value) for _, values in producer.sent for value in values) == list(range(20))
    assert len(producer.sent) <= 3
    await found.stop()


async def test_another_broker_gets_a_batch_beside_where_many_wait():
    producer = FakeProducer(room=10)
    producer.leaders = {0: 0, 1: 1, 2: 1}
    found, _ = outlet(producer)
    await found.publish([message()])
    producer.open.clear()
    calls = [asyncio.create_task(found.publish([message()])) for _ in range(MANY + 1)]
    await asyncio.sleep(0.01)
    assert sorted(producer.under_way) == [0, 1]
    producer.open.set()
    await asyncio.gather(*calls)
    await found.stop()


async def test_who_came_first_is_answered_first_however_many_come():
    """INVARIANT: who waits is served. If this fails, a busy front door keeps some senders waiting for seconds while others pass them."""
    producer = FakeProducer(room=100)
    found, _ = outlet(producer)
    order: list[int] = []

    async def call(number: int) -> None:
        await found.publish([message(b"x" * 40)])
        order.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(4 * MANY)]
    await asyncio.gather(*calls)
    assert order == sorted(order)
    await found.stop()


class OneHangs(FakeProducer):
    """Of two brokers, 0 acknowledges nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.leaders = {0: 0, 1: 1, 2: 1}

    async def send_batch(self, batch, topic, *, partition):
        if self.leaders[partition] == 0:
            return asyncio.get_running_loop().create_future()
        return await super().send_batch(batch, topic, partition=partition)


async def test_a_broker_that_says_nothing_costs_only_what_it_has():
    """INVARIANT: one broker of several in trouble does not close the door. If this fails, senders are refused for half a minute."""
    producer = OneHangs()
    found, _ = outlet(producer, seconds=0.5)
    results = []
    for _ in range(20):
        calls = [asyncio.create_task(found.publish([message()])) for _ in range(3)]
        results += await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert len(failed) <= 3
    assert len([value for _, values in producer.sent for value in values]) == 60 - len(failed)
    for task in found._tasks:
        task.cancel()
    await found.stop()


async def test_a_partition_that_nobody_leads_is_left_out_while_there_are_others():
    producer = FakeProducer()
    producer.leaders = {0: -1, 1: 0, 2: None}
    found, _ = outlet(producer)
    for _ in range(4):
        await found.publish([message()])
    assert {partition for partition, _ in producer.sent} == {1}
    await found.stop()


async def test_where_nobody_leads_anything_it_is_sent_all_the_same():
    producer = FakeProducer()
    producer.leaders = dict.fromkeys(range(3), -1)
    found, _ = outlet(producer)
    await found.publish([message()])
    assert len(producer.sent) == 1
    await found.stop()


async def test_a_call_of_several_messages_ends_with_the_last_of_them():
    producer = FakeProducer(room=1_000)
    found, _ = outlet(producer)
    await found.publish([message(b"x" * 900) for _ in range(4)])
    assert sum(len(values) for _, values in producer.sent) == 4
    assert len(producer.sent) == 4
    await found.stop()


async def test_a_batch_that_fails_fails_its_callers_alone_and_is_told():
    producer = FakeProducer()
    found, told = outlet(producer)
    producer.error = KafkaConnectionError()
    with pytest.raises(BrokerUnavailable):
        await found.publish([message()])
    assert len(told) == 1
    await found.publish([message()])
    producer.error = MessageSizeTooLargeError()
    with pytest.raises(MessageTooLarge):
        await found.publish([message()])
    await found.stop()


async def test_a_message_too_large_is_refused_before_it_is_sent():
    producer = FakeProducer()
    found, _ = outlet(producer)
    with pytest.raises(MessageTooLarge):
        await found.publish([message(b"x" * 2_001)])
    assert producer.sent == []
    await found.stop()


async def test_who_waits_for_too_long_hears_so_and_what_did_not_go_stays_here():
    """INVARIANT: an answer comes before the sender hangs up. If this fails, HubSpot times out and sends everything again."""
    producer = FakeProducer()
    found, _ = outlet(producer, seconds=0.2, flushes=1)
    producer.open.clear()
    calls = [asyncio.create_task(found.publish([message(b"%d" % number)])) for number in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, BrokerUnavailable) for result in results)
    with pytest.raises(BrokerUnavailable, match="not acknowledged"):
        await found.publish([message()])  # known to be away: at once
    producer.open.set()
    await asyncio.sleep(0.01)  # the batch under way may yet arrive; what waited must not
    assert sum(len(values) for _, values in producer.sent) <= 5
    await found.stop()
    assert found._queued_bytes == 0


async def test_after_stop_nothing_is_taken():
    producer = FakeProducer()
    found, _ = outlet(producer)
    await found.stop()
    with pytest.raises(BrokerUnavailable, match="stopping"):
        await found.publish([message()])
