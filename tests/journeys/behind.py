"""What earlier tests left on the shared topics stays behind: a house begins at their ends.

A house has a database of its own, so the keys of whatever lies there are gone to it. Its roles would lay that aside
message by message, and stop over so much poison.
"""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.plugins import load
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_BULK_GROUP, HYDRATOR_GROUP
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS
from sinks.app import group_of
from sinks.destinations.destination import DestinationPlugin

MEMBERS_LEAVE_SECONDS = 20.0
"""A member that was killed is in its group until its session is over."""


def groups() -> dict[str, tuple[str, ...]]:
    """Every group of the roles, and its topics."""
    plugins = load("sinks.destinations", DestinationPlugin)
    sinks = {group_of(name): (INSIGHTS.name, INSIGHTS_REDRIVEN.name) for name in plugins}
    return {
        TRANSLATOR_GROUP: (DELIVERIES.name,),
        HYDRATOR_GROUP: (CHANGES.name,),
        HYDRATOR_BULK_GROUP: (CHANGES_BULK.name,),
        ANALYST_GROUP: (RECORDS.name,),
        **sinks,
    }


async def leave_behind(kafka_url: str) -> None:
    """Commit the ends of the topics for every group; nobody of theirs may be at work. Raises KafkaError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url)
    await admin.start()
    try:
        partitions = {
            topic["topic"]: [each["partition"] for each in topic["partitions"]]
            for topic in await admin.describe_topics()
        }
    finally:
        await admin.close()
    await asyncio.gather(
        *(
            _to_end(kafka_url, group, [TopicPartition(topic, each) for topic in topics for each in partitions[topic]])
            for group, topics in groups().items()
        )
    )


async def _to_end(kafka_url: str, group: str, partitions: list[TopicPartition]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_url, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        deadline = time.monotonic() + MEMBERS_LEAVE_SECONDS
        while True:
            try:
                await consumer.commit(ends)
            except KafkaError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)
            else:
                return
    finally:
        await consumer.stop()
