"""A verified body as the sealed Kafka message that it becomes: what `Codec.seal` does, for the one path that is hot.

Law: byte for byte what the codec and `schemas.delivery.pack_delivery` would have made (a test compares), with everything that
is the same for all deliveries of one endpoint and hour made once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.kafka.codec import COMPRESS_FROM_BYTES, Outgoing, purpose_of
from infra.keyring import DataKey, Sealing
from schemas.envelope import SIZE, Envelope
from schemas.topics import DELIVERIES

if TYPE_CHECKING:
    from infra.accounts import Endpoint

_MAX_LABELS = 5_000
"""15 MB."""
_MAX_TYPES = 1_000
_MAX_CONTENT_TYPE = 128
_PURPOSE = purpose_of(DELIVERIES)
_BEFORE, _BETWEEN, _AFTER = b'{"request_id":"', b'","content_type":', b"}"


@dataclass(slots=True)
class _Label:
    """What all deliveries of one endpoint and hour share."""

    key: DataKey
    sealing: Sealing
    first: list[tuple[str, bytes]]
    """Headers before `ce_id`."""
    middle: list[tuple[str, bytes]]
    last: list[tuple[str, bytes]]
    head: bytes
    """Of the payload's JSON, from after the request id to before the time."""
    size: int
    """Of that JSON, but for the content type."""
    kafka_key: bytes


class Parcels:
    """One per process; no method blocks."""

    def __init__(self, writer: str) -> None:
        """`writer` says who writes, e.g. `hookline/ingress`."""
        self._writer = writer
        self._labels: dict[str, _Label] = {}
        self._types: dict[bytes, bytes] = {}
        self._moment = (-1, -1)
        self._time: tuple[str, bytes] = ("ce_time", b"")
        """Of the millisecond `_moment`: many requests come in one."""

    def wrap(  # noqa: PLR0917 - one call a request; keywords cost
        self,
        endpoint: Endpoint,
        key: DataKey,
        request_id: str,
        received_at: datetime,
        content_type: bytes,
        body: bytes,
        traceparent: str,
        part: int = 0,
    ) -> Outgoing:
        """The message. `part` > 0: a further one of the same request, which was too large for one."""
        label = self._labels.get(endpoint.id)
        if label is None or label.key is not key:
            label = self._label(endpoint, key)
        identity = request_id.encode()
        moment = int(received_at.timestamp() * 1000)
        written = self._time
        # Both, for the one is rounded by floating-point arithmetic and the other is not.
        if self._moment != (moment, received_at.microsecond // 1000) or received_at.tzinfo is not UTC:
            written = self._written(received_at, moment)
        at = written[1]
        kind = self._types.get(content_type) or self._type(content_type)
        size = len(identity) + len(at) + label.size + len(kind)
        plaintext = b"".join((
            size.to_bytes(4, "big"), _BEFORE, identity, label.head, at, _BETWEEN, kind, _AFTER, body,
        ))  # fmt: skip
        compress = len(plaintext) >= COMPRESS_FROM_BYTES
        value = label.sealing.seal(plaintext, compress=compress)
        headers = [
            label.first[0],
            ("ce_id", identity if part == 0 else b"%b.%d" % (identity, part)),
            *label.middle,
            written,
            *label.last,
        ]
        if traceparent:
            headers.append(("traceparent", traceparent.encode()))
        if compress:
            headers.append((SIZE, b"%d" % len(plaintext)))
        return Outgoing(label.kafka_key + identity, value, headers, identity, moment)

    def _written(self, received_at: datetime, moment: int) -> tuple[str, bytes]:
        made = ("ce_time", received_at.isoformat(timespec="milliseconds").encode())
        if received_at.tzinfo is UTC:
            self._moment, self._time = (moment, received_at.microsecond // 1000), made
        return made

    def _label(self, endpoint: Endpoint, key: DataKey) -> _Label:
        if len(self._labels) >= _MAX_LABELS:
            del self._labels[next(iter(self._labels))]
        headers = Envelope(
            id="id",
            type=DELIVERIES.type,
            source=self._writer,
            time=datetime.min.replace(tzinfo=UTC),
            tenant=key.tenant,
            key_id=key.id,
        ).headers()
        names = [name for name, _ in headers]
        identity, time = names.index("ce_id"), names.index("ce_time")
        assert identity == 1
        fields = {"tenant": endpoint.tenant, "endpoint": endpoint.id, "source": endpoint.source}
        head = b'",' + json.dumps(fields, separators=(",", ":")).encode()[1:-1] + b',"received_at":"'
        made = self._labels[endpoint.id] = _Label(
            key,
            Sealing(key, _PURPOSE),
            headers[:identity],
            headers[identity + 1 : time],
            headers[time + 1 :],
            head,
            len(_BEFORE) + len(head) + len(_BETWEEN) + len(_AFTER),
            f"{endpoint.tenant}/".encode(),
        )
        return made

    def _type(self, content_type: bytes) -> bytes:
        if len(self._types) >= _MAX_TYPES:
            self._types.clear()
        made = self._types[content_type] = json.dumps(content_type[:_MAX_CONTENT_TYPE].decode("latin-1")).encode()
        return made
