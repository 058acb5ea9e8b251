"""HTTP/1.1 at the wire, as uvicorn speaks it, with the limits that it does not set: headers by number, size and time, connections by
number, and one plain answer to what is no HTTP.

Law: believes a message's framing only where llhttp finds one way alone to read it; what cannot be read ends its connection, and
so does a request to change the protocol. Nothing that was sent is logged.
Source: uvicorn's `HttpToolsProtocol`, which times the pause between requests and the graceful end, and nothing of a request.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ingress import answers
from ingress.tls import CLIENT_CERTIFICATE, verified_certificate
from schemas.delivery import Refusal

SWEEP_SECONDS = 0.5
LINGER_SECONDS = 0.5

Noted = Callable[[Refusal, str], str]
"""Told of every refusal at the wire, with a detail; returns the request's id. Must not block or raise."""


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Per process; see the settings `ingress_max_…` and `ingress_header_timeout_seconds`."""

    headers: int
    header_bytes: int
    header_seconds: float
    connections: int
    idle_seconds: float
    """How long a connection may stay without having sent anything."""


class Guard:
    """Watches all connections of a process."""

    def __init__(self, limits: WireLimits, noted: Noted) -> None:
        self.limits = limits
        self._noted = noted
        self._open: set[DoorProtocol] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="slow-headers")

    async def stop(self) -> None:
        """May be called twice."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None

    def protocol(self) -> Callable[..., asyncio.Protocol]:
        """For uvicorn's `http` option."""
        return functools.partial(DoorProtocol, self)

    def enter(self, connection: DoorProtocol) -> bool:
        """False: there are enough."""
        self._open.add(connection)
        return len(self._open) <= self.limits.connections

    def leave(self, connection: DoorProtocol) -> None:
        """It is closed."""
        self._open.discard(connection)

    def response(self, refusal: Refusal, detail: str) -> bytes:
        """The whole answer on the wire."""
        request_id = self._noted(refusal, detail)
        body = b'{"accepted":false,"cause":"%b"}' % refusal.encode()
        again = answers.RETRY_AFTER.get(refusal)
        return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%bconnection: close\r\n\r\n%b" % (
            answers.STATUS[refusal],
            _PHRASES[answers.STATUS[refusal]],
            len(body),
            request_id.encode(),
            b"" if again is None else b"retry-after: %d\r\n" % again,
            body,
        )  # fmt: skip

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.limits.header_seconds / 4))
            now = loop.time()
            for connection in [found for found in self._open if found.overdue(now)]:
                connection.cut()


_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}  # fmt: skip


_VERSIONS = frozenset({"1.0", "1.1"})


class _TooLargeError(Exception):
    """Raised inside the parser's callbacks, which end the parsing with it."""


class _UnreadableError(Exception):
    """Likewise."""


class DoorProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        guard: Guard,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._guard = guard
        self._limits = guard.limits
        self._since = 0.0
        """When the line and headers began that are not complete; 0 where none have."""
        self._silent = True
        self._first_chunk = False
        self._head_bytes = 0
        self._dead = False
        self._too_large = ""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        certificate = verified_certificate(transport)
        if certificate is not None:
            self.app_state = {**self.app_state, CLIENT_CERTIFICATE: certificate}
        self._since = self.loop.time()
        if not self._guard.enter(self):
            self._end(Refusal.OVERLOADED, "too many connections")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.leave(self)
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._dead:
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._silent = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._leave_http()
        except httptools.HttpParserError:
            if self._too_large:
                self._end(Refusal.HEADERS_TOO_LARGE, self._too_large)
            else:
                self._end(Refusal.MALFORMED_REQUEST, "no HTTP/1.1, or readable in two ways")
        else:
            if self._since:
                self._head_grew(len(data))
            elif self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
                # Empty lines between requests: neither a request nor silence.
                self._since = self.loop.time()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since = self.loop.time()
        self._first_chunk = True
        self._head_bytes = 0

    @override
    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.header_bytes:
            self._refuse_head(f"more than {self._limits.header_bytes} bytes")

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers = self.headers
        headers.append((name, value))
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.header_bytes or len(headers) > self._limits.headers:
            self._refuse_head(f"more than {self._limits.headers} headers or {self._limits.header_bytes} bytes")

    @override
    def on_headers_complete(self) -> None:
        self._since = 0.0
        if self.parser.get_http_version() not in _VERSIONS:
            raise _UnreadableError
        super().on_headers_complete()

    def overdue(self, now: float) -> bool:
        """Whether it has kept us waiting for a request line and headers for too long."""
        if not self._since:
            return False
        return now - self._since > (self._limits.idle_seconds if self._silent else self._limits.header_seconds)

    def cut(self) -> None:
        """It is overdue."""
        if self._silent:
            self._dead = True
            self.transport.close()
        else:
            self._end(Refusal.HEADERS_INCOMPLETE, f"not complete after {self._limits.header_seconds:g} s")

    def _head_grew(self, size: int) -> None:
        if self._first_chunk:
            # It may begin with another request's end; what the callbacks have seen of it is counted.
            self._first_chunk = False
            return
        self._head_bytes += size
        if self._head_bytes > 2 * self._limits.header_bytes:
            self._end(Refusal.HEADERS_TOO_LARGE, f"more than {self._limits.header_bytes} bytes")

    def _refuse_head(self, detail: str) -> None:
        self._too_large = detail
        raise _TooLargeError

    def _end(self, refusal: Refusal, detail: str) -> None:
        """No further request is read here; one that is being answered gets its answer, and then it is over."""
        if self._dead:
            return
        self._dead = True
        self._since = 0.0
        answer = self._guard.response(refusal, detail)
        if self._busy():
            if self.pipeline or not self.cycle.more_body or self.cycle.response_started:
                self._close_after_answer()
                return
            # Its own body cannot be read on: nobody need wait for the rest of it.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(answer)
        if refusal is Refusal.OVERLOADED or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed at once, while something unread has arrived, the connection would be reset and the answer lost with it.
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _leave_http(self) -> None:
        """Another protocol was asked for: the request is answered as the HTTP that it is, and what follows is not read."""
        self._dead = True
        self._since = 0.0
        if self._busy():
            self._close_after_answer()
        else:
            self.transport.close()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _close_after_answer(self) -> None:
        if self.pipeline:
            # Whole requests that wait behind the one in work are answered before the connection ends.
            self.pipeline[0][0].keep_alive = False
        else:
            self.cycle.keep_alive = False
