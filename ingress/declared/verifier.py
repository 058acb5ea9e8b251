"""A declared HMAC, ready for requests: everything that the declaration says, worked out once.

Law: texts are compared in constant time, and the time is judged last, for only of a genuine request does it mean anything. A plain
object, because a pydantic model's private attributes cost each request more than the HMAC does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ingress.sources.source import (
    FROM_THE_FUTURE,
    SIGNATURE_MISSING,
    STALE,
    VERIFICATION_FAILED,
    Denied,
    InboundRequest,
)
from schemas.delivery import Refusal

if TYPE_CHECKING:
    from ingress.declared.schemes import Hmac

MAX_SIGNATURES = 16
FIELD = re.compile(r"\{([a-z]*)\}")
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,14})")
_PER_SECOND = {"s": 1, "ms": 1_000}
_ADDRESS = frozenset({"method", "url", "path"})
_UNUSABLE = Denied(Refusal.ENDPOINT_DISABLED, "its secret is not written as `verify.secret` declares it")


def key_of(secret: bytes, written: str) -> bytes | None:
    """The key that a secret is, by how it is `written` (text, hex, base64); None when it is not."""
    if written == "text":
        return secret
    try:
        found = bytes.fromhex(secret.decode()) if written == "hex" else base64.b64decode(secret, validate=True)
    except (ValueError, binascii.Error):
        return None
    return found or None


class HmacVerifier:
    """One per declaration; no method blocks, raises or keeps anything of a request."""

    __slots__ = (
        "_digest", "_element", "_encoded", "_header", "_id_header", "_parts", "_per_second", "_prefix", "_separator",
        "_signs_address", "_stamp_element", "_stamp_header", "_timed", "_tolerance", "_written",
    )  # fmt: skip

    def __init__(self, declared: Hmac) -> None:
        pieces = FIELD.split(declared.signed)
        self._parts: tuple[bytes | str, ...] = tuple(
            piece if place % 2 else piece.encode() for place, piece in enumerate(pieces) if piece or place % 2
        )
        self._signs_address = not _ADDRESS.isdisjoint(pieces[1::2])
        self._header = declared.header.encode()
        self._digest = declared.digest
        self._encoded: Callable[[bytes], bytes] = binascii.hexlify if declared.encoding == "hex" else _base64
        self._prefix = declared.prefix.encode()
        self._separator = declared.separator.encode() if declared.separator else b""
        self._element = b""
        if declared.elements is not None:
            self._element, self._separator = declared.elements.signature.encode(), declared.elements.separator.encode()
        stamp = declared.timestamp
        self._timed = stamp is not None
        self._stamp_header = stamp.header.encode() if stamp is not None and stamp.header else None
        self._stamp_element = stamp.element.encode() if stamp is not None and stamp.element else None
        self._tolerance = stamp.tolerance_seconds if stamp is not None else 0
        self._per_second = _PER_SECOND[stamp.unit] if stamp is not None else 1
        self._id_header = declared.id_header.encode() if declared.id_header else None
        self._written = declared.secret

    def verify(self, request: InboundRequest, secrets: Sequence[bytes], now: datetime) -> Denied | None:
        """None when one of the signatures holds under one of the secrets, and the time is near enough."""
        given, stamp, identity = self._said(request)
        if not given or identity is None or (self._timed and stamp is None):
            return SIGNATURE_MISSING
        stamp = stamp or b""
        if self._timed and not _NUMBER.fullmatch(stamp):
            return VERIFICATION_FAILED
        covered = self._covered(request, stamp, identity)
        unusable = True
        for secret in secrets:
            key = key_of(secret, self._written)
            if key is None:
                continue
            unusable = False
            ours = self._prefix + self._encoded(hmac.digest(key, covered, self._digest))
            if any([hmac.compare_digest(ours, one) for one in given]):  # noqa: C419 - every one is compared, so that time tells nothing
                return self._judge_age(int(stamp), now) if self._timed else None
        return _UNUSABLE if unusable else VERIFICATION_FAILED

    def once(self, request: InboundRequest) -> tuple[bytes, ...] | None:
        """What determines a request that was verified: the digest of all that is signed. None where no time and no id is.

        Not the signature header: a stranger may write into it what is no part of the signature.
        """
        if not self._timed and self._id_header is None:
            return None
        _, stamp, identity = self._said(request)
        return (hashlib.sha256(self._covered(request, stamp or b"", identity or b"")).digest(),)

    def _said(self, request: InboundRequest) -> tuple[Sequence[bytes], bytes | None, bytes | None]:
        """Signatures, time and id."""
        headers = request.headers
        value = headers.get(self._header)
        stamp = headers.get(self._stamp_header) if self._stamp_header is not None else None
        identity = headers.get(self._id_header) if self._id_header is not None else b""
        if value is None:
            return (), stamp, identity
        if self._element:
            found, stamps = self._elements(value)
            return found, (stamps[0] if len(stamps) == 1 else None) if self._stamp_element is not None else stamp, identity  # fmt: skip
        return (value.split(self._separator)[:MAX_SIGNATURES] if self._separator else (value,)), stamp, identity

    def _elements(self, value: bytes) -> tuple[list[bytes], list[bytes]]:
        found: list[bytes] = []
        stamps: list[bytes] = []
        for element in value.split(self._separator)[: 2 * MAX_SIGNATURES]:
            name, _, content = element.partition(b"=")
            if name == self._element:
                found.append(content)
            elif name == self._stamp_element:
                stamps.append(content)
        return found, stamps

    def _covered(self, request: InboundRequest, stamp: bytes, identity: bytes) -> bytes:
        if self._parts == ("body",):
            return request.body
        values = {"body": request.body, "timestamp": stamp, "id": identity}
        if self._signs_address:
            values |= {"method": request.method, "url": request.uri(), "path": request.target}
        return b"".join([values[part] if isinstance(part, str) else part for part in self._parts])

    def _judge_age(self, stamp: int, now: datetime) -> Denied | None:
        age = now.timestamp() - stamp / self._per_second
        if age > self._tolerance:
            return STALE
        return FROM_THE_FUTURE if age < -self._tolerance else None


def _base64(digest: bytes) -> bytes:
    return binascii.b2a_base64(digest, newline=False)
