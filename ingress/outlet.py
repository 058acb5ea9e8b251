"""The front door's way to the broker: what waits goes together, in one batch to one partition, and the next batch to the next.

Law: a call returns after the acknowledgement of all in-sync replicas, or raises within its time; what nobody waits for any more
and is not under way is not sent. Never waits for a batch to fill. Which partition a delivery lies on means nothing, for
their order means nothing: so a batch holds all that waits instead of a sixth of it, and costs that much less a request
(docs/adr/0010). At most one batch is under way to a broker: aiokafka has one request at a time to each, so a second one would
wait beside what may yet join it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.structs import TopicPartition

from infra import metrics
from infra.kafka.codec import Outgoing
from infra.kafka.lane import MessageTooLarge
from infra.kafka.straight import send_batch
from infra.unavailable import BrokerUnavailable

FLUSHES = 3
"""Batches under way at once, to different brokers."""
MANY = 64
"""So many calls waiting begin another batch beside the one under way, where there is another broker. Fewer go together with the next,
unless that takes longer than _SWEEP_SECONDS."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
_SWEEP_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class _Group:
    """What one call has; it is done when all of it is acknowledged."""

    messages: Sequence[Outgoing]
    size: int
    due: float
    told: Callable[[Exception | None], None]
    taken: int = 0
    open: int = 0
    settled: bool = False

    def forget(self) -> None:
        """Nobody waits for it any more; it stands in the order of deadlines for a while yet, and holds nothing there."""
        self.settled = True
        self.messages = ()
        self.told = _nobody


class Outlet:
    """Belongs to one event loop; safe for any number of its tasks."""

    def __init__(
        self,
        topic: str,
        producer: Callable[[], Awaitable[Any]],
        broken: Callable[[Any, KafkaError], Awaitable[None]],
        *,
        seconds: float,
        max_message_bytes: int,
        flushes: int = FLUSHES,
    ) -> None:
        """`producer` returns the running one; `broken` is told of each batch that failed; `seconds` bound every call."""
        self._topic = topic
        self._producer = producer
        self._broken = broken
        self._seconds = seconds
        self._max_message_bytes = max_message_bytes
        self._flushes = flushes
        self._waiting: deque[_Group] = deque()
        self._calls: deque[_Group] = deque()
        """In the order of their deadlines; done ones are dropped when they come to the front."""
        self._queued_bytes = 0
        self._partitions: list[int] = []
        self._brokers = 1
        """How many lead partitions, as of the last batch."""
        self._busy: set[int] = set()
        """Those of them that have a batch under way."""
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        self._since: dict[int, float] = {}
        """Since when each batch is under way."""
        self._unanswered = math.inf
        """Since when no broker has anything but a batch that it has not acknowledged."""
        self._oldest = math.inf
        """Since when the oldest batch under way is."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._published = metrics.PUBLISHED.labels(topic)
        self._failed = metrics.PUBLISH_FAILED.labels(topic)
        self._took = metrics.PUBLISH_SECONDS.labels(topic)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when all of it is acknowledged.

        Raises BrokerUnavailable when it is not in time (some of it may have arrived, or may yet arrive), and MessageTooLarge.
        """
        done: asyncio.Future[None] = self._loop.create_future()

        def told(error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        group = self.offer(messages, told)
        try:
            await done
        finally:
            if not group.settled:
                # Nobody waits for it any more.
                group.forget()
                self._queued_bytes -= group.size

    def offer(self, messages: Sequence[Outgoing], told: Callable[[Exception | None], None]) -> _Group:
        """`publish` for whoever does not wait: `told` is called once, with None or with what `publish` would raise; it must not raise.

        Raises at once what is known at once, and then calls nobody.
        """
        size = 0
        for message in messages:
            length = len(message.value or b"")
            if length > self._max_message_bytes:
                raise MessageTooLarge(f"{length} bytes for {self._topic}, over {self._max_message_bytes}")
            size += length
        now = self._loop.time()
        self._admit(size, now)
        group = _Group(messages, size, now + self._seconds, told)
        self._queued_bytes += size
        self._waiting.append(group)
        self._calls.append(group)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._begin_where_due(now)
        return group

    async def stop(self) -> None:
        """Finish what is under way, for as long as a call may take, and take nothing more."""
        self._stopped = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _admit(self, size: int, now: float) -> None:
        if self._stopped:
            raise BrokerUnavailable("this process is stopping")
        if self._queued_bytes and self._queued_bytes + size > MAX_QUEUED_BYTES:
            raise BrokerUnavailable(f"{self._queued_bytes} bytes wait for an acknowledgement")
        if now - self._unanswered > self._seconds:
            # Whoever comes while Kafka is known to be away need not wait the whole time to hear it.
            raise BrokerUnavailable(f"{self._topic} has not acknowledged for {self._seconds:g} s")

    def _begin_where_due(self, now: float) -> None:
        """Something waits: for nobody, or with many, or behind a broker that may be in trouble where there are others."""
        if self._running and (
            self._running >= self._at_once or (len(self._waiting) < MANY and now - self._oldest <= _SWEEP_SECONDS)
        ):
            return
        self._running += 1
        task = self._loop.create_task(self._run(), name=f"publish-{self._topic}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting and await self._flush():
                pass
        except asyncio.CancelledError:
            self._fail_waiting(BrokerUnavailable("this process is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, callers must hear of it now and not after their time
            self._fail_waiting(BrokerUnavailable(type(error).__name__))
        finally:
            # Not by the task's end, which others learn of later: a call in between would wait for nobody.
            self._running -= 1

    async def _flush(self) -> bool:
        """False: every broker has a batch under way, and whoever sent it sees to what waits."""
        mark = self._loop.time()
        slot = id(asyncio.current_task())
        self._since[slot] = mark
        self._look()
        chosen: tuple[int, int] | None = None
        try:
            producer = await self._producer()
            if not self._partitions:
                self._partitions = sorted(await producer.partitions_for(self._topic))
            chosen = self._choose(producer.client.cluster)
            if chosen is None:
                return False
            batch = producer.create_batch()
            parts = self._fill(batch)
            if not parts:
                return True
            batch.close()
            count = sum(number for _, number in parts)
            try:
                await send_batch(producer, batch, self._topic, chosen[0])
            except KafkaError as error:
                self._failed.inc(count)
                self._settle(parts, _as_ours(error, self._topic))
                await self._broken(producer, error)
                return True
            except asyncio.CancelledError:
                self._settle(parts, BrokerUnavailable("this process is stopping"))
                raise
            self._took.observe(self._loop.time() - mark)
            self._published.inc(count)
            for group, number in parts:
                group.open -= number
                if not group.open and group.taken == len(group.messages):
                    self._tell(group, None)
            return True
        finally:
            del self._since[slot]
            self._look()
            if chosen is not None:
                self._busy.discard(chosen[1])

    @property
    def _at_once(self) -> int:
        return min(self._flushes, self._brokers)

    def _look(self) -> None:
        under_way = self._since.values()
        self._oldest = min(under_way, default=math.inf)
        self._unanswered = max(under_way) if len(under_way) >= self._at_once else math.inf

    def _choose(self, cluster: Any) -> tuple[int, int] | None:
        """A partition whose leader has nothing under way, the next one in turn, and that leader; None where each has.

        One that nobody leads at the moment is left out, as long as there are others: what is sent to it waits for an election.
        """
        leaders = [_leader(cluster, self._topic, partition) for partition in self._partitions]
        led = {leader for leader in leaders if leader >= 0} or set(leaders)
        self._brokers = len(led)
        for _ in leaders:
            self._turn = (self._turn + 1) % len(leaders)
            broker = leaders[self._turn]
            if broker in led and broker not in self._busy:
                self._busy.add(broker)
                return self._partitions[self._turn], broker
        return None

    def _fill(self, batch: Any) -> list[tuple[_Group, int]]:
        parts: list[tuple[_Group, int]] = []
        waiting = self._waiting
        while waiting:
            group = waiting[0]
            if group.settled:
                # Timed out, or failed after a part of it had gone: the rest stays here.
                waiting.popleft()
                continue
            first = group.taken
            for message in group.messages[first:]:
                if (
                    batch.append(
                        key=message.key, value=message.value, timestamp=message.timestamp_ms, headers=message.headers
                    )
                    is None
                ):
                    break
                group.taken += 1
            added = group.taken - first
            if added:
                group.open += added
                parts.append((group, added))
            if group.taken < len(group.messages):
                break
            waiting.popleft()
        return parts

    def _tell(self, group: _Group, error: Exception | None) -> None:
        if not group.settled:
            told = group.told
            group.forget()
            self._queued_bytes -= group.size
            told(error)

    def _settle(self, parts: Sequence[tuple[_Group, int]], error: Exception) -> None:
        for group, _ in parts:
            self._tell(group, error)

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting:
            self._tell(self._waiting.popleft(), error)

    def _sweep(self) -> None:
        now = self._loop.time()
        calls = self._calls
        while calls and (calls[0].settled or calls[0].due <= now):
            group = calls.popleft()
            if not group.settled:
                self._failed.inc(len(group.messages))
                self._tell(group, BrokerUnavailable(f"{self._topic} was not acknowledged within {self._seconds:g} s"))
        if self._waiting:
            self._begin_where_due(now)
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if calls else None


def _leader(cluster: Any, topic: str, partition: int) -> int:
    """The broker that leads it; a number below 0, another one for each partition, while nobody does."""
    found: int | None = cluster.leader_for_partition(TopicPartition(topic, partition))
    return -1 - partition if found is None or found == -1 else found


def _nobody(_error: Exception | None) -> None:
    """Whoever waited has been told."""


def _as_ours(error: KafkaError, topic: str) -> Exception:
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return MessageTooLarge(f"over the broker's message.max.bytes for {topic}")
    return BrokerUnavailable(type(error).__name__)
