"""One HTTP request of a sender, exactly as it came, and the named causes for which one is refused.

Law: nothing in here is parsed beyond what HTTP itself says; the body stays bytes.
"""

from __future__ import annotations

import json
import struct
from datetime import datetime
from enum import StrEnum
from typing import Self

from schemas.record import Message, Timestamp


class Refusal(StrEnum):
    """Why a request was turned away at the door. Counted, logged and listed for the admin by these names."""

    UNKNOWN_ENDPOINT = "UNKNOWN_ENDPOINT"
    ENDPOINT_DISABLED = "ENDPOINT_DISABLED"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    CERTIFICATE_REFUSED = "CERTIFICATE_REFUSED"
    VERIFICATION_FAILED = "VERIFICATION_FAILED"
    SIGNATURE_MISSING = "SIGNATURE_MISSING"
    STALE = "STALE"
    FROM_THE_FUTURE = "FROM_THE_FUTURE"
    REPLAYED = "REPLAYED"
    """Accepted before, byte for byte: answered as accepted, and not published again."""
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    EMPTY_BODY = "EMPTY_BODY"
    BODY_INCOMPLETE = "BODY_INCOMPLETE"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    HEADERS_INCOMPLETE = "HEADERS_INCOMPLETE"
    RATE_LIMITED = "RATE_LIMITED"
    OVERLOADED = "OVERLOADED"
    BROKER_UNAVAILABLE = "BROKER_UNAVAILABLE"
    KEYS_UNAVAILABLE = "KEYS_UNAVAILABLE"


class Delivery(Message):
    """Topic `crm.deliveries`: one record per HTTP request, however many events it holds."""

    request_id: str
    tenant: str
    endpoint: str
    source: str
    """The dialect that the endpoint speaks: a plug-in's name of ingress/sources."""
    received_at: Timestamp
    content_type: str = ""
    body: bytes

    def pack(self) -> bytes:
        """Bytes of the payload: a big-endian length, that much JSON, then the body untouched."""
        return pack_delivery(
            request_id=self.request_id,
            tenant=self.tenant,
            endpoint=self.endpoint,
            source=self.source,
            received_at=self.received_at,
            content_type=self.content_type,
            body=self.body,
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Read what `pack` wrote; raises ValueError when it is cut or not ours."""
        if len(payload) < 4:
            raise ValueError("delivery payload: shorter than its length prefix")
        (size,) = struct.unpack_from(">I", payload)
        if len(payload) < 4 + size:
            raise ValueError("delivery payload: its header is cut short")
        return cls.model_validate({**json.loads(payload[4 : 4 + size]), "body": payload[4 + size :]})


def pack_delivery(
    *, request_id: str, tenant: str, endpoint: str, source: str, received_at: datetime, content_type: str, body: bytes
) -> bytes:
    """`Delivery.pack` without building the model, for the front door's hot path."""
    head = json.dumps(
        {
            "request_id": request_id,
            "tenant": tenant,
            "endpoint": endpoint,
            "source": source,
            "received_at": received_at.isoformat(timespec="milliseconds"),
            "content_type": content_type,
        },
        separators=(",", ":"),
    ).encode()
    return struct.pack(">I", len(head)) + head + body
