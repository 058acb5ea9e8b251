"""What every Kafka message carries in the clear: CloudEvents attributes, the trace, and whose it is.

Law: no personal data. Source: CloudEvents 1.0 Kafka protocol binding, binary mode (`ce_` headers).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Self

CONTENT_TYPE = b"application/vnd.hookline.sealed"
_NEEDED = ("ce_id", "ce_type", "ce_source", "ce_time", "hl_tenant", "hl_key")


class EnvelopeError(ValueError):
    """The headers are not ours; names the header."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The clear part of a message; the payload is sealed."""

    id: str
    type: str
    """`hookline.change.v1`: payload name and major version; a consumer refuses a version that it does not know."""
    source: str
    """The role that wrote it, e.g. `hookline/translator`."""
    time: datetime
    tenant: str
    account: str = ""
    """Empty on deliveries: an endpoint may speak for several accounts."""
    key_id: str = ""
    """The data key that seals the payload; set when sealing."""
    traceparent: str = ""

    def headers(self) -> list[tuple[str, bytes]]:
        """As Kafka headers."""
        found = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", _written(self.time)),
            ("content-type", CONTENT_TYPE),
            ("hl_tenant", self.tenant.encode()),
            ("hl_key", self.key_id.encode()),
        ]
        if self.account:
            found.append(("hl_account", self.account.encode()))
        if self.traceparent:
            found.append(("traceparent", self.traceparent.encode()))
        return found

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]]) -> Self:
        """Read them back; raises EnvelopeError naming what is missing or unreadable."""
        try:
            given = {name: (value or b"").decode() for name, value in headers}
        except UnicodeDecodeError as error:
            raise EnvelopeError(f"header {_undecodable(headers)}: not UTF-8") from error
        if missing := [name for name in _NEEDED if not given.get(name)]:
            raise EnvelopeError(f"headers missing: {', '.join(missing)}")
        try:
            time = _read(given["ce_time"])
        except ValueError as error:
            raise EnvelopeError("header ce_time: not ISO 8601") from error
        return cls(
            id=given["ce_id"],
            type=given["ce_type"],
            source=given["ce_source"],
            time=time,
            tenant=given["hl_tenant"],
            account=given.get("hl_account", ""),
            key_id=given["hl_key"],
            traceparent=given.get("traceparent", ""),
        )


# What is published together has one time.


@lru_cache(maxsize=64)
def _written(time: datetime) -> bytes:
    return time.isoformat(timespec="milliseconds").encode()


@lru_cache(maxsize=1_024)
def _read(time: str) -> datetime:
    return datetime.fromisoformat(time)


def _undecodable(headers: Iterable[tuple[str, bytes]]) -> str:
    for name, value in headers:
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return name
    return ""
