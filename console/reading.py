"""Reading topics from the outside: without a group, so that nobody's offsets move.

Law: reads only; what cannot be opened is handed on as such, never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka.codec import Codec, Received
from infra.kafka.connection import options
from infra.kafka.raw import Raw
from infra.settings import Settings
from schemas.dead_letter import Cause
from schemas.topics import Topic

Unreadable = tuple[Raw, Cause, str]


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that belongs to no group and commits nothing."""
    consumer = AIOKafkaConsumer(
        **options(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """All partitions of a topic; empty when it does not exist."""
    await consumer._client.force_metadata_update()  # noqa: SLF001 -- a consumer without a subscription has no other way to learn of topics
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


async def read(
    settings: Settings, codec: Codec, topic: Topic[Any], *, newest: int | None = None, follow: bool = False
) -> AsyncIterator[Received[Any] | Unreadable]:
    """Messages of a topic, decoded: all, or the `newest` per partition; with `follow`, also those that come."""
    async with reader(settings) as consumer:
        partitions = await partitions_of(consumer, topic.name)
        if not partitions:
            return
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        starts = {p: begins[p] if newest is None else max(begins[p], ends[p] - newest) for p in partitions}
        consumer.assign(partitions)
        for partition, start in starts.items():
            consumer.seek(partition, start)
        while follow or any([await consumer.position(p) < ends[p] for p in partitions]):
            batch = await consumer.getmany(timeout_ms=200)
            for records in batch.values():
                opened, failed = await codec.open(topic, records)
                for message in opened:
                    yield message
                for unreadable in failed:
                    yield unreadable
