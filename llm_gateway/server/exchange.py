"""One HTTP exchange as ASGI knows it: a bounded body in, an answer or a stream of events out.

Law: knows nothing of models, keys or limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llm_gateway.server.errors import Headers, Refusal
from llm_gateway.server.flights import Gone

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
HOW = {how: (b"x-hookline-cache", how.encode()) for how in ("hit", "miss", "joined")}


class EventStream:
    """Server-sent events to one client."""

    def __init__(self, send: Send, name: tuple[bytes, bytes]) -> None:
        self._send = send
        self._name = name
        self.begun = False
        self._ended = False

    async def begin(self, warnings: tuple[str, ...], how: str = "miss") -> None:
        """Status and headers; once."""
        self.begun = True
        headers = [*_EVENTS, HOW[how], *warned(warnings), self._name]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def sink(self, events: bytes) -> None:
        """Whole events."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self) -> None:
        """No more events; may be called twice."""
        if not self._ended:
            self._ended = True
            await self._send_end()

    async def _send_end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Receive, most: int) -> bytes:
    """The whole body; raises Refusal above `most` bytes, Gone when the client hangs up."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        if len(body) > most:
            raise _too_large(most)
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
    if message["type"] == "http.disconnect":
        raise Gone
    return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        "request_too_large",
        f"the body is larger than {most} bytes: send less, or raise HOOKLINE_GATEWAY_MAX_BODY_BYTES",
    )


async def hung_up(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def warned(warnings: tuple[str, ...]) -> Headers:
    """The header that says which quotas are nearly spent."""
    return [(b"x-hookline-quota-warning", " ".join(warnings).encode())] if warnings else []
