"""How far each role and lane is behind, in messages and in seconds, and what to do about it.

Law: reads offsets and moves none. Why somebody is behind is known to its own process alone (`/health/ready`): what is told here is
what offsets, members and open letters show. Seconds are the age of the oldest message that waits: the time that the record at the
group's committed offset carries, which is when it was published.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from console.reading import partitions_of, reader
from console.status_letters import open_letters
from console.status_section import Section, Sight
from infra.kafka.connection import options
from infra.kafka.downstream import ENOUGH, MOST_BEHIND
from infra.settings import Settings, variable
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_BULK_GROUP, HYDRATOR_GROUP, rest_seconds
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS
from sinks.app import group_of

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    TRANSLATOR_GROUP: ("translator", (DELIVERIES.name,)),
    HYDRATOR_GROUP: ("hydrator", (CHANGES.name,)),
    HYDRATOR_BULK_GROUP: ("hydrator", (CHANGES_BULK.name,)),
    ANALYST_GROUP: ("analyst", (RECORDS.name,)),
}
BOTH = "live+bulk"
LANES = {
    CHANGES.name: "live",
    CHANGES_BULK.name: "bulk",
    RECORDS.name: BOTH,
    INSIGHTS.name: BOTH,
    INSIGHTS_REDRIVEN.name: "redriven",
}
_AFTER = frozenset({RECORDS.name, INSIGHTS.name})
"""What bulk work waits for when its readers are far behind."""
ANSWER_SECONDS = 5.0
"""So long at most for the oldest messages; a partition whose answer is missing counts with the others' age."""
CALM_SECONDS = 5.0
"""What waits for less needs no word."""
SLOW_SECONDS = 60.0
"""Whoever reads and leaves something waiting for longer is paused or too slow."""


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
    """`live`, `bulk`, `live+bulk` where one topic carries both, `redriven`; empty before there are lanes."""
    partitions: int = 0
    """Of the topic: so many members can read it at once."""

    @property
    def stage(self) -> str:
        """As dead letters name it."""
        return f"sink:{self._destination}" if self._destination else self.role

    @property
    def name(self) -> str:
        """The role, and for which destination."""
        return f"{self.role} {self._destination}".rstrip()

    @property
    def _destination(self) -> str:
        return self.group.removeprefix(group_of("")) if self.group.startswith(group_of("")) else ""


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
                    partitions = await partitions_of(consumer, topic)
                    behind = await _behind(consumer, partitions, committed)
                    stamps = await oldest(consumer, {place: span.start for place, span in behind.items()})
                    age = max(0.0, time.time() - min(stamps.values()) / 1000) if stamps else 0.0
                    waiting = sum(len(span) for span in behind.values())
                    lane = LANES.get(topic, "")
                    found.append(Lag(role, group, topic, waiting, round(age, 1), members, lane, len(partitions)))
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
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], committed: Mapping[TopicPartition, Any]
) -> dict[TopicPartition, range]:
    """Offsets that the group has not passed, of partitions where there are any."""
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


def remedy(lag: Lag, others: Sequence[Lag], *, poisoned: Container[str], rest: float) -> str:
    """What to do about it; empty: nothing.

    Args:
        lag: of one group on one topic.
        others: of all.
        poisoned: stages of which letters of the kind `poison` are open.
        rest: seconds for which the analyst's questions may rest.
    """
    start = f"`hookline serve {lag.role}`"
    if not lag.members:
        if lag.stage not in poisoned:
            return f"Nobody reads: start {start}."
        return (
            "Nobody reads, and dead letters of the kind poison are open: it may have stopped at their limit (its log says so). "
            f"Mend or roll back the release, then start {start}, then `hookline dead-letters redrive --stage {lag.stage} "
            "--kind poison`."
        )
    rests = rest if lag.role == "analyst" else 0.0
    if not lag.messages or lag.seconds <= rests + SLOW_SECONDS:
        resting = lag.messages and CALM_SECONDS < lag.seconds <= rests
        return (
            f"Nothing: questions rest for up to {rests:g} s ({variable('question_rest_seconds')})." if resting else ""
        )
    if lag.topic == CHANGES_BULK.name:
        narrow = [each.name for each in others if each.topic in _AFTER and each.messages > MOST_BEHIND * ENOUGH]
        if narrow:
            return f"Bulk work waits for {' and '.join(narrow)} to catch up: see there."
    more = (
        f"add replicas, up to the {lag.partitions} partitions"
        if lag.members < lag.partitions
        else f"each of the {lag.partitions} partitions has its reader already"
    )
    slow = "Bulk work has what live work leaves; paused, or" if lag.lane == "bulk" else "Paused or"
    return f"{slow} too slow: its /health/ready names what it waits for. If nothing, {more}."


async def _look(sight: Sight) -> list[dict[str, Any]]:
    found = await lags(sight.settings)
    poisoned: set[str] = set()
    if not all(lag.members for lag in found):
        poisoned = {row["stage"] for row in await open_letters(sight) if row["kind"] == "poison"}
    rest = rest_seconds(sight.settings)
    return [
        {**asdict(lag), "name": lag.name, "remedy": remedy(lag, found, poisoned=poisoned, rest=rest)} for lag in found
    ]


def _show(found: Any) -> Sequence[RenderableType]:
    table = Table("role", "topic", "lane", "behind", "oldest waiting", "members")
    said: dict[tuple[str, str], list[str]] = {}
    for lag in found:
        waits = f"{lag['seconds']:.1f} s" if lag["seconds"] < 120 else str(timedelta(seconds=round(lag["seconds"])))
        table.add_row(
            lag["name"],
            lag["topic"],
            lag["lane"],
            str(lag["messages"]),
            waits if lag["messages"] else "-",
            str(lag["members"]) if lag["members"] else "[bold red]0[/]",
        )
        if lag["remedy"]:
            said.setdefault((lag["name"], lag["remedy"]), []).append(lag["lane"])
    lines: list[RenderableType] = [table]
    for (name, what), lanes in said.items():
        of = ", ".join(filter(None, lanes))
        lines.append(Text(f"{name} ({of}): {what}" if of else f"{name}: {what}"))
    return lines


SECTION = Section("roles", _look, _show)
