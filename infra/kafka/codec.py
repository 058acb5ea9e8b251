"""Payloads to sealed Kafka messages and back: the one place that reads and writes what lies on our topics.

Law: nothing leaves unsealed; a message that cannot be opened comes back with its dead-letter cause, never as an
exception, so that one bad message stops no batch. Details of a cause hold no content.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from infra import telemetry
from infra.kafka.raw import Raw, RawMessage
from infra.keyring import DataKey, Keyring, Undecryptable, key_id_of, open_sealed, seal
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.envelope import Envelope, EnvelopeError
from schemas.record import RecordRef
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, Topic

__all__ = ["Codec", "Outgoing", "Raw", "RawMessage", "Received", "purpose_of"]

P = TypeVar("P", bound=BaseModel)

COMPRESS_FROM_BYTES = 1_000
"""Below this, compressing costs more CPU than the bytes it saves; see docs/adr/0004."""


def purpose_of(topic: Topic[Any]) -> str:
    """What a topic's ciphertexts are bound to: a change may move between the lanes as it is, an insight back to a destination."""
    return _MOVES.get(topic.name, topic.name)


_MOVES = {CHANGES_BULK.name: CHANGES.name, INSIGHTS_REDRIVEN.name: INSIGHTS.name}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready to be published."""

    key: bytes
    value: bytes | None
    """Sealed; None writes a tombstone."""
    headers: list[tuple[str, bytes]]
    partition_key: bytes
    """Its CRC-32 decides the partition."""
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
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
    """Async methods raise Unavailable when keys are needed and Postgres is away."""

    def __init__(self, keyring: Keyring, source: str) -> None:
        """`source` says who writes, e.g. `hookline/translator`."""
        self._keyring = keyring
        self._source = source

    async def seal(
        self, topic: Topic[P], payloads: Sequence[P], *, traceparents: Sequence[str] | None = None
    ) -> list[Outgoing]:
        """Seal payloads for `topic`; all keys are fetched in one round trip. Without `traceparents` the current span's goes along."""
        keys = await self._keys_for(topic, payloads)
        here = telemetry.traceparent() if traceparents is None else ""
        now = datetime.now(UTC)
        return [
            self.seal_one(
                topic, payload, key, now=now, traceparent=here if traceparents is None else traceparents[place]
            )
            for place, (payload, key) in enumerate(zip(payloads, keys, strict=True))
        ]

    def seal_one(self, topic: Topic[P], payload: P, key: DataKey, *, now: datetime, traceparent: str = "") -> Outgoing:
        """Seal one payload under a key that the caller has."""
        given: Any = payload
        plaintext = given.pack() if topic.name == DELIVERIES.name else payload.model_dump_json().encode()
        return self.seal_bytes(
            topic,
            plaintext,
            key,
            kafka_key=topic.key(payload),
            partition_key=topic.partition_by(payload),
            account=getattr(given, "account", None) or "",
            now=now,
            traceparent=traceparent,
        )

    def seal_bytes(
        self,
        topic: Topic[Any],
        plaintext: bytes,
        key: DataKey,
        *,
        kafka_key: str,
        partition_key: str,
        account: str = "",
        now: datetime,
        traceparent: str = "",
        message_id: str | None = None,
    ) -> Outgoing:
        """The same for a payload that is packed already: the front door's hot path."""
        envelope = Envelope(
            id=message_id or os.urandom(16).hex(),
            type=topic.type,
            source=self._source,
            time=now,
            tenant=key.tenant,
            account=account,
            key_id=key.id,
            traceparent=traceparent,
        )
        value = seal(key, plaintext, purpose=purpose_of(topic), compress=len(plaintext) >= COMPRESS_FROM_BYTES)
        return Outgoing(
            kafka_key.encode(), value, envelope.headers(), partition_key.encode(), int(now.timestamp() * 1000)
        )

    async def open(
        self, topic: Topic[P], raws: Sequence[Raw]
    ) -> tuple[list[Received[P]], list[tuple[Raw, Cause, str]]]:
        """Decode messages, in order; those that cannot be come back with cause and detail. Tombstones are left out."""
        wanted: set[str] = set()
        for raw in raws:
            if raw.value:
                try:
                    wanted.add(key_id_of(raw.value))
                except Undecryptable:
                    continue
        keys = await self._keyring.by_id(wanted) if wanted else {}
        received: list[Received[P]] = []
        refused: list[tuple[Raw, Cause, str]] = []
        for raw in raws:
            if raw.value is None:
                continue
            try:
                received.append(self._open_one(topic, raw, raw.value, keys))
            except _Refused as error:
                refused.append((raw, error.cause, error.detail))
        return received, refused

    def _open_one(self, topic: Topic[P], raw: Raw, value: bytes, keys: dict[str, DataKey]) -> Received[P]:
        try:
            envelope = Envelope.from_headers(raw.headers)
        except EnvelopeError as error:
            raise _Refused(Cause.UNPARSABLE, str(error)) from error
        if envelope.type != topic.type:
            raise _Refused(Cause.UNKNOWN_VERSION, f"type {envelope.type[:80]}, this release reads {topic.type}")
        try:
            key = keys.get(key_id_of(value))
            if key is None:
                raise _Refused(Cause.UNDECRYPTABLE, "its data key was destroyed or has expired")
            if key.tenant != envelope.tenant:
                raise _Refused(Cause.UNDECRYPTABLE, "its data key belongs to another tenant")
            plaintext = open_sealed(key, value, purpose=purpose_of(topic))
        except Undecryptable as error:
            raise _Refused(Cause.UNDECRYPTABLE, str(error)) from error
        return Received(_parse(topic, plaintext), envelope, raw.topic, raw.partition, raw.offset, raw.timestamp, raw)

    async def _keys_for(self, topic: Topic[P], payloads: Sequence[P]) -> list[DataKey]:
        given: Sequence[Any] = payloads
        if topic.scope == "record":
            refs = [RecordRef(each.tenant, each.account, each.object, each.id) for each in given]
            by_ref = await self._keyring.for_records(set(refs))
            return [by_ref[ref] for ref in refs]
        if topic.scope == "tenant":
            tenants = {each.tenant: await self._keyring.for_tenant(each.tenant) for each in given}
            return [tenants[each.tenant] for each in given]
        return [await self._keyring.for_delivery(each.tenant, each.endpoint, each.received_at) for each in given]


class _Refused(Exception):  # noqa: N818 -- never leaves this module
    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail


def _parse(topic: Topic[P], plaintext: bytes) -> P:
    try:
        if topic.payload is Delivery:
            return topic.payload.unpack(plaintext)  # type: ignore[attr-defined,no-any-return]  # Delivery has it
        return topic.payload.model_validate_json(plaintext)
    except ValidationError as error:
        # Names of fields alone: values, and keys of a customer's mapping, are content.
        where = sorted(
            {str(each["loc"][0]) if each["loc"] else "(whole)" for each in error.errors(include_input=False)}
        )
        raise _Refused(
            Cause.UNPARSABLE, f"{topic.type}: {error.error_count()} errors, in {', '.join(where)[:120]}"
        ) from error
    except ValueError as error:
        raise _Refused(Cause.UNPARSABLE, f"{topic.type}: {type(error).__name__}") from error


def age_seconds(received: Received[Any]) -> float:
    """Seconds since the message was produced, by our clock."""
    return max(0.0, time.time() - received.timestamp_ms / 1000)
