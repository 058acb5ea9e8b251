"""Reading topics from the outside: without a group, so that nobody's offsets move.

Law: reads only; what cannot be opened is handed on as such, never skipped. A range is fixed when reading begins: it ends
where the topic ended then, unless it is followed.

`read_range` is what everything that reads a piece of a topic stands on: `hookline topics tail` and `export`, dead letters,
replays. What it is asked for is tested on keys and headers, before anything is decrypted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka.codec import Codec, Received
from infra.kafka.connection import options
from infra.kafka.raw import Raw
from infra.settings import Settings
from schemas.dead_letter import Cause
from schemas.record import RecordRef
from schemas.topics import Topic

Unreadable = tuple[Raw, Cause, str]
POLL_MS = 200


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages are meant, as far as keys and headers say it; an empty field means any."""

    tenant: str = ""
    account: str = ""
    """Deliveries have none in the clear: an endpoint may speak for several. None of them passes."""
    object: str = ""
    record: RecordRef | None = None
    since_ms: int | None = None
    """Milliseconds since 1970 by the producer's clock, inclusive."""
    until_ms: int | None = None
    """Exclusive."""

    def takes(self, raw: Raw) -> bool:
        """Whether the message is meant. Pure; raises nothing."""
        if self.since_ms is not None and raw.timestamp < self.since_ms:
            return False
        if self.until_ms is not None and raw.timestamp >= self.until_ms:
            return False
        if not (self.tenant or self.account or self.object or self.record):
            return True
        tenant, account, object_, record = owner(raw)
        return (
            (not self.tenant or tenant == self.tenant)
            and (not self.account or account == self.account)
            and (not self.object or object_ == self.object)
            and (self.record is None or (tenant, account, object_, record) == tuple(self.record))
        )


EVERYTHING = Selection()


def owner(raw: Raw) -> tuple[str, str, str, str]:
    """Tenant, account, object and record of a message from its clear key and headers; empty where they do not say."""
    headers = {name: bytes(value or b"").decode(errors="replace") for name, value in raw.headers}
    parts = (raw.key or b"").decode(errors="replace").split("/")
    tenant = headers.get("hl_tenant") or parts[0]
    if len(parts) < 4:
        return tenant, headers.get("hl_account", ""), "", ""
    account, object_, record = ("" if part == "-" else part for part in parts[1:4])
    return tenant, headers.get("hl_account") or account, object_, record


@asynccontextmanager
async def reader(settings: Settings, **more: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that belongs to no group and commits nothing; `more` are aiokafka's own options."""
    consumer = AIOKafkaConsumer(
        **options(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **more
    )
    try:
        await consumer.start()
        # Its tasks begin: one that is cancelled before it has, raises out of `stop`.
        await asyncio.sleep(0)
        yield consumer
    finally:
        await consumer.stop()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """All partitions of a topic; empty when it does not exist."""
    # What the consumer itself knows are the topics that it is assigned: of all others it would say that they do not exist.
    known = await consumer._client.fetch_all_metadata()  # noqa: SLF001 -- aiokafka's consumer has no other way to ask
    return [TopicPartition(topic, number) for number in sorted(known.partitions_for_topic(topic) or ())]


async def ranges_of(
    consumer: AIOKafkaConsumer,
    topic: str,
    *,
    partitions: Collection[int] | None = None,
    start: int | None = None,
    stop: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    newest: int | None = None,
) -> dict[int, range]:
    """Partition → offsets that exist now and are meant: from `start` (inclusive) to `stop` (exclusive), and of the time from
    `since` (inclusive) to `until` (exclusive); with `newest` only so many last ones of each. Empty ranges are left out.

    Offsets by time are the broker's: the first message at or after that moment. Raises KafkaError.
    """
    wanted = [
        each for each in await partitions_of(consumer, topic) if partitions is None or each.partition in partitions
    ]
    if not wanted:
        return {}
    begins, ends = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
    after = await _at(consumer, wanted, since)
    before = await _at(consumer, wanted, until)
    found = {}
    for each in wanted:
        first = max(begins[each], start or 0, after.get(each, begins[each]) if since else begins[each])
        last = ends[each] if stop is None else min(ends[each], stop)
        if since and each not in after:
            continue  # nothing was written since
        if until and each in before:
            last = min(last, before[each])
        if newest is not None:
            first = max(first, last - newest)
        if first < last:
            found[each.partition] = range(first, last)
    return found


async def _at(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], moment: datetime | None
) -> dict[TopicPartition, int]:
    if moment is None:
        return {}
    asked = int(moment.timestamp() * 1000)
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, asked))
    return {each: at.offset for each, at in found.items() if at is not None}


async def raw_range(
    consumer: AIOKafkaConsumer,
    topic: str,
    ranges: Mapping[int, range],
    *,
    selection: Selection = EVERYTHING,
    follow: bool = False,
) -> AsyncIterator[list[Raw]]:
    """Messages as they lie there, in pages, in order within a partition; tombstones too. The consumer is this call's while it runs.

    With `follow` it never ends: what comes after the ranges belongs to them.
    """
    assigned = {TopicPartition(topic, number): span for number, span in ranges.items() if span or follow}
    if not assigned:
        return
    consumer.assign(list(assigned))
    for partition, span in assigned.items():
        consumer.seek(partition, span.start)
    left = set(assigned)
    while left:
        for partition, records in (await consumer.getmany(*left, timeout_ms=POLL_MS)).items():
            stop = assigned[partition].stop
            page = [record for record in records if (follow or record.offset < stop) and selection.takes(record)]
            if page:
                yield page
        if not follow:
            # Compaction leaves gaps: past the end is where the position says so, whatever was returned.
            done = {partition for partition in left if await consumer.position(partition) >= assigned[partition].stop}
            left -= done
            if done:
                consumer.pause(*done)


async def read_range(
    settings: Settings,
    codec: Codec,
    topic: Topic[Any],
    ranges: Mapping[int, range] | None = None,
    *,
    selection: Selection = EVERYTHING,
    since: datetime | None = None,
    until: datetime | None = None,
    follow: bool = False,
) -> AsyncIterator[Received[Any] | Unreadable]:
    """Messages of a topic, decoded, in order within a partition; tombstones are left out.

    `ranges` are offsets by partition (all of the topic without); `since` and `until` narrow them. What cannot be opened comes
    as (message, cause, detail). Raises KafkaError, and Unavailable when keys are needed and Postgres is away.
    """
    async with reader(settings) as consumer:
        if ranges is None or since or until:
            found = await ranges_of(consumer, topic.name, since=since, until=until)
            if ranges is not None:
                found = {number: _both(span, found[number]) for number, span in ranges.items() if number in found}
        else:
            found = dict(ranges)
        if follow:
            for partition in await partitions_of(consumer, topic.name):
                end = (await consumer.end_offsets([partition]))[partition]
                found.setdefault(partition.partition, range(end, end))
        async for page in raw_range(consumer, topic.name, found, selection=selection, follow=follow):
            opened, failed = await codec.open(topic, page)
            for message in opened:
                yield message
            for unreadable in failed:
                yield unreadable


def _both(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


async def read(
    settings: Settings, codec: Codec, topic: Topic[Any], *, newest: int | None = None, follow: bool = False
) -> AsyncIterator[Received[Any] | Unreadable]:
    """Messages of a topic, decoded: all, or the `newest` per partition; with `follow`, also those that come."""
    async with reader(settings) as consumer:
        ranges = await ranges_of(consumer, topic.name, newest=newest)
    async for message in read_range(settings, codec, topic, ranges, follow=follow):
        yield message
