"""One partition's way to the broker: what waits goes together, one batch at a time, in the order of calls.

Law: at most one batch under way, because two at once make aiokafka's second one time out at random; never waits for a
batch to fill. A call's future is settled exactly once: with offsets after the broker's acknowledgement, or with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from infra import metrics
from infra.kafka.codec import Outgoing
from infra.unavailable import BrokerUnavailable


class MessageTooLarge(ValueError):  # noqa: N818 -- says what it is
    """A message is over `kafka_max_message_bytes`, or over the broker's own limit. The caller cuts it or lays it aside."""


@dataclass(slots=True, eq=False)
class Group:
    """What one call has for one partition; one future for all of it."""

    messages: Sequence[Outgoing]
    size: int
    done: asyncio.Future[list[int]]
    offsets: list[int] = field(default_factory=list)
    taken: int = 0

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(error)

    def acknowledge(self, offsets: range) -> None:
        """Note what the broker acknowledged; settles when it is all of it."""
        self.offsets.extend(offsets)
        if len(self.offsets) == len(self.messages) and not self.done.done():
            self.done.set_result(self.offsets)


class Lane:
    """Belongs to one event loop. `producer` returns the running one; `broken` is told of each failed batch."""

    def __init__(
        self,
        topic: str,
        partition: int,
        producer: Callable[[], Awaitable[Any]],
        broken: Callable[[Any, KafkaError], Awaitable[None]],
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._producer = producer
        self._broken = broken
        self._waiting: deque[Group] = deque()
        self._since = 0.0
        self.task: asyncio.Task[None] | None = None

    def add(self, group: Group) -> None:
        """Queue `group`; it goes with the next batch."""
        self._waiting.append(group)
        if self.task is None:
            self._since = time.monotonic()
            self.task = asyncio.get_running_loop().create_task(
                self._run(), name=f"publish-{self._topic}-{self._partition}"
            )

    def withdraw(self, group: Group) -> None:
        """Nobody waits for `group` any more: what is not under way yet stays here."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(group)

    def unanswered(self) -> float:
        """Seconds for which the batch under way has not been acknowledged; 0 when there is none."""
        return time.monotonic() - self._since if self.task else 0.0

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._flush()
        except Exception as error:  # noqa: BLE001 -- whatever it is, callers must hear of it now and not after their timeout
            self._fail_all(BrokerUnavailable(type(error).__name__))
        except asyncio.CancelledError:
            self._fail_all(BrokerUnavailable("this process is stopping"))
            raise
        finally:
            self.task = None

    def _fail_all(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().fail(error)

    async def _flush(self) -> None:
        producer = await self._producer()
        batch = producer.create_batch()
        parts = self._fill(batch)
        if not parts:
            return
        count = sum(number for _, number in parts)
        batch.close()
        self._since = started = time.monotonic()
        try:
            sent = await producer.send_batch(batch, self._topic, partition=self._partition)
            base = (await sent).offset
        except KafkaError as error:
            metrics.PUBLISH_FAILED.labels(self._topic).inc(count)
            too_large = isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)
            failure = (
                MessageTooLarge(f"over the broker's message.max.bytes for {self._topic}")
                if too_large
                else BrokerUnavailable(type(error).__name__)
            )
            for group, _ in parts:
                group.fail(failure)
            await self._broken(producer, error)
            return
        except asyncio.CancelledError:
            for group, _ in parts:
                group.fail(BrokerUnavailable("this process is stopping"))
            raise
        metrics.PUBLISH_SECONDS.labels(self._topic).observe(time.monotonic() - started)
        metrics.PUBLISHED.labels(self._topic).inc(count)
        for group, number in parts:
            group.acknowledge(range(base, base + number))
            base += number

    def _fill(self, batch: Any) -> list[tuple[Group, int]]:
        parts: list[tuple[Group, int]] = []
        while self._waiting:
            group = self._waiting[0]
            if group.done.done():
                # Failed or withdrawn after a part of it had gone: the rest stays here.
                self._waiting.popleft()
                continue
            first = group.taken
            while group.taken < len(group.messages) and _append(batch, group.messages[group.taken]):
                group.taken += 1
            if group.taken > first:
                parts.append((group, group.taken - first))
            if group.taken < len(group.messages):
                break
            self._waiting.popleft()
        return parts


def _append(batch: Any, message: Outgoing) -> bool:
    added = batch.append(key=message.key, value=message.value, timestamp=message.timestamp_ms, headers=message.headers)
    return added is not None
