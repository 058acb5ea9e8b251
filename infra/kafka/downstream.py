"""Whether those who read what we write keep up: a bulk lane waits for them, so that it never stands before live traffic.

Law: looks and pauses, touches no offsets. `crm.records` and what follows has one lane: whatever a bulk lane puts there
faster than it is read would make live traffic wait behind it. So bulk goes only as fast as the slowest reader behind it.
A reader that stands still (its destination is away, nobody runs it) is no measure of anything, unless it is `vital`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.kafka.connection import options
from infra.settings import Settings
from infra.telemetry import log

LOOK_SECONDS = 0.5
MOST_BEHIND = 1_000
"""Messages that may wait for one reader; below what a pump holds in memory, where tenants take turns."""
ENOUGH = 0.5
"""The bulk lane goes on below this part of it."""
STANDS_STILL_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer group of a topic."""

    group: str
    topic: str
    vital: bool = False
    """Whether it holds the bulk lane even while it stands still."""


@dataclass(slots=True)
class _Seen:
    committed: int
    moved: float


class Downstream:
    """Runs beside a role's pumps; `pause` and `resume` are called in pairs, from the loop that `run` is awaited in."""

    def __init__(
        self,
        settings: Settings,
        readers: Sequence[Reader],
        *,
        pause: Callable[[], None],
        resume: Callable[[], None],
        most_behind: int = MOST_BEHIND,
        stands: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most_behind`: messages. `stands()`: how far the lane has come; while that stays as it is, it puts nothing before
        anybody, and nobody is looked at.
        """
        self._settings = settings
        self._readers = tuple(readers)
        self._pause = pause
        self._resume = resume
        self._most = most_behind
        self._stands = stands
        self._stood: object = None
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._holding = False
        self._log = log("downstream")

    async def run(self) -> None:
        """Until cancelled. While the brokers do not answer nothing changes: the pump notices by itself."""
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    admin = AIOKafkaAdminClient(**options(self._settings))
                    stack.push_async_callback(admin.close)
                    await admin.start()
                    consumer = AIOKafkaConsumer(**options(self._settings), group_id=None, enable_auto_commit=False)
                    stack.push_async_callback(consumer.stop)
                    await consumer.start()
                    while True:
                        if self.is_worth_a_look():
                            self.judge(await self._look(admin, consumer))
                        await asyncio.sleep(LOOK_SECONDS)
            except (KafkaError, OSError) as error:
                self._log.warning("downstream_not_seen", error=type(error).__name__)
                await asyncio.sleep(4 * LOOK_SECONDS)

    def is_worth_a_look(self) -> bool:
        """Whether the lane puts anything before them, or waits for them. Asked once for each look."""
        if self._stands is None:
            return True
        before, self._stood = self._stood, self._stands()
        return self._holding or before != self._stood

    def judge(self, found: dict[Reader, tuple[int, int]]) -> None:
        """Pause or resume by what was seen: reader → (messages behind, sum of what it has committed)."""
        now = self._clock()
        behind = 0
        for reader, (lag, committed) in found.items():
            seen = self._seen.get(reader.group)
            if seen is None or committed != seen.committed:
                seen = self._seen[reader.group] = _Seen(committed, now)
            if reader.vital or now - seen.moved < STANDS_STILL_SECONDS:
                behind = max(behind, lag)
        if not self._holding and behind > self._most:
            self._holding = True
            self._pause()
        elif self._holding and behind <= self._most * ENOUGH:
            self._holding = False
            self._resume()

    async def _look(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> dict[Reader, tuple[int, int]]:
        ends: dict[TopicPartition, int] = {}
        for topic in {reader.topic for reader in self._readers}:
            partitions = [TopicPartition(topic, each) for each in await _partitions(consumer, topic)]
            ends |= await consumer.end_offsets(partitions)
        found = {}
        for reader in self._readers:
            at = await admin.list_consumer_group_offsets(reader.group)
            # A partition without a commit was never read: what lies there from before the group began says nothing of its speed.
            committed = {each: at[each].offset for each in ends if each in at and each.topic == reader.topic}
            lag = sum(max(0, ends[each] - offset) for each, offset in committed.items() if offset >= 0)
            found[reader] = lag, sum(committed.values())
        return found


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    known: set[int] | None = consumer.partitions_for_topic(topic)
    if not known:
        await consumer._client.force_metadata_update()  # noqa: SLF001 -- a consumer without a subscription has no other way to learn of topics
        known = consumer.partitions_for_topic(topic)
    return known or set()
