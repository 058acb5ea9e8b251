"""What consumers and producers say to the broker all the time, written and read at a quarter of the price.

aiokafka writes and reads each field by itself, each partition of each request: for a fetch of twelve partitions that is 0.3 ms of
CPU there and back, and a consumer fetches with every message. Here neighbouring fields of a fixed size are one call of `struct`.

Law: the same bytes for the same values, the same values for the same bytes, ValueError for what aiokafka refuses with it; a test
holds the two side by side. Whatever a version of aiokafka says in other types is left to aiokafka.
Source: `aiokafka.protocol.types`, `aiokafka.protocol.struct` (0.14).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any, Final

from aiokafka.protocol.commit import OffsetCommitRequest_v3, OffsetCommitResponse_v3
from aiokafka.protocol.fetch import FetchRequest_v4, FetchRequest_v11, FetchResponse_v4, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.types import Array, Boolean, Float64, Int8, Int16, Int32, Int64, Schema, UInt32

_FIXED: Final = {Int8: "b", Int16: "h", Int32: "i", Int64: "q", UInt32: "I", Boolean: "?", Float64: "d"}
_SPOKEN: Final = (
    FetchRequest_v4, FetchRequest_v11, FetchResponse_v4, FetchResponse_v11, OffsetCommitRequest_v3, OffsetCommitResponse_v3,
    ProduceRequest_v7, ProduceResponse_v7,
)  # fmt: skip
"""Of brokers of today the last versions that aiokafka knows, and of each the one before the fields that came later."""
_COUNT: Final = struct.Struct(">i")


class QuickSchema(Schema):  # type: ignore[misc]  # aiokafka has no types
    """A row of fields."""

    def __init__(self, schema: Schema) -> None:
        self.names = schema.names
        self.fields = tuple(quick(field) for field in schema.fields)
        self.fixed: struct.Struct | None = None
        """Of the whole row, where every field is of a fixed size."""
        self._steps: list[tuple[int, int, struct.Struct | None, Any]] = []
        at = 0
        for is_fixed, group in groupby(self.fields, key=lambda field: _letter(field) is not None):
            fields = list(group)
            if is_fixed:
                whole = struct.Struct(">" + "".join(_letter(field) or "" for field in fields))
                self._steps.append((at, at + len(fields), whole, None))
            else:
                self._steps += [(at + place, at + place + 1, None, field) for place, field in enumerate(fields)]
            at += len(fields)
        if len(self._steps) == 1:
            self.fixed = self._steps[0][2]

    def encode(self, item: Sequence[Any]) -> bytes:
        """See aiokafka."""
        if len(item) != len(self.fields):
            raise ValueError("Item field count does not match Schema")
        parts = []
        for begin, end, fixed, field in self._steps:
            parts.append(field.encode(item[begin]) if fixed is None else _packed(fixed, item[begin:end]))
        return b"".join(parts)

    def decode(self, data: BytesIO) -> tuple[Any, ...]:
        """See aiokafka."""
        found: list[Any] = []
        for _, _, fixed, field in self._steps:
            if fixed is None:
                found.append(field.decode(data))
            else:
                found += _unpacked(fixed, data)
        return tuple(found)


class QuickArray(Array):  # type: ignore[misc]  # aiokafka has no types
    """A list of rows or of values."""

    def __init__(self, array: Array) -> None:
        self.array_of = quick(array.array_of)
        self._row: struct.Struct | None = getattr(self.array_of, "fixed", None)

    def encode(self, items: Sequence[Any] | None) -> bytes:
        """See aiokafka."""
        if items is None:
            return _COUNT.pack(-1)
        row = self._row
        one: Callable[[Any], bytes] = self.array_of.encode
        if row is None:
            return b"".join((_COUNT.pack(len(items)), *[one(item) for item in items]))
        return b"".join((_COUNT.pack(len(items)), *[_packed(row, item) for item in items]))

    def decode(self, data: BytesIO) -> list[Any] | None:
        """See aiokafka."""
        (count,) = _unpacked(_COUNT, data)
        if count == -1:
            return None
        row = self._row
        if row is None:
            one = self.array_of.decode
            return [one(data) for _ in range(count)]
        size = row.size * max(0, count)
        raw = data.read(size)
        if len(raw) != size:
            raise ValueError(f"Buffer underrun decoding {count} rows of {row.size} bytes")
        return list(row.iter_unpack(raw))


def quick(field: Any) -> Any:
    """The same field, quicker where it is a row or a list of rows."""
    if type(field) is Schema:
        return QuickSchema(field)
    if type(field) is Array:
        return QuickArray(field)
    return field


def speak_quickly() -> None:
    """Take effect for all connections of this process; may be called again and again."""
    for each in _SPOKEN:
        each.SCHEMA = quick(each.SCHEMA)


def _letter(field: Any) -> str | None:
    return _FIXED.get(field) if isinstance(field, type) else None


def _packed(fixed: struct.Struct, values: Sequence[Any]) -> bytes:
    try:
        return fixed.pack(*values)
    except struct.error as error:
        raise ValueError(f"values {values!r} do not fit {fixed.format}: {error}") from error


def _unpacked(fixed: struct.Struct, data: BytesIO) -> tuple[Any, ...]:
    try:
        return fixed.unpack(data.read(fixed.size))
    except struct.error as error:
        raise ValueError(f"Buffer underrun decoding {fixed.format}: {error}") from error
