"""Batches that go straight to a real broker, beside those that go aiokafka's way, through connections that break."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.kafka.connection import options
from infra.kafka.straight import send_batch
from infra.settings import Settings

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]
PARTITIONS = 3
BATCHES = 40


@pytest.fixture
async def topic(kafka_url: str):
    name = f"straight-{uuid.uuid4().hex[:10]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    yield name
    await admin.delete_topics([name])
    await admin.close()


async def test_every_record_is_there_once_and_in_order_whatever_becomes_of_connections(kafka_url: str, topic: str):
    """INVARIANT: idempotence holds on real Kafka. If this fails, a broken connection loses deliveries or doubles them."""
    given = options(Settings(kafka_url=kafka_url, kafka_replication=1, _env_file=None))
    producer = AIOKafkaProducer(
        **given, acks="all", enable_idempotence=True, compression_type="snappy", retry_backoff_ms=10
    )
    await producer.start()
    sent: dict[int, list[bytes]] = {place: [] for place in range(PARTITIONS)}

    async def fill(place: int) -> None:
        for number in range(BATCHES):
            batch = producer.create_batch()
            for each in range(number % 4 + 1):
                value = b"%d.%d" % (number, each)
                sent[place].append(value)
                batch.append(key=b"k", value=value, timestamp=1_700_000_000_000, headers=[("h", b"v")])
            batch.close()
            if number % 3 == place:
                await (await producer.send_batch(batch, topic, partition=place))
            else:
                await send_batch(producer, batch, topic, place)
            if number % 10 == place:
                for connection in list(producer.client._conns.values()):
                    connection.close()

    async with asyncio.timeout(40):
        await asyncio.gather(*(fill(place) for place in range(PARTITIONS)))
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_url)
    await consumer.start()
    consumer.assign([TopicPartition(topic, place) for place in range(PARTITIONS)])
    await consumer.seek_to_beginning()
    found: dict[int, list[bytes]] = {place: [] for place in range(PARTITIONS)}
    async with asyncio.timeout(20):
        while sum(map(len, found.values())) < sum(map(len, sent.values())):
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                found[place.partition] += [record.value for record in records]
    await consumer.stop()
    assert found == sent
