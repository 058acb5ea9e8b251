"""A Kafka message as it lies on its topic: bytes, nothing decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.envelope import SIZE


class Raw(Protocol):
    """What the pump hands to a handler; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str:
        """Where it lies."""
        ...

    @property
    def partition(self) -> int:
        """Of the topic."""
        ...

    @property
    def offset(self) -> int:
        """Within the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, by the producer's clock."""
        ...

    @property
    def key(self) -> bytes | None:
        """In the clear; messages of one key are handled in order."""
        ...

    @property
    def value(self) -> bytes | None:
        """None: a tombstone of a compacted topic."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """In the clear."""
        ...


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A Raw of our own, where none was consumed: redriving, tests."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


def size_of(raw: Raw) -> int:
    """Bytes that it holds in memory, about."""
    return 200 + len(raw.key or b"") + len(raw.value or b"")


COMPRESSED = b"\x02"
"""How a sealed value begins that is compressed within; see `infra.keyring.cipher`, and a test holds the two together."""
SHRUNK = 8
"""Times as much, about, is what does not tell its size: the work of a call goes by what is opened."""


def weight_of(raw: Raw) -> int:
    """Bytes that it is when it is opened; about, where no header tells."""
    value = raw.value or b""
    if value[:1] != COMPRESSED:
        return size_of(raw)
    told = next((bytes(size) for name, size in reversed(raw.headers) if name == SIZE), b"")
    return size_of(raw) + (int(told) if told.isdigit() else (SHRUNK - 1) * len(value))
