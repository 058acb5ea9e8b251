"""What became of accepted requests: the deliveries themselves are the record of them, and what came of each carries its id as trace.

Law: reads only, without a group. Which messages belong to a request is seen from keys and headers in the clear; only
deliveries are opened, for the endpoint stands sealed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from console.reading import Selection, ranges_of, raw_range, reader
from infra.kafka.codec import Codec, Received
from infra.kafka.connection import options
from infra.kafka.raw import Raw
from infra.settings import Settings
from ingress.identity import arrived_at, request_of
from ingress.translator_app import GROUP
from schemas.delivery import Delivery
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES, INSIGHTS, RECORDS, Topic

_CLOCKS = timedelta(minutes=2)
"""How far the clocks of ingress and of a broker may be apart."""
CAME_OF: tuple[Topic[Any], ...] = (CHANGES, CHANGES_BULK, RECORDS, INSIGHTS, DEAD_LETTERS)


@dataclass(frozen=True, slots=True)
class Trace:
    """One message that came of a request."""

    topic: str
    partition: int
    offset: int
    key: str
    account: str


@dataclass(slots=True)
class Accepted:
    """One accepted request."""

    delivery: Delivery
    places: list[tuple[int, int]]
    """(partition, offset) in crm.deliveries; several where it was split."""
    came: list[Trace] = field(default_factory=list)
    translated: bool = False

    @property
    def accounts(self) -> set[str]:
        """The accounts that its events named, as far as something came of them."""
        return {trace.account for trace in self.came if trace.account}

    @property
    def outcome(self) -> str:
        """In words."""
        if not self.translated and not self.came:
            return "waits for the translator"
        counts = Counter(trace.topic for trace in self.came)
        parts = [f"{counts[topic.name]} on {topic.name}" for topic in CAME_OF if counts[topic.name]]
        return ", ".join(parts) or "nothing new: repeated, our own write, or read by no analysis"


async def accepted(
    settings: Settings,
    codec: Codec,
    *,
    since: datetime,
    until: datetime | None = None,
    tenant: str = "",
    endpoints: Collection[str] | None = None,
    only: str = "",
) -> list[Accepted]:
    """Requests accepted in that time, oldest first, each with what came of it. `only`: the request of this id. Raises KafkaError."""
    found: dict[str, Accepted] = {}
    async for message in _deliveries(settings, codec, since - _CLOCKS if only else since, until, tenant, only):
        delivery = message.payload
        if endpoints is not None and delivery.endpoint not in endpoints:
            continue
        one = found.setdefault(delivery.request_id, Accepted(delivery, []))
        one.places.append((message.partition, message.offset))
    if found:
        await _add_fates(settings, found, since - _CLOCKS, tenant)
    return sorted(found.values(), key=lambda one: one.delivery.received_at)


async def _deliveries(
    settings: Settings, codec: Codec, since: datetime, until: datetime | None, tenant: str, only: str
) -> AsyncIterator[Received[Delivery]]:
    async with reader(settings) as consumer:
        ranges = await ranges_of(consumer, DELIVERIES.name, since=since, until=until)
        async for page in raw_range(consumer, DELIVERIES.name, ranges, selection=Selection(tenant=tenant)):
            # A part of a request that was split is named `id.1`, `id.2`, ...
            meant = [raw for raw in page if not only or _headers(raw).get("ce_id", "").partition(".")[0] == only]
            for message in (await codec.open(DELIVERIES, meant))[0] if meant else ():
                yield message


async def accepted_one(settings: Settings, codec: Codec, request_id: str) -> Accepted | None:
    """The accepted request of this id; raises ValueError when it is no id of ours."""
    at = arrived_at(request_id)
    found = await accepted(settings, codec, since=at, until=at + 2 * _CLOCKS, only=request_id)
    # One that was refused first and let in later carries its own time and lies behind newer ones.
    found = found or await accepted(settings, codec, since=at, only=request_id)
    return found[0] if found else None


async def _add_fates(settings: Settings, found: dict[str, Accepted], since: datetime, tenant: str) -> None:
    committed = await _committed(settings)
    for one in found.values():
        one.translated = all(offset < committed.get(partition, 0) for partition, offset in one.places)
    async with reader(settings) as consumer:
        for topic in CAME_OF:
            async for trace, request in _traces(consumer, topic, since, tenant):
                if request in found:
                    found[request].came.append(trace)


async def _traces(
    consumer: AIOKafkaConsumer, topic: Topic[Any], since: datetime, tenant: str
) -> AsyncIterator[tuple[Trace, str]]:
    ranges = await ranges_of(consumer, topic.name, since=since)
    async for page in raw_range(consumer, topic.name, ranges, selection=Selection(tenant=tenant)):
        for raw in page:
            headers = _headers(raw)
            request = request_of(headers.get("traceparent", ""))
            if request:
                key = (raw.key or b"").decode(errors="replace")
                yield Trace(topic.name, raw.partition, raw.offset, key, headers.get("hl_account", "")), request


def _headers(raw: Raw) -> dict[str, str]:
    pairs: Iterable[tuple[str, bytes | None]] = raw.headers
    return {name: bytes(value or b"").decode(errors="replace") for name, value in pairs}


async def _committed(settings: Settings) -> dict[int, int]:
    admin = AIOKafkaAdminClient(**options(settings))
    try:
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(GROUP)
    finally:
        await admin.close()
    return {place.partition: at.offset for place, at in offsets.items() if place.topic == DELIVERIES.name}
