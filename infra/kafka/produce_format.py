"""A request that brings one batch to one partition, and its answer, written and read in one piece each.

aiokafka writes and reads them field by field: fifty calls a batch, and a batch of the front door holds a dozen requests.

Law: the same bytes as aiokafka writes, the same answer as it reads (tests hold them side by side). A broker that does not speak this
version of the protocol, the last one that aiokafka itself uses, and an answer of another shape, are left to aiokafka.
Source: `aiokafka.protocol.produce`, `aiokafka.protocol.api` (0.14); Kafka's protocol guide, "Produce Request (Version: 7)".
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, Final, Self

from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceResponse_v7

_KEY: Final = ProduceRequest.API_KEY
_VERSION: Final = ProduceRequest_v7.API_VERSION
_NO_TEXT: Final = -1
_HEAD: Final = struct.Struct(">hhih")
_BEFORE: Final = struct.Struct(">hhiih")
_AFTER: Final = struct.Struct(">iii")
_ANSWER_HEAD: Final = struct.Struct(">i")
_ANSWER_BEFORE: Final = struct.Struct(">ih")
_ANSWER_AFTER: Final = struct.Struct(">iihqqqi")


class Head:
    """Of a request, written; of an answer, read: what aiokafka's connection asks of both."""

    __slots__ = ("_written", "correlation_id")

    def __init__(self, correlation_id: int, written: bytes = b"") -> None:
        self.correlation_id = correlation_id
        self._written = written

    def encode(self) -> bytes:
        """See aiokafka."""
        return self._written


class Answer:
    """What aiokafka's handler asks of a ProduceResponse."""

    __slots__ = ("topics",)

    API_VERSION = _VERSION

    def __init__(self, topics: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        self.topics = topics

    @classmethod
    def decode(cls, data: BytesIO) -> Self:
        """See aiokafka."""
        raw = data.read()
        if len(raw) >= _ANSWER_BEFORE.size:
            topics, length = _ANSWER_BEFORE.unpack_from(raw)
            ends = _ANSWER_BEFORE.size + length
            if topics == 1 and length > 0 and len(raw) == ends + _ANSWER_AFTER.size:
                found = _ANSWER_AFTER.unpack_from(raw, ends)
                partitions, place, error, offset, timestamp, log_start, _throttled = found
                if partitions == 1:
                    return cls(
                        [(raw[_ANSWER_BEFORE.size : ends].decode(), [(place, error, offset, timestamp, log_start)])]
                    )
        return cls(ProduceResponse_v7.decode(raw).topics)


class OneBatch:
    """As a ProduceRequest, and, to a broker that speaks the version, the written request itself."""

    __slots__ = ("_batch", "_partition", "_timeout_ms", "_topic", "required_acks")

    RESPONSE_TYPE = Answer

    def __init__(self, acks: int, timeout_ms: int, topic: str, partition: int, batch: bytes) -> None:
        """`acks` -1: all in-sync replicas. `batch`: whole, as it is written on the broker's disk."""
        self.required_acks = acks
        self._timeout_ms = timeout_ms
        self._topic = topic.encode()
        self._partition = partition
        self._batch = batch

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """See aiokafka."""
        lowest, highest = versions.get(_KEY, (1, 0))
        if lowest <= _VERSION <= highest:
            return self
        topics = [(self._topic.decode(), [(self._partition, self._batch)])]
        usual = ProduceRequest(
            transactional_id=None, required_acks=self.required_acks, timeout=self._timeout_ms, topics=topics
        )
        return usual.prepare(versions)

    def build_request_header(self, correlation_id: int, client_id: str) -> Head:
        """See aiokafka."""
        name = client_id.encode()
        return Head(correlation_id, _HEAD.pack(_KEY, _VERSION, correlation_id, len(name)) + name)

    def encode(self) -> bytes:
        """See aiokafka."""
        before = _BEFORE.pack(_NO_TEXT, self.required_acks, self._timeout_ms, 1, len(self._topic))
        return b"".join((before, self._topic, _AFTER.pack(1, self._partition, len(self._batch)), self._batch))

    @staticmethod
    def parse_response_header(data: BytesIO) -> Head:
        """See aiokafka."""
        return Head(_ANSWER_HEAD.unpack(data.read(_ANSWER_HEAD.size))[0])
