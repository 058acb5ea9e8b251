"""Publishing to real Kafka: acknowledgements, order, partitions, outages; topics that are made and checked."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from infra.kafka.broker import BrokerUnavailable, MessageTooLarge, Publisher, partition_of
from infra.kafka.codec import Codec, Outgoing, RawMessage
from infra.kafka.topics import check_topics, migrate_topics
from infra.keyring import Keyring, MemoryKeys, new_master_key
from infra.local.stack import EmbeddedStack
from infra.settings import Settings, SettingsError
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.topics import ALL, CHANGES, DEAD_LETTERS, RECORDS, Topic

pytestmark = [pytest.mark.connected, pytest.mark.timeout(90)]


def change(tenant: str, number: int) -> Change:
    return Change(
        tenant=tenant,
        account="hubspot:1",
        object="contact",
        id=str(number),
        kind="updated",
        occurred_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


def out(key: bytes, value: bytes) -> Outgoing:
    return Outgoing(key, value, [], key)


@pytest.fixture
def kafka(kafka_url: str) -> Settings:
    return Settings(kafka_url=kafka_url, kafka_replication=1, environment="development", _env_file=None)


@pytest.fixture
def codec() -> Codec:
    return Codec(Keyring(MemoryKeys(), SecretStr(new_master_key())), "hookline/test")


@pytest.fixture
async def publisher(kafka: Settings, codec: Codec):
    publisher = Publisher(kafka, codec, timeout=20)
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def topic(kafka: Settings):
    name = f"broker-{uuid.uuid4().hex[:10]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_url)
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1)])
    yield name
    await admin.delete_topics([name])
    await admin.close()


async def read(kafka: Settings, topic: str) -> list:
    """Everything that lies on a topic now, by partition and offset."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.kafka_url, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in sorted(await consumer._client._wait_on_metadata(topic))]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found.extend(records)
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


async def test_answers_where_each_message_lies_in_the_order_given(kafka, publisher, topic) -> None:
    messages = [out(b"k%d" % (number % 11), b"%d" % number) for number in range(2000)]
    places = await publisher.publish_to(topic, messages)
    there = {(record.partition, record.offset): record.value for record in await read(kafka, topic)}
    assert [there[place] for place in places] == [message.value for message in messages]
    assert [partition for partition, _ in places] == [partition_of(message.key, 3) for message in messages]


async def test_calls_that_wait_at_the_same_time_keep_their_order_and_share_batches(kafka, publisher, topic) -> None:
    """INVARIANT: two calls for one key arrive in the order in which they were made; versions rest on it."""
    calls = [
        asyncio.ensure_future(publisher.publish_to(topic, [out(b"same", b"%d" % number)])) for number in range(500)
    ]
    offsets = [(await call)[0][1] for call in calls]
    assert offsets == sorted(offsets)
    assert [int(record.value) for record in await read(kafka, topic)] == list(range(500))


async def test_a_call_larger_than_a_batch_is_split_and_answered_whole(kafka, publisher, topic) -> None:
    messages = [out(b"one", os.urandom(100_000)) for _ in range(30)]
    places = await publisher.publish_to(topic, messages)
    assert [offset for _, offset in places] == list(range(30))
    assert [record.value for record in await read(kafka, topic)] == [message.value for message in messages]


async def test_a_message_over_the_limit_is_refused_before_anything_is_sent(kafka, publisher, topic) -> None:
    with pytest.raises(MessageTooLarge):
        await publisher.publish_to(topic, [out(b"a", b"small"), out(b"a", bytes(1_000_001))])
    assert await read(kafka, topic) == []


async def test_what_the_broker_refuses_as_too_large_does_not_end_the_publisher(kafka, codec, topic) -> None:
    """INVARIANT: one oversized message must not break the idempotent producer's sequence for all that follow."""
    publisher = Publisher(kafka.model_copy(update={"kafka_max_message_bytes": 3_000_000}), codec, timeout=15)
    await publisher.start()
    with pytest.raises(MessageTooLarge):
        await publisher.publish_to(topic, [out(b"a", os.urandom(1_500_000))])
    assert await publisher.publish_to(topic, [out(b"a", b"next")]) == [(partition_of(b"a", 3), 0)]
    await publisher.stop()


async def test_a_change_comes_back_as_it_was_and_a_dead_letter_keeps_its_bytes(kafka, publisher, codec) -> None:
    await migrate_topics(kafka)
    tenant = uuid.uuid4().hex
    [(partition, offset)] = await publisher.publish(CHANGES, [change(tenant, 1)])
    raw = next(
        record for record in await read(kafka, CHANGES.name) if (record.partition, record.offset) == (partition, offset)
    )
    [received], refused = await codec.open(CHANGES, [raw])
    assert refused == []
    assert received.payload == change(tenant, 1)
    seen = []
    publisher.watch(lambda raw, cause: seen.append((raw.offset, cause)))
    await publisher.dead_letter(raw, stage="test", cause=Cause.HANDLER_BUG, detail="KeyError", tenant=tenant)
    assert seen == [(offset, Cause.HANDLER_BUG)]
    letters = [record for record in await read(kafka, DEAD_LETTERS.name) if record.key.startswith(tenant.encode())]
    [letter], _ = await codec.open(DEAD_LETTERS, letters)
    again = RawMessage(
        letter.payload.original_topic, letter.payload.original_partition, letter.payload.original_offset,
        letter.payload.original_key, letter.payload.original_value, letter.payload.original_headers,
    )  # fmt: skip
    assert (await codec.open(CHANGES, [again]))[0][0].payload == change(tenant, 1)


async def test_a_dead_letter_of_the_largest_message_fits(kafka, publisher) -> None:
    await migrate_topics(kafka)
    tenant = uuid.uuid4().hex
    raw = RawMessage("crm.deliveries", 0, 7, b"k", os.urandom(1_000_000), [])
    await publisher.dead_letter(raw, stage="test", cause=Cause.UNPARSABLE, detail="", tenant=tenant)
    letters = [record for record in await read(kafka, DEAD_LETTERS.name) if record.key.startswith(tenant.encode())]
    [letter], _ = await publisher.codec.open(DEAD_LETTERS, letters)
    assert letter.payload.original_value == raw.value or "read them at the original offset" in letter.payload.detail


async def test_migrating_twice_creates_nothing_and_checks_out(kafka) -> None:
    await migrate_topics(kafka)
    assert await migrate_topics(kafka) == []
    await check_topics(kafka, ALL)


async def test_a_topic_that_is_missing_or_differs_is_refused_by_name(kafka, topic) -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.topic.*hookline migrate"):
        await check_topics(kafka, [Topic("no.such.topic", Change, "x", key=str, partition_by=str, scope="record")])
    compacted = Topic(topic, RECORDS.payload, "x", key=str, partition_by=str, scope="record", compacted=True)
    with pytest.raises(SettingsError, match=r"cleanup\.policy is 'delete', expected 'compact'"):
        await check_topics(kafka, [compacted])


@pytest.fixture
def own_kafka():
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="hookline-test-"))
    folder.chmod(0o711)
    stack = EmbeddedStack(folder / "data", database_url="postgresql://unused", redis_url="redis://unused")
    try:
        urls = stack.start()
        yield stack, Settings(kafka_url=urls.kafka_url, kafka_replication=1, environment="development", _env_file=None)
    finally:
        stack.stop()
        shutil.rmtree(folder)


def stop(pid: int) -> None:
    """Stop it, and return when all its threads stand still: a busy machine wakes the one that stops the others when it gets to it."""
    os.kill(pid, signal.SIGSTOP)
    for _ in range(1000):
        if all("State:\tT" in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")):
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {pid} goes on")


async def test_kafka_away_is_said_within_the_timeout_and_at_once_from_then_on(own_kafka, codec) -> None:
    """INVARIANT: the front door answers 503 in time and queues nothing without bound; Kafka back, all goes on by itself."""
    stack, kafka = own_kafka
    await migrate_topics(kafka)
    publisher = Publisher(kafka, codec, timeout=2.0)
    await publisher.start()
    await publisher.publish(CHANGES, [change("t", 1)])
    pid = stack.pids()["kafka"]
    stop(pid)
    try:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="not acknowledged within 2 s"):
            await publisher.publish(CHANGES, [change("t", 1)])
        assert time.monotonic() - started < 3.0
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await asyncio.gather(*(publisher.publish(CHANGES, [change("t", 1)]) for _ in range(100)))
        assert time.monotonic() - started < 0.5
        assert "does not answer" in await publisher.ask(0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(30):
        while True:
            try:
                await publisher.publish(CHANGES, [change("t", 2)])
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
    assert await publisher.ask() is None

    await asyncio.to_thread(stack.kill, "kafka")
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(CHANGES, [change("t", 3)])
    await asyncio.to_thread(stack.revive, "kafka")
    async with asyncio.timeout(40):
        while True:
            try:
                [(_, last)] = await publisher.publish(CHANGES, [change("t", 3)])
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
    assert last >= 0
    await publisher.stop()


async def test_starting_without_a_broker_says_which_address_does_not_answer(codec) -> None:
    publisher = Publisher(Settings(kafka_url="127.0.0.1:1", _env_file=None), codec, timeout=1.0)
    with pytest.raises(BrokerUnavailable, match=r"no broker at 127\.0\.0\.1:1 answers"):
        await publisher.start()
    await publisher.stop()
