"""What a stage needs of Kafka, no more: so that a test can give it a world of its own.

Law: protocols alone; `Codec` and `Publisher` implement them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel

from infra.kafka.codec import Received
from infra.kafka.raw import Raw
from schemas.dead_letter import Cause
from schemas.topics import Topic

P = TypeVar("P", bound=BaseModel)


class Opens(Protocol):
    """`infra.kafka.codec.Codec`."""

    async def open(
        self, topic: Topic[P], raws: Sequence[Raw]
    ) -> tuple[list[Received[P]], list[tuple[Raw, Cause, str]]]:
        """Decode in order; what cannot be decoded comes back with its cause. May wait for keys; raises Unavailable."""
        ...


class LaysAside(Protocol):
    """`infra.kafka.broker.Publisher`, its side for what cannot go on."""

    async def dead_letter(
        self,
        raw: Raw,
        *,
        stage: str,
        cause: Cause,
        detail: str,
        tenant: str,
        account: str | None = None,
        object: str | None = None,  # noqa: A002 - the payload's word
        record_id: str | None = None,
        attempt: int = 1,
    ) -> None:
        """Lay a message aside for good; returns after the ack. Raises Unavailable."""
        ...


class Publishes(LaysAside, Protocol):
    """`infra.kafka.broker.Publisher`."""

    async def publish(
        self, topic: Topic[P], payloads: Sequence[P], *, traceparents: Sequence[str] | None = None
    ) -> list[tuple[int, int]]:
        """Return after the broker's acks with (partition, offset) of each, in order. Raises Unavailable; then some may have arrived."""
        ...
