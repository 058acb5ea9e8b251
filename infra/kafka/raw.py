"""A Kafka message as it lies on its topic: bytes, nothing decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
"""An array of a hundred events is so many times as much once it is opened: the work of a call goes by that."""
SHRUNK_FROM_BYTES = 2_048
"""What is smaller than this has not shrunk by much."""


def weight_of(raw: Raw) -> int:
    """Bytes that it is when it is opened, about."""
    value = raw.value or b""
    shrunk = len(value) >= SHRUNK_FROM_BYTES and value[:1] == COMPRESSED
    return size_of(raw) + (SHRUNK - 1) * len(value) if shrunk else size_of(raw)
