"""What every Kafka message carries in the clear: CloudEvents attributes, the trace, and whose it is.

Law: no personal data. Source: CloudEvents 1.0 Kafka protocol binding, binary mode (`ce_` headers).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

CONTENT_TYPE = b"application/vnd.hookline.sealed"


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
            ("ce_time", self.time.isoformat(timespec="milliseconds").encode()),
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
        given: dict[str, str] = {}
        for name, value in headers:
            try:
                given[name] = (value or b"").decode()
            except UnicodeDecodeError as error:
                raise EnvelopeError(f"header {name}: not UTF-8") from error
        missing = [
            name for name in ("ce_id", "ce_type", "ce_source", "ce_time", "hl_tenant", "hl_key") if not given.get(name)
        ]
        if missing:
            raise EnvelopeError(f"headers missing: {', '.join(missing)}")
        try:
            time = datetime.fromisoformat(given["ce_time"])
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
