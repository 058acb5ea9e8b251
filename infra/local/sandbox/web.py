"""HTTP as thin as it gets: a request, a response and a router on raw ASGI.

Law: knows no vendor. A body above `MAX_BODY` is cut off with 413, so that no client can fill the memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

MAX_BODY = 20 * 1024 * 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = b"application/json;charset=utf-8"


class BadJsonError(ValueError):
    """The request's body is not the JSON object that this call expects."""


class Request:
    """One request, its body read in full. Headers are looked up in lower case."""

    __slots__ = ("_headers", "_query", "body", "method", "path", "raw_query")

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_query: bytes = scope["query_string"]
        self.body = body
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._query: dict[str, list[str]] | None = None

    def header(self, name: bytes) -> str:
        """The header's value, or an empty string."""
        for key, value in self._headers:
            if key == name:
                return value.decode("latin-1")
        return ""

    @property
    def bearer(self) -> str:
        """The bearer token, or an empty string."""
        value = self.header(b"authorization")
        return value[7:] if value[:7].lower() == "bearer " else ""

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's parameters; repeated ones are kept in order."""
        if self._query is None:
            self._query = parse_qs(self.raw_query.decode("latin-1"), keep_blank_values=True)
        return self._query

    def param(self, name: str, default: str = "") -> str:
        """The last value given for a query parameter."""
        values = self.query.get(name)
        return values[-1] if values else default

    def names(self, name: str) -> list[str]:
        """A list parameter, given repeatedly or separated by commas."""
        return [part for value in self.query.get(name, ()) for part in value.split(",") if part]

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises BadJsonError when it is none."""
        try:
            value = orjson.loads(self.body) if self.body else {}
        except orjson.JSONDecodeError as error:
            raise BadJsonError(f"the body is not JSON ({error.msg} at {error.pos})") from None
        if not isinstance(value, dict):
            raise BadJsonError("the body must be a JSON object")
        return value

    def form(self) -> dict[str, str]:
        """The body as form fields; of a repeated field the last value."""
        return {key: values[-1] for key, values in parse_qs(self.body.decode("utf-8", "replace")).items()}


class Response:
    """Status, body and headers; `headers` may be added to until it is sent."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", content_type: bytes = JSON_TYPE) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers: list[tuple[bytes, bytes]] = []

    async def send(self, send: Send) -> None:
        """Write it out; may be called once."""
        length = str(len(self.body)).encode()
        headers = [(b"content-length", length), *self.headers]
        if self.body:
            headers.append((b"content-type", self.content_type))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def answer(value: object, status: int = 200) -> Response:
    """A JSON response."""
    return Response(status, orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


Handler = Callable[..., Response]


class Router:
    """Routes by method and path segments; `{name}` stands for one segment and is handed over, decoded, in order.

    A literal wins over a parameter when both match, whichever was added first.
    """

    def __init__(self) -> None:
        self._routes: dict[tuple[str, int], list[tuple[tuple[str, ...], str, Handler]]] = {}

    def add(self, method: str, pattern: str, operation: str, handler: Handler) -> None:
        """Serve `pattern` with `handler(request, *parameters)`; `operation` names it for faults and the journal."""
        parts = tuple(pattern.strip("/").split("/"))
        routes = self._routes.setdefault((method, len(parts)), [])
        routes.append((parts, operation, handler))
        routes.sort(key=lambda route: [part.startswith("{") for part in route[0]])

    def match(self, method: str, path: str) -> tuple[str, Handler, list[str]] | None:
        """Operation, handler and parameters for a path, or None."""
        segments = path.strip("/").split("/")
        for parts, operation, handler in self._routes.get((method, len(segments)), ()):
            found: list[str] = []
            for part, segment in zip(parts, segments, strict=True):
                if part[:1] == "{":
                    found.append(unquote(segment))
                elif part != segment:
                    break
            else:
                return operation, handler, found
        return None


async def read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is larger than `MAX_BODY` or the client went away."""
    message = await receive()
    if message["type"] != "http.request":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= MAX_BODY else None
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
    return b"".join(parts)
