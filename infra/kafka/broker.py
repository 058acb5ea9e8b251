"""Publishing: one idempotent producer a process, every message acknowledged by all in-sync replicas.

Law: returns only what the broker has acknowledged; keeps the order of calls within a partition; never waits for a batch
to fill (what arrives while a batch is under way makes up the next one); waits for a bounded time and queues a bounded
number of bytes, and then says BrokerUnavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic import BaseModel

from infra import metrics, telemetry
from infra.kafka.codec import Codec, Outgoing
from infra.kafka.connection import build_broker, options, refusal
from infra.kafka.lane import Group, Lane, MessageTooLarge
from infra.kafka.letters import attempt_of
from infra.kafka.raw import Raw
from infra.settings import Settings
from infra.unavailable import BrokerUnavailable
from schemas.dead_letter import Cause, DeadLetter
from schemas.topics import DEAD_LETTERS, Topic

__all__ = ["BrokerUnavailable", "MessageTooLarge", "Publisher", "build_broker", "partition_of"]

P = TypeVar("P", bound=BaseModel)
_log = telemetry.log("publisher")

BATCH_BYTES = 512 * 1024
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""Whoever asked for the producer this long ago has nothing under way any more."""
COMPRESSION = "snappy"
"""Payloads are sealed and do not shrink; headers and keys, which repeat within a batch, do, at no CPU that we could measure."""
Watcher = Callable[[Raw, Cause], None]


def partition_of(partition_key: bytes, partitions: int) -> int:
    """CRC-32 of the key modulo the number of partitions, as librdkafka's default partitioner (`consistent`) does."""
    return zlib.crc32(partition_key) % partitions


class Publisher:
    """Safe for any number of tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        *,
        client_id: str = "hookline",
        timeout: float = 30.0,
        max_queued_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """`timeout`: seconds until an unacknowledged call raises BrokerUnavailable (the front door takes 5)."""
        self._settings = settings
        self._codec = codec
        self._client_id = client_id
        self._timeout = timeout
        self._max_queued_bytes = max_queued_bytes
        self._queued_bytes = 0
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._partitions: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._stopped = False
        self._used = 0.0
        self._watchers: list[Watcher] = []

    @property
    def codec(self) -> Codec:
        """What seals for this publisher."""
        return self._codec

    async def start(self) -> None:
        """Connect; raises BrokerUnavailable when no broker answers within the timeout. May be called twice."""
        self._stopped = False
        try:
            async with asyncio.timeout(self._timeout):
                await self.producer()
        except (TimeoutError, KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"no broker at {self._settings.kafka_url} answers ({type(error).__name__})",
                remedy=await refusal(self._settings),
            ) from error

    async def stop(self) -> None:
        """Finish what is under way, for as long as the timeout, and disconnect."""
        self._stopped = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timeout)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close(producer)

    async def publish(
        self, topic: Topic[P], payloads: Sequence[P], *, traceparents: Sequence[str] | None = None
    ) -> list[tuple[int, int]]:
        """Seal and publish; (partition, offset) of each, in order, after the broker's acks. See `publish_sealed` for errors."""
        return await self.publish_sealed(topic, await self._codec.seal(topic, payloads, traceparents=traceparents))

    async def publish_sealed(self, topic: Topic[Any], outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish what is sealed already.

        Raises BrokerUnavailable when it is not acknowledged in time (some of it may have arrived, or may yet arrive), and
        MessageTooLarge before anything was sent. Messages of one partition keep the order of calls.
        """
        if not outgoing:
            return []
        return await self.publish_to(topic.name, outgoing)

    async def publish_to(self, topic: str, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """`publish_sealed` by the topic's name."""
        for message in outgoing:
            if message.value is not None and len(message.value) > self._settings.kafka_max_message_bytes:
                raise MessageTooLarge(
                    f"{len(message.value)} bytes for {topic}, over {self._settings.kafka_max_message_bytes}"
                )
        groups: list[tuple[Lane, Group]] = []
        try:
            async with asyncio.timeout(self._timeout):
                count = self._partitions.get(topic) or await self._ask_partitions(topic)
                places = [partition_of(message.partition_key, count) for message in outgoing]
                by_partition: dict[int, list[Outgoing]] = {}
                for place, message in zip(places, outgoing, strict=True):
                    by_partition.setdefault(place, []).append(message)
                self._admit(topic, outgoing, by_partition)
                for place, messages in by_partition.items():
                    groups.append(self._queue(topic, place, messages))
                for _, group in groups:
                    await group.done
        except TimeoutError:
            metrics.PUBLISH_FAILED.labels(topic).inc(sum(not group.done.done() for _, group in groups) or 1)
            raise BrokerUnavailable(f"{topic} was not acknowledged within {self._timeout:g} s") from None
        finally:
            for lane, group in groups:
                self._withdraw(lane, group)
        offsets = {place: iter(group.done.result()) for place, (_, group) in zip(by_partition, groups, strict=True)}
        return [(place, next(offsets[place])) for place in places]

    async def dead_letter(
        self,
        raw: Raw,
        *,
        stage: str,
        cause: Cause,
        detail: str,
        tenant: str,
        account: str | None = None,
        object: str | None = None,  # noqa: A002 -- the field's name
        record_id: str | None = None,
        attempt: int = 1,
    ) -> None:
        """Lay a message aside with everything that is needed to try again; counts, logs and publishes. Errors as `publish`."""
        letter = DeadLetter.model_construct(
            cause=cause,
            detail=detail,
            stage=stage,
            tenant=tenant or "unknown",
            account=account,
            object=object,
            record_id=record_id,
            attempt=max(attempt, attempt_of(raw)),
            at=datetime.now(UTC),
            original_topic=raw.topic,
            original_partition=raw.partition,
            original_offset=raw.offset,
            original_key=raw.key or b"",
            original_headers=tuple((name, value or b"") for name, value in raw.headers),
            original_value=raw.value or b"",
        )
        origin = next(
            (bytes(value).decode("ascii", "replace") for name, value in raw.headers if name == "traceparent"), ""
        )
        try:
            await self.publish(DEAD_LETTERS, [letter], traceparents=[origin])
        except MessageTooLarge:
            note = f"{detail} (its bytes are too large to be kept here: read them at the original offset)"
            await self.publish(
                DEAD_LETTERS, [letter.model_copy(update={"original_value": b"", "detail": note})], traceparents=[origin]
            )
        metrics.DEAD_LETTERS.labels(stage, cause.value).inc()
        _log.warning(
            "dead_letter", stage=stage, cause=cause.value, detail=detail, tenant=tenant, account=account,
            topic=raw.topic, partition=raw.partition, offset=raw.offset,
        )  # fmt: skip
        for watcher in self._watchers:
            watcher(raw, cause)

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called with every message that is laid aside; a pump counts them, and stops when they are too many."""
        self._watchers.append(watcher)

    async def ask(self, seconds: float = 3.0) -> str | None:
        """For readiness: None when a broker answers within `seconds`, else what is wrong."""
        try:
            async with asyncio.timeout(seconds):
                await (await self._running()).client.fetch_all_metadata()
        except (TimeoutError, KafkaError, OSError, BrokerUnavailable) as error:
            if isinstance(error, TimeoutError) and time.monotonic() - self._used > IDLE_SECONDS:
                await self._start_anew()
            generic = f"kafka does not answer ({type(error).__name__}): check {self._settings.kafka_url}"
            return (None if isinstance(error, TimeoutError) else await refusal(self._settings, 1.0)) or generic
        return None

    async def _start_anew(self) -> None:
        """The client closes a connection over which a publication got no answer, but not one over which it only asked.

        So where the other side vanished unsaid, a process that publishes nothing would never be ready again.
        """
        if not any(lane.task for lane in self._lanes.values()):
            producer, self._producer = self._producer, None
            if producer is not None:
                await _close(producer)

    async def producer(self) -> AIOKafkaProducer:
        """The running producer, started when there is none."""
        self._used = time.monotonic()
        return await self._running()

    async def _running(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._starting:
            if self._producer is None:
                if self._stopped:
                    raise BrokerUnavailable("this process is stopping")
                producer = AIOKafkaProducer(
                    **options(self._settings),
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    compression_type=COMPRESSION,
                    max_batch_size=BATCH_BYTES,
                    max_request_size=2 * self._settings.kafka_max_message_bytes,
                    request_timeout_ms=int(REQUEST_SECONDS * 1000),
                    metadata_max_age_ms=60_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _close(producer)
                    raise
                self._producer = producer
        return self._producer

    async def broken(self, producer: AIOKafkaProducer, error: KafkaError) -> None:
        """For whoever sends batches by `producer()` itself: one of them failed."""
        await self._replace(producer, error)

    async def _replace(self, producer: AIOKafkaProducer, error: KafkaError) -> None:
        """Start anew after an error that ends an idempotent producer: a lost sequence number fails everything after it."""
        _log.error("publish_failed", error=type(error).__name__)
        if self._producer is producer and not error.retriable:
            self._producer = None
            await _close(producer)

    async def _ask_partitions(self, topic: str) -> int:
        try:
            found = await (await self.producer()).partitions_for(topic)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"{topic}: {type(error).__name__}; has `hookline migrate` run?") from error
        self._partitions[topic] = len(found)
        return len(found)

    def _admit(self, topic: str, outgoing: Sequence[Outgoing], places: dict[int, list[Outgoing]]) -> None:
        if self._stopped:
            raise BrokerUnavailable("this process is stopping")
        size = sum(len(message.value or b"") for message in outgoing)
        if self._queued_bytes and self._queued_bytes + size > self._max_queued_bytes:
            raise BrokerUnavailable(f"{self._queued_bytes} bytes wait for an acknowledgement")
        for place in places:
            lane = self._lanes.get((topic, place))
            if lane and lane.unanswered() > self._timeout:
                # Whoever comes while Kafka is known to be away need not wait the whole timeout to hear it.
                raise BrokerUnavailable(f"{topic} has not acknowledged for {lane.unanswered():.0f} s")

    def _queue(self, topic: str, place: int, messages: list[Outgoing]) -> tuple[Lane, Group]:
        lane = self._lanes.get((topic, place))
        if lane is None:
            lane = self._lanes[topic, place] = Lane(topic, place, self.producer, self._replace)
        group = Group(
            messages, sum(len(message.value or b"") for message in messages), asyncio.get_running_loop().create_future()
        )
        self._queued_bytes += group.size
        lane.add(group)
        return lane, group

    def _withdraw(self, lane: Lane, group: Group) -> None:
        self._queued_bytes -= group.size
        if group.done.done() and not group.done.cancelled():
            # Told to the caller by another group's error; asked here so that asyncio does not report it as never retrieved.
            group.done.exception()
        else:
            group.done.cancel()
            lane.withdraw(group)


async def _close(producer: AIOKafkaProducer) -> None:
    # stop() flushes without a limit of its own; what is not acknowledged by now has been reported as such.
    with contextlib.suppress(TimeoutError, KafkaError, OSError):
        async with asyncio.timeout(5.0):
            await producer.stop()
