"""Reading a request's body under a cap, a clock and the gate.

Law: what counts is what was really read; Content-Length is believed only where it makes us refuse sooner. Nothing is
parsed. Compressed bodies are opened under the same cap, so a bomb costs no more than an honest body of full size.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from ingress.deadlines import Deadlines
from ingress.gate import Gate
from schemas.delivery import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_DISCARD_FACTOR = 32
_DISCARD_BYTES = 32 * 1024 * 1024
"""How many caps of a body that is too large are read and thrown away, so that its sender hears the answer: a connection
closed on somebody who is still sending looks like a network failure, and is tried again. Never more than so many bytes."""
_MAX_RATIO = 100
_ANY_RATIO_BYTES = 100_000
"""What CRMs send shrinks ten to thirty times: what would grow more than a hundred times is opened only as far as this."""


class BodyRefusedError(Exception):
    """The body cannot be taken. `size` is what was read; `gone`: nobody is there any more to hear the answer."""

    def __init__(self, refusal: Refusal, detail: str, size: int, *, gone: bool = False) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail
        self.size = size
        self.gone = gone


class Body:
    """The body of one request; `held` bytes are booked at the gate until `release`."""

    __slots__ = ("_cap", "_deadlines", "_gate", "held")

    def __init__(self, gate: Gate, cap: int, deadlines: Deadlines) -> None:
        self._gate = gate
        self._cap = cap
        self._deadlines = deadlines
        self.held = 0

    def release(self) -> None:
        """Give the booked bytes back. May be called twice."""
        self._gate.give_back(self.held)
        self.held = 0

    async def read(
        self,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        every_header: Iterable[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """The whole body, uncompressed; raises BodyRefusedError. `every_header`: repeated ones too."""
        task = self._deadlines.enter()
        raw: bytes | None = None
        try:
            raw = await self._raw(receive, headers)
        except asyncio.CancelledError:
            # Somebody else's cancelling goes on; the clock's becomes an answer.
            if not self._deadlines.is_cut(task):
                raise
        finally:
            self._deadlines.leave(task)
        if raw is None:
            raise BodyRefusedError(
                Refusal.BODY_INCOMPLETE, f"not complete after {self._deadlines.seconds:g} s", self.held
            )
        encoding = headers.get(b"content-encoding")
        if encoding is None:
            return raw
        if sum(name == b"content-encoding" for name, _ in every_header) > 1:
            raise BodyRefusedError(Refusal.UNSUPPORTED_ENCODING, "encoded more than once", len(raw))
        return self._opened(raw, encoding.strip().lower())

    async def _raw(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        declared = _declared(headers)
        if declared > self._most():
            raise BodyRefusedError(Refusal.PAYLOAD_TOO_LARGE, f"announced {declared} bytes", 0)
        message = await receive()
        chunk: bytes = message.get("body", b"")
        self._book(len(chunk))
        if message["type"] == "http.request" and not message.get("more_body") and len(chunk) <= self._cap:
            return chunk
        chunks = [chunk]
        while message["type"] == "http.request":
            if self.held > self._cap:
                size = await self._discard(receive, message, self.held)
                raise BodyRefusedError(Refusal.PAYLOAD_TOO_LARGE, f"more than {self._cap} bytes", size)
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()
            chunk = message.get("body", b"")
            self._book(len(chunk))
            chunks.append(chunk)
        raise BodyRefusedError(Refusal.BODY_INCOMPLETE, "the sender hung up", self.held, gone=True)

    def _book(self, size: int) -> None:
        self.held += size
        if not self._gate.take(size):
            raise BodyRefusedError(Refusal.OVERLOADED, "no room for another body", self.held)

    async def _discard(self, receive: Receive, message: Message, size: int) -> int:
        self.release()
        limit = self._most()
        while message["type"] == "http.request" and message.get("more_body") and size <= limit:
            message = await receive()
            size += len(message.get("body", b""))
        return size

    def _most(self) -> int:
        return max(self._cap, min(self._cap * _DISCARD_FACTOR, _DISCARD_BYTES))

    def _opened(self, raw: bytes, encoding: bytes) -> bytes:
        if encoding in {b"", b"identity"}:
            return raw
        if encoding in {b"gzip", b"x-gzip"}:
            window = 16 + zlib.MAX_WBITS
        elif encoding == b"deflate":
            # RFC 9110 means zlib's format; some senders leave its two bytes of header out.
            wrapped = len(raw) >= 2 and raw[0] & 0x0F == 8 and int.from_bytes(raw[:2]) % 31 == 0
            window = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
        else:
            raise BodyRefusedError(Refusal.UNSUPPORTED_ENCODING, "only gzip, deflate and identity are read", len(raw))
        opener = zlib.decompressobj(window)
        cap = min(self._cap, max(len(raw) * _MAX_RATIO, _ANY_RATIO_BYTES))
        try:
            opened = opener.decompress(raw, cap + 1)
        except zlib.error:
            raise BodyRefusedError(Refusal.BODY_INCOMPLETE, "the compressed body is damaged", len(raw)) from None
        if len(opened) > cap:
            raise BodyRefusedError(Refusal.PAYLOAD_TOO_LARGE, f"more than {cap} bytes when opened", len(raw))
        if not opener.eof:
            raise BodyRefusedError(Refusal.BODY_INCOMPLETE, "the compressed body is cut short", len(raw))
        if opener.unused_data:
            # A second member would have to be opened too, and a body of a thousand empty ones costs time for nothing.
            raise BodyRefusedError(Refusal.UNSUPPORTED_ENCODING, "more follows after the compressed body", len(raw))
        self._book(len(opened))
        return opened


def _declared(headers: Mapping[bytes, bytes]) -> int:
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) <= 18 else 0
