"""What every Kafka message carries in the clear: CloudEvents attributes, the trace, and whose it is.

Law: no personal data. Source: CloudEvents 1.0 Kafka protocol binding, binary mode (`ce_` headers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Self

CONTENT_TYPE = b"application/vnd.hookline.sealed"
SIZE = "hl_size"
"""Of a payload that is compressed within its seal: its bytes once it is opened. Who reads decides by it how much to take on at once."""
_NEEDED = ("ce_id", "ce_type", "ce_source", "ce_time", "hl_tenant", "hl_key")
_READ = (*_NEEDED, "hl_account", "traceparent")
_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", CONTENT_TYPE)


class EnvelopeError(ValueError):
    """The headers are not ours; names the header."""


class Stamp:
    """What the headers of all messages of one type, writer and moment share, made once: there is one envelope a message."""

    __slots__ = ("_accounts", "_source", "_tenants", "_time", "_type")

    def __init__(self, type: str, source: str, time: datetime) -> None:  # noqa: A002 -- the attribute's name
        self._type = ("ce_type", type.encode())
        self._source = ("ce_source", source.encode())
        self._time = ("ce_time", _written(time))
        self._tenants: dict[str, tuple[str, bytes]] = {}
        self._accounts: dict[str, tuple[str, bytes]] = {}

    def headers(
        self,
        id: str,  # noqa: A002 -- the attribute's name
        *,
        tenant: str,
        account: str,
        key_id: str,
        traceparent: str,
    ) -> list[tuple[str, bytes]]:
        """One message's headers; see `Envelope` for what each says. An empty account or traceparent is left out."""
        owner = self._tenants.get(tenant) or self._tenants.setdefault(tenant, ("hl_tenant", tenant.encode()))
        found = [
            _SPECVERSION,
            ("ce_id", id.encode()),
            self._type,
            self._source,
            self._time,
            _CONTENT_TYPE,
            owner,
            ("hl_key", key_id.encode()),
        ]
        if account:
            found.append(
                self._accounts.get(account) or self._accounts.setdefault(account, ("hl_account", account.encode()))
            )
        if traceparent:
            found.append(("traceparent", traceparent.encode()))
        return found


# Not frozen: one is made for each message that is read, and a lock on every attribute costs more than reading them.
@dataclass(slots=True)
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
        return Stamp(self.type, self.source, self.time).headers(
            self.id, tenant=self.tenant, account=self.account, key_id=self.key_id, traceparent=self.traceparent
        )

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]]) -> Self:
        """Read them back; raises EnvelopeError naming what is missing or unreadable."""
        given = dict(headers)
        try:
            found = [(given.get(name) or b"").decode() for name in _READ]
        except UnicodeDecodeError as error:
            raise EnvelopeError(f"header {_undecodable(given)}: not UTF-8") from error
        id_, type_, source, written, tenant, key_id, account, traceparent = found
        if not (id_ and type_ and source and written and tenant and key_id):
            missing = [name for name, value in zip(_NEEDED, found, strict=False) if not value]
            raise EnvelopeError(f"headers missing: {', '.join(missing)}")
        try:
            time = _read(written)
        except ValueError as error:
            raise EnvelopeError("header ce_time: not ISO 8601") from error
        return cls(id_, type_, source, time, tenant, account, key_id, traceparent)


# What is published together has one time.


@lru_cache(maxsize=64)
def _written(time: datetime) -> bytes:
    return time.isoformat(timespec="milliseconds").encode()


@lru_cache(maxsize=1_024)
def _read(time: str) -> datetime:
    return datetime.fromisoformat(time)


def _undecodable(given: Mapping[str, bytes]) -> str:
    for name in _READ:
        try:
            (given.get(name) or b"").decode()
        except UnicodeDecodeError:
            return name
    return ""
