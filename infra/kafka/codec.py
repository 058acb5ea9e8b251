"""Payloads to sealed Kafka messages and back: the one place that reads and writes what lies on our topics.

Law: nothing leaves unsealed; a message that cannot be opened comes back with its dead-letter cause, never as an
exception, so that one bad message stops no batch. Details of a cause hold no content.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from infra import telemetry
from infra.kafka.raw import Raw, RawMessage
from infra.keyring import DataKey, Keyring, Undecryptable, key_id_of, open_sealed, seal
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.envelope import SIZE, Envelope, EnvelopeError, Stamp
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, Topic, by_record

__all__ = ["Codec", "Outgoing", "Raw", "RawMessage", "Received", "purpose_of"]

P = TypeVar("P", bound=BaseModel)

COMPRESS_FROM_BYTES = 1_000
"""Below this, compressing costs more CPU than the bytes it saves; see docs/adr/0004."""

AT_ONE_GO = 32
"""Messages that are sealed or opened before others get their turn: hundreds must not keep the loop from another's one."""


def purpose_of(topic: Topic[Any]) -> str:
    """What a topic's ciphertexts are bound to: a change may move between the lanes as it is, an insight back to a destination."""
    return _MOVES.get(topic.name, topic.name)


_MOVES = {CHANGES_BULK.name: CHANGES.name, INSIGHTS_REDRIVEN.name: INSIGHTS.name}


# Neither is frozen: one of them is made for each message, and a lock on every attribute costs more than filling them.
@dataclass(slots=True)
class Outgoing:
    """A message ready to be published."""

    key: bytes
    value: bytes | None
    """Sealed; None writes a tombstone."""
    headers: list[tuple[str, bytes]]
    partition_key: bytes
    """Its CRC-32 decides the partition."""
    timestamp_ms: int | None = None


@dataclass(slots=True)
class Received(Generic[P]):
    """One decoded message."""

    payload: P
    envelope: Envelope
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    raw: Raw


class Codec:
    """Every method raises Unavailable when keys are needed and Postgres is away."""

    def __init__(self, keyring: Keyring, source: str) -> None:
        """`source` says who writes, e.g. `hookline/translator`."""
        self._keyring = keyring
        self._source = source

    async def seal(
        self, topic: Topic[P], payloads: Sequence[P], *, traceparents: Sequence[str] | None = None
    ) -> list[Outgoing]:
        """Seal payloads for `topic`; all keys are fetched in one round trip. Without `traceparents` the current span's goes along."""
        names = [by_record(payload) for payload in payloads] if topic.scope == "record" else None
        keys = await self._keys_for(topic, payloads, names)
        here = telemetry.traceparent() if traceparents is None else ""
        now = datetime.now(UTC)
        stamp = Stamp(topic.type, self._source, now)
        at, purpose, ids = int(now.timestamp() * 1000), purpose_of(topic), os.urandom(16 * len(payloads)).hex()
        sealed = []
        for place, (payload, key) in enumerate(zip(payloads, keys, strict=True)):
            if place and place % AT_ONE_GO == 0:
                await asyncio.sleep(0)
            sealed.append(_sealed(
                topic, payload, key, stamp,
                at=at, purpose=purpose, id=ids[32 * place : 32 * place + 32],
                traceparent=here if traceparents is None else traceparents[place], name=names[place] if names else None,
            ))  # fmt: skip
        return sealed

    async def open(
        self, topic: Topic[P], raws: Sequence[Raw]
    ) -> tuple[list[Received[P]], list[tuple[Raw, Cause, str]]]:
        """Decode messages, in order; those that cannot be come back with cause and detail. Tombstones are left out."""
        named: list[tuple[Raw, bytes, str]] = []
        received: list[Received[P]] = []
        refused: list[tuple[Raw, Cause, str]] = []
        for raw in raws:
            value = raw.value
            if value is not None:
                try:
                    named.append((raw, value, key_id_of(value)))
                except Undecryptable:
                    named.append((raw, value, ""))
        wanted = {key_id for _, _, key_id in named if key_id}
        keys = await self._keyring.by_id(wanted) if wanted else {}
        purpose, parse = purpose_of(topic), _parser(topic)
        for place, (raw, value, key_id) in enumerate(named):
            if place and place % AT_ONE_GO == 0:
                await asyncio.sleep(0)
            try:
                envelope, plaintext = _opened(topic, raw, value, keys.get(key_id), purpose=purpose)
                payload = parse(plaintext)
            except _Refused as error:
                refused.append((raw, error.cause, error.detail))
            except ValueError as error:
                refused.append((raw, Cause.UNPARSABLE, _why_unparsable(topic, error)))
            else:
                received.append(Received(payload, envelope, raw.topic, raw.partition, raw.offset, raw.timestamp, raw))
        return received, refused

    async def _keys_for(self, topic: Topic[P], payloads: Sequence[P], names: Sequence[str] | None) -> list[DataKey]:
        """`names`: of the records, where the topic is sealed by record."""
        given: Sequence[Any] = payloads
        if names is not None:
            by_name = await self._keyring.for_names(
                {name: each.tenant for name, each in zip(names, given, strict=True)}
            )
            return [by_name[name] for name in names]
        if topic.scope == "tenant":
            tenants = {each.tenant: await self._keyring.for_tenant(each.tenant) for each in given}
            return [tenants[each.tenant] for each in given]
        return [await self._keyring.for_delivery(each.tenant, each.endpoint, each.received_at) for each in given]


class _Refused(Exception):  # noqa: N818 -- never leaves this module
    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail


def _sealed(
    topic: Topic[P],
    payload: P,
    key: DataKey,
    stamp: Stamp,
    *,
    at: int,
    purpose: str,
    id: str,  # noqa: A002 -- the header's name
    traceparent: str,
    name: str | None,
) -> Outgoing:
    """`name`: of its record, where the caller has it."""
    given: Any = payload
    # The serializer itself, whose bytes need not become a text and bytes again.
    plaintext = given.pack() if topic.name == DELIVERIES.name else given.__pydantic_serializer__.to_json(payload)
    headers = stamp.headers(
        id,
        tenant=key.tenant,
        account=getattr(given, "account", None) or "",
        key_id=key.id,
        traceparent=traceparent,
    )
    compress = len(plaintext) >= COMPRESS_FROM_BYTES
    if compress:
        headers.append((SIZE, b"%d" % len(plaintext)))
    value = seal(key, plaintext, purpose=purpose, compress=compress)
    partition_by = name if name and topic.partition_by is by_record else topic.partition_by(payload)
    kafka_key = partition_by if topic.key is topic.partition_by else topic.key(payload)
    return Outgoing(kafka_key.encode(), value, headers, partition_by.encode(), at)


def _opened(topic: Topic[Any], raw: Raw, value: bytes, key: DataKey | None, *, purpose: str) -> tuple[Envelope, bytes]:
    """Its envelope and plaintext; `key`: the one that it names, if it names one that still is. Raises _Refused."""
    try:
        envelope = Envelope.from_headers(raw.headers)
    except EnvelopeError as error:
        raise _Refused(Cause.UNPARSABLE, str(error)) from error
    if envelope.type != topic.type:
        raise _Refused(Cause.UNKNOWN_VERSION, f"type {envelope.type[:80]}, this release reads {topic.type}")
    try:
        if key is None:
            key_id_of(value)  # of what is no sealed value it says so
            raise _Refused(Cause.UNDECRYPTABLE, "its data key was destroyed or has expired")
        if key.tenant != envelope.tenant:
            raise _Refused(Cause.UNDECRYPTABLE, "its data key belongs to another tenant")
        return envelope, open_sealed(key, value, purpose=purpose)
    except Undecryptable as error:
        raise _Refused(Cause.UNDECRYPTABLE, str(error)) from error


def _parser(topic: Topic[P]) -> Callable[[bytes], P]:
    """Raises ValueError."""
    payload: Any = topic.payload
    # The validator itself: there is one call a message.
    found: Callable[[bytes], P] = (
        payload.unpack if topic.payload is Delivery else payload.__pydantic_validator__.validate_json
    )
    return found


def _why_unparsable(topic: Topic[Any], error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"{topic.type}: {type(error).__name__}"
    # Names of fields alone: values, and keys of a customer's mapping, are content.
    where = sorted({str(each["loc"][0]) if each["loc"] else "(whole)" for each in error.errors(include_input=False)})
    return f"{topic.type}: {error.error_count()} errors, in {', '.join(where)[:120]}"


def age_seconds(received: Received[Any]) -> float:
    """Seconds since the message was produced, by our clock."""
    return max(0.0, time.time() - received.timestamp_ms / 1000)
