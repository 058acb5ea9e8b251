"""How far each role and lane is behind: in messages, and in seconds.

Law: reads offsets and moves none. Seconds are the age of the oldest message that waits: the time that the record at the
group's committed offset carries, which is when it was published.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from rich.console import RenderableType
from rich.table import Table

from console.reading import partitions_of, reader
from console.status_section import Section, Sight
from infra.kafka.connection import options
from infra.settings import Settings
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_BULK_GROUP, HYDRATOR_GROUP
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS
from sinks.app import group_of

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    TRANSLATOR_GROUP: ("translator", (DELIVERIES.name,)),
    HYDRATOR_GROUP: ("hydrator", (CHANGES.name,)),
    HYDRATOR_BULK_GROUP: ("hydrator", (CHANGES_BULK.name,)),
    ANALYST_GROUP: ("analyst", (RECORDS.name,)),
}
LANES = {CHANGES.name: "live", CHANGES_BULK.name: "bulk", INSIGHTS_REDRIVEN.name: "redriven"}
ANSWER_SECONDS = 5.0
"""So long at most for the oldest messages; a partition whose answer is missing counts with the others' age."""


def groups(settings: Settings) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Consumer group → role and topics; one more group for each enabled destination."""
    carried = (INSIGHTS.name, INSIGHTS_REDRIVEN.name)
    return {**GROUPS, **{group_of(name): ("sinks", carried) for name in settings.destinations}}


@dataclass(frozen=True)
class Lag:
    """How far one consumer group is behind on one topic."""

    role: str
    group: str
    topic: str
    messages: int
    seconds: float
    """Age of the oldest message that waits; 0 when none does."""
    members: int
    lane: str = ""
    """`live`, `bulk` or `redriven`; empty where a topic has one lane alone."""


async def lags(settings: Settings) -> list[Lag]:
    """Lag of every role's group; raises KafkaError when the brokers do not answer."""
    admin = AIOKafkaAdminClient(**options(settings))
    try:
        await admin.start()
        # The first batch of a partition comes whatever it weighs; more than that is not wanted.
        async with reader(settings, max_partition_fetch_bytes=1) as consumer:
            found = []
            for group, (role, topics) in groups(settings).items():
                members = await _members(admin, group)
                committed = await admin.list_consumer_group_offsets(group)
                for topic in topics:
                    behind = await _behind(consumer, topic, committed)
                    stamps = await oldest(consumer, {place: span.start for place, span in behind.items()})
                    age = max(0.0, time.time() - min(stamps.values()) / 1000) if stamps else 0.0
                    waiting = sum(len(span) for span in behind.values())
                    found.append(Lag(role, group, topic, waiting, round(age, 1), members, LANES.get(topic, "")))
            return found
    finally:
        await admin.close()


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    # One group at a time: aiokafka 0.14 misreads an answer about several (it reads v3 as v2).
    for response in await admin.describe_consumer_groups([group]):
        for entry in response.groups:
            return len(entry[5])
    return 0


async def _behind(
    consumer: AIOKafkaConsumer, topic: str, committed: Mapping[TopicPartition, Any]
) -> dict[TopicPartition, range]:
    """Offsets that the group has not passed, of partitions where there are any."""
    partitions = await partitions_of(consumer, topic)
    if not partitions:
        return {}
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    at = {each: max(committed[each].offset if each in committed else -1, begins[each]) for each in partitions}
    return {each: range(at[each], ends[each]) for each in partitions if ends[each] > at[each]}


async def oldest(consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """When the first message at or after each offset was published: milliseconds since 1970."""
    found: dict[TopicPartition, int] = {}
    if not starts:
        return found
    consumer.assign(list(starts))
    for place, offset in starts.items():
        consumer.seek(place, offset)
    until = time.monotonic() + ANSWER_SECONDS
    while (left := starts.keys() - found.keys()) and time.monotonic() < until:
        for place, records in (await consumer.getmany(*left, timeout_ms=200)).items():
            if records:
                found[place] = records[0].timestamp
                consumer.pause(place)
    return found


async def _look(sight: Sight) -> list[dict[str, Any]]:
    return [asdict(lag) for lag in await lags(sight.settings)]


def _show(found: Any) -> Sequence[RenderableType]:
    table = Table("role", "topic", "lane", "behind", "oldest waiting", "members")
    for lag in found:
        members = (
            str(lag["members"])
            if lag["members"]
            else f"[bold red]0: nobody reads; start `hookline serve {lag['role']}`[/]"
        )
        waits = f"{lag['seconds']:.1f} s" if lag["seconds"] < 120 else str(timedelta(seconds=round(lag["seconds"])))
        table.add_row(
            lag["role"], lag["topic"], lag["lane"], str(lag["messages"]), waits if lag["messages"] else "-", members
        )
    return [table]


SECTION = Section("roles", _look, _show)
