"""A batch goes straight to its broker, and aiokafka's promises hold all the same: its own sender, accumulator and transaction manager
stand here before a broker that checks sequence numbers as Kafka does. On real Kafka: tests/connected/test_straight.py."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceResponse_v7
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.kafka.straight import send_batch

TOPIC = "t"
NOT_LEADER, TOO_LARGE = 6, 10
LOST, ANSWER_LOST = "lost", "answer lost"


class Broker:
    """aiokafka's client with one broker behind it. `fails`: what happens to the next requests."""

    def __init__(self) -> None:
        self.leader: int | None = 0
        self.log: dict[int, list[bytes]] = defaultdict(list)
        self.fails: list[object] = []
        self.open = asyncio.Event()
        self.open.set()
        self.requests = 0
        self._under_way = 0
        self._next: dict[int, int] = defaultdict(int)
        self.cluster = SimpleNamespace(leader_for_partition=lambda _place: self.leader)

    async def send(self, node: int, request):
        assert node == 0
        self.requests += 1
        self._under_way += 1
        assert self._under_way == 1, "two requests at once to one broker"
        try:
            await self.open.wait()
            await asyncio.sleep(0)
            failing = self.fails.pop(0) if self.fails else None
            if failing == LOST:
                raise KafkaConnectionError
            answers = []
            for topic, partitions in _topics_of(request):
                assert topic == TOPIC
                answers += [(place, *self._take(place, bytes(data), failing), -1, 0) for place, data in partitions]
            if failing == ANSWER_LOST:
                raise KafkaConnectionError
        finally:
            self._under_way -= 1
        return ProduceResponse_v7([(TOPIC, answers)], 0)

    def _take(self, place: int, data: bytes, failing: object) -> tuple[int, int]:
        if isinstance(failing, int):
            return failing, -1
        batch = MemoryRecords(data).next_batch()
        assert batch.validate_crc()
        assert batch.producer_id == 7
        values = [record.value for record in batch]
        if batch.base_sequence == self._next[place] - len(values) and self.log[place][-len(values) :] == values:
            return 0, len(self.log[place]) - len(values)  # sent again after its answer was lost
        if batch.base_sequence != self._next[place]:
            return 45, -1  # OUT_OF_ORDER_SEQUENCE_NUMBER
        self._next[place] += len(values)
        self.log[place] += values
        return 0, len(self.log[place]) - len(values)

    def force_metadata_update(self):
        self.leader = 0
        return asyncio.ensure_future(asyncio.sleep(0))

    async def _maybe_wait_metadata(self) -> None:
        await asyncio.sleep(0)


def _topics_of(request):
    """Of aiokafka's request, or of ours as aiokafka reads it."""
    if isinstance(request, ProduceRequest):
        return request._topics
    return ProduceRequest_v7.decode(request.prepare({0: (3, 12)}).encode()).topics


class Producer:
    """AIOKafkaProducer's insides, as its constructor puts them together."""

    def __init__(self, broker: Broker) -> None:
        self.client = broker
        ids = TransactionManager(None, 60_000)
        ids.set_pid_and_epoch(7, 0)
        self._message_accumulator = MessageAccumulator(broker.cluster, 1 << 16, 0, 30, txn_manager=ids)
        self._sender = Sender(
            broker, acks=-1, txn_manager=ids, message_accumulator=self._message_accumulator,
            retry_backoff_ms=1, request_timeout_ms=1_000,
        )  # fmt: skip
        self.usual = 0

    async def send_batch(self, batch, topic, *, partition):
        self.usual += 1
        return await self._message_accumulator.add_batch(batch, TopicPartition(topic, partition), 30)

    def batch(self, *values: bytes):
        made = self._message_accumulator.create_builder()
        for value in values:
            assert made.append(key=b"k", value=value, timestamp=1, headers=[])
        made.close()
        return made


@pytest.fixture
async def producer():
    made = Producer(Broker())
    await made._sender.start()
    yield made
    await made._sender.close()


async def test_a_batch_goes_straight_and_the_next_one_has_the_next_sequence_number(producer):
    for number in range(3):
        await send_batch(producer, producer.batch(b"%d" % number, b"x"), TOPIC, 0)
    assert producer.client.log[0] == [b"0", b"x", b"1", b"x", b"2", b"x"]
    assert producer.usual == 0
    assert not producer._sender._in_flight
    assert not producer._sender._muted_partitions
    await asyncio.sleep(0)
    assert not producer._message_accumulator._pending_batches


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["straight", "usual"]), st.integers(0, 1)), min_size=1, max_size=12),
    fails=st.lists(st.sampled_from([None, None, LOST, ANSWER_LOST, NOT_LEADER]), max_size=8),
)
def test_whatever_fails_and_whoever_sends_everything_arrives_once_and_in_order(steps, fails):
    """INVARIANT: idempotence. If this fails, a delivery is lost or doubled by a broken connection."""

    async def run() -> None:
        made = Producer(Broker())
        made.client.fails = list(fails)
        await made._sender.start()
        sent: dict[int, list[bytes]] = defaultdict(list)
        waiting = []
        last: dict[int, asyncio.Task] = {}

        async def one(way: str, place: int, values: list[bytes], before) -> None:
            if before is not None:
                await before  # as the front door: one batch at a time on a partition
            if way == "straight":
                await send_batch(made, made.batch(*values), TOPIC, place)
            else:
                await (await made.send_batch(made.batch(*values), TOPIC, partition=place))

        for number, (way, place) in enumerate(steps):
            values = [b"%d.%d" % (number, each) for each in range(number % 3 + 1)]
            sent[place] += values
            last[place] = asyncio.ensure_future(one(way, place, values, last.get(place)))
            waiting.append(last[place])
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)
        assert {place: made.client.log[place] for place in sent} == sent
        await made._sender.close()

    asyncio.run(run())


async def test_a_batch_does_not_overtake_one_that_waits_for_its_partition(producer):
    producer.client.open.clear()
    first = await producer.send_batch(producer.batch(b"first"), TOPIC, partition=0)
    second = asyncio.ensure_future(send_batch(producer, producer.batch(b"second"), TOPIC, 0))
    await asyncio.sleep(0)
    producer.client.open.set()
    await asyncio.gather(first, second)
    assert producer.client.log[0] == [b"first", b"second"]


async def test_a_batch_does_not_overtake_one_that_waits_for_its_broker(producer):
    """INVARIANT: who waits is served. If this fails, some requests at a busy front door wait for seconds while others pass them."""
    producer.client.open.clear()
    first = asyncio.ensure_future(send_batch(producer, producer.batch(b"first"), TOPIC, 0))
    await asyncio.sleep(0)
    waits = asyncio.ensure_future(send_batch(producer, producer.batch(b"waits"), TOPIC, 1))
    await asyncio.sleep(0)
    producer.client.open.set()
    await first
    for number in range(20):
        await send_batch(producer, producer.batch(b"%d" % number), TOPIC, 0)
        if waits.done():
            break
    assert number == 0
    assert producer.client.log[1] == [b"waits"]


async def test_what_waited_behind_a_straight_batch_is_sent_when_that_is_done(producer):
    producer.client.open.clear()
    first = asyncio.ensure_future(send_batch(producer, producer.batch(b"first"), TOPIC, 0))
    await asyncio.sleep(0)
    others = [await producer.send_batch(producer.batch(b"other"), TOPIC, partition=place) for place in (0, 1)]
    producer.client.open.set()
    async with asyncio.timeout(5):
        await asyncio.gather(first, *others)
    assert producer.client.log == {0: [b"first", b"other"], 1: [b"other"]}


@pytest.mark.parametrize("leader", [None, -1])
async def test_without_a_leader_aiokafka_looks_for_one(producer, leader):
    producer.client.leader = leader
    await send_batch(producer, producer.batch(b"v"), TOPIC, 0)
    assert producer.usual == 1
    assert producer.client.log[0] == [b"v"]


async def test_what_the_broker_refuses_for_good_is_raised_and_everything_is_free_again(producer):
    producer.client.fails = [TOO_LARGE]
    with pytest.raises(MessageSizeTooLargeError):
        await send_batch(producer, producer.batch(b"v"), TOPIC, 0)
    assert not producer._sender._in_flight
    assert not producer._sender._muted_partitions


async def test_who_closes_waits_for_a_straight_batch(producer):
    producer.client.open.clear()
    sending = asyncio.ensure_future(send_batch(producer, producer.batch(b"v"), TOPIC, 0))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(producer._message_accumulator.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    producer.client.open.set()
    await asyncio.gather(sending, closing)
    assert producer.client.log[0] == [b"v"]


async def test_who_is_cancelled_leaves_the_way_free(producer):
    producer.client.open.clear()
    sending = asyncio.ensure_future(send_batch(producer, producer.batch(b"v"), TOPIC, 0))
    await asyncio.sleep(0.01)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.sleep(0)
    assert not producer._sender._in_flight
    assert not producer._sender._muted_partitions
    assert not producer._message_accumulator._pending_batches


async def test_another_aiokafka_than_the_one_that_is_known_gets_its_batches_as_usual():
    class Other:
        async def send_batch(self, batch, topic, *, partition):
            done = asyncio.get_running_loop().create_future()
            done.set_exception(KafkaError(f"{batch} {topic} {partition}"))
            return done

    with pytest.raises(KafkaError, match="b t 3"):
        await send_batch(Other(), "b", "t", 3)
