"""HTTP/1.1 at the wire, as uvicorn speaks it, with the limits that it does not set: headers by number, size and time, connections by
number, and one plain answer to what is no HTTP.

Law: believes a message's framing only where llhttp finds one way alone to read it; what cannot be read ends its connection, and
so does a request to change the protocol. Nothing that was sent is logged.
Source: uvicorn's `HttpToolsProtocol`, which times the pause between requests and the graceful end, and nothing of a request.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import httptools
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ingress import answers
from ingress.sources.source import json_refused
from ingress.tls import CLIENT_CERTIFICATE, verified_certificate
from schemas.delivery import Refusal

SWEEP_SECONDS = 0.5
LINGER_SECONDS = 0.5

Take = Callable[[bytes, bytes, MutableMapping[str, Any], bytes, Callable[[bytes, bytes], None]], bool]
"""`Direct.take`."""
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

    def __init__(self, limits: WireLimits, noted: Noted, take: Take | None = None) -> None:
        self.limits = limits
        self.take = take
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
        answer = json_refused(refusal, answers.STATUS[refusal])
        again = answers.RETRY_AFTER.get(refusal)
        wait = b"" if again is None else b"retry-after: %d\r\n" % again
        head = answers.head_of(answer) + request_id.encode() + b"\r\n" + wait
        return head + b"connection: close\r\n\r\n" + answer[2]

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.limits.header_seconds / 4))
            now = loop.time()
            for connection in [found for found in self._open if found.overdue(now)]:
                connection.cut()


_VERSIONS = frozenset({"1.0", "1.1"})


class _TooLargeError(Exception):
    """Raised inside the parser's callbacks, which end the parsing with it."""


class _UnreadableError(Exception):
    """Likewise."""


_OUR_PATHS = b"/hooks/"


class _Never:
    """An event for which nobody waits."""

    def set(self) -> None:
        """Nothing."""


class _Short:
    """What uvicorn's `RequestResponseCycle` is to the protocol, of a request that went the short way and is whole.

    One a connection, used again when it is done: a connection has one request at a time on the short way.
    """

    __slots__ = ("_door", "answer", "disconnected", "keep_alive", "response_complete", "response_started", "transport")

    more_body = False
    message_event = _Never()

    def __init__(self, door: DoorProtocol) -> None:
        self._door = door
        self.transport: Any = None
        self.keep_alive = False
        self.disconnected = self.response_started = False
        self.response_complete = True
        self.answer = self.reply
        """`reply`, bound once."""

    def reply(self, head: bytes, body: bytes) -> None:
        """One answer, in one piece; nothing when nobody is there any more."""
        transport = self.transport
        if self.disconnected or self.response_complete or transport.is_closing():
            return
        self.response_started = self.response_complete = True
        if self.keep_alive:
            transport.write(head + b"\r\n" + body)
        else:
            transport.write(head + b"connection: close\r\n\r\n" + body)
            transport.close()
        self._door.on_response_complete()

    def forget(self) -> None:
        """Its connection is closed: without circles what belonged to it goes at once. Hundreds that wait for a collection together
        would stop every other request for as long as that takes.
        """
        del self._door, self.answer


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
        self._take = guard.take
        self._short = _Short(self)
        """Of the request that goes the short way; there is one at a time."""
        self._peer: dict[str, Any] = {}
        """What the short way is told of the connection."""
        self._version = "1.1"
        self._held: list[bytes] | None = None
        """What has come of the body of a request that may go the short way; None where there is no such request."""
        self._idle_since = 0.0
        """When the last answer was given, while nothing came after it; else 0."""
        self._since = 0.0
        """When the line and headers began that are not complete; 0 where none have."""
        self._silent = True
        self._first_chunk = False
        self._head_bytes = 0
        self._counting = True
        """Headers are counted one by one; needless while all that has come is less than they may be together."""
        self._arrived = 0
        self._dead = False
        self._too_large = ""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        certificate = verified_certificate(transport)
        if certificate is not None:
            self.app_state = {**self.app_state, CLIENT_CERTIFICATE: certificate}
        self._peer = {"client": self.client, "scheme": self.scheme, "state": self.app_state}
        self._short.transport = transport
        self._since = self.loop.time()
        if not self._guard.enter(self):
            self._end(Refusal.OVERLOADED, "too many connections")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.leave(self)
        super().connection_lost(exc)
        self._short.forget()

    @override
    def data_received(self, data: bytes) -> None:
        if self._dead:
            return
        self._idle_since = 0.0
        self._silent = False
        self._arrived = len(data)
        try:
            try:
                self.parser.feed_data(data)
            finally:
                # More of its body is to come, or never will: then it is nothing for the short way.
                if self._held is not None:
                    self._go_the_usual_way()
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
            elif self.cycle is not None and self.cycle.response_complete and not self._idle_since:
                # Empty lines between requests: neither a request nor silence.
                self._since = self.loop.time()

    @override
    def on_message_begin(self) -> None:
        # The rest of uvicorn's, which is ASGI's, is made where somebody needs it.
        self.url = b""
        self.headers = []
        self._since = self.loop.time()
        self._first_chunk = True
        self._head_bytes = 0
        self._counting = self._arrived > self._limits.header_bytes

    @override
    def on_url(self, url: bytes) -> None:
        self.url += url
        if self._counting:
            self._count(len(url))

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if self._counting:
            self._count(len(name) + len(value) + 4)

    @override
    def on_headers_complete(self) -> None:
        self._since = 0.0
        self._version = self.parser.get_http_version()
        if self._version not in _VERSIONS:
            raise _UnreadableError
        if len(self.headers) > self._limits.headers:
            self._count(0)
        self._counting = True  # trailers
        if self._take is None or self._busy() or self.flow.write_paused:
            self._begin_cycle()
        else:
            self._held = []

    @override
    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    @override
    def on_message_complete(self) -> None:
        if self._held is None:
            super().on_message_complete()
        elif self._took():
            self._held = None
        else:
            self._go_the_usual_way()
            super().on_message_complete()

    def _took(self) -> bool:
        """Whether the request that is held went the short way."""
        if self._held is None or self._take is None or not self.url.startswith(_OUR_PATHS) or b"#" in self.url:
            return False
        body = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        peer, parser, short = self._peer, self.parser, self._short
        peer["headers"] = self.headers
        before = self.cycle
        short.keep_alive = self._version != "1.0" and parser.should_keep_alive()
        short.disconnected = short.response_started = short.response_complete = False
        self.cycle = short  # type: ignore[assignment]  # uvicorn's protocol asks no more of it than it has
        if self._take(parser.get_method(), self.url, peer, body, short.answer):
            return True
        short.response_complete = True
        self.cycle = before
        return False

    def _go_the_usual_way(self) -> None:
        held, self._held = self._held or (), None
        self._begin_cycle()
        for body in held:
            super().on_body(body)

    def _begin_cycle(self) -> None:
        """As uvicorn does with a request whose headers are here."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.scope["headers"] = headers
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    @override
    def on_response_complete(self) -> None:
        # As uvicorn's, but for the timer a request: the sweep sees to idle connections.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            # Its body may have to be waited for, and nothing else begins it.
            super()._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()

    def overdue(self, now: float) -> bool:
        """Whether it has kept us waiting for a request line and headers, or for another request, for too long."""
        if self._idle_since:
            return now - self._idle_since > self._limits.idle_seconds
        if not self._since:
            return False
        return now - self._since > (self._limits.idle_seconds if self._silent else self._limits.header_seconds)

    def cut(self) -> None:
        """It is overdue."""
        if self._silent or self._idle_since:
            self._dead = True
            self.transport.close()
        else:
            self._end(Refusal.HEADERS_INCOMPLETE, f"not complete after {self._limits.header_seconds:g} s")

    def _head_grew(self, size: int) -> None:
        if self._first_chunk:
            # It may begin with another request's end; what the callbacks have seen of it is counted.
            self._first_chunk = False
            if not self._counting:
                self._counting = True
                self._head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            return
        self._head_bytes += size
        if self._head_bytes > 2 * self._limits.header_bytes:
            self._end(Refusal.HEADERS_TOO_LARGE, f"more than {self._limits.header_bytes} bytes")

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.header_bytes or len(self.headers) > self._limits.headers:
            self._too_large = f"more than {self._limits.headers} headers or {self._limits.header_bytes} bytes"
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
