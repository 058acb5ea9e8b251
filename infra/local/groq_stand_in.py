"""A stand-in for Groq: an HTTP server that speaks as much of its API as we use. It is no model, and never says it is one.

Law: imports no product code. It answers what its responder says (by default: the smallest values that fit the JSON
schema it was given), keeps limits as Groq does where they are set, and misbehaves exactly as its script says. For tests
and for trying the `groq` provider without a key:

    python -m infra.local.groq_stand_in --port 8900
    GROQ_API_KEY=anything GROQ_BASE_URL=http://127.0.0.1:8900 hookline demo

Control, over HTTP: `POST /stand-in` with {"latency": seconds, "script": [step, ...]} where a step, used by one request,
is {"text": ...}, {"status": 429, "retry_after": 2}, {"hang": seconds}, {"raw": "not json"} or {"drop": true};
`GET /stand-in` tells how many requests came. Shapes from https://console.groq.com/docs/api-reference, limits and headers
from https://console.groq.com/docs/rate-limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Responder = Callable[[dict[str, Any]], str]
"""From a request's body to the text of the answer."""

_MAX_BODY = 4 * 1024 * 1024
_ERRORS = {
    400: ("invalid_request_error", "bad_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("tokens", "rate_limit_exceeded"),
    498: ("capacity", "flex_tier_capacity_exceeded"),
}


@dataclass
class Step:
    """What happens to one request."""

    text: str | None = None
    """The answer; None: what the responder says."""
    status: int = 200
    code: str | None = None
    """The error's code, where the status' usual one is not meant."""
    retry_after: float | None = None
    """Seconds in the header `retry-after`."""
    hang: float = 0.0
    """Seconds before anything happens."""
    raw: str | None = None
    """This body, with status 200, whatever it is."""
    drop: bool = False
    """Close the connection in the middle of the answer."""
    finish_reason: str = "stop"
    failed_generation: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Minute:
    """A fixed window of a minute, as Groq's headers describe one."""

    limit: int
    used: int = 0
    ends: float = 0.0

    def room(self, now: float) -> int:
        if now >= self.ends:
            self.used, self.ends = 0, now + 60
        return self.limit - self.used


class GroqStandIn:
    """The ASGI application, and what it was asked."""

    def __init__(
        self,
        responder: Responder | None = None,
        *,
        latency: float = 0.0,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        key: str | None = None,
    ) -> None:
        self.responder: Responder = responder or smallest_answer
        self.latency = latency
        """Seconds before each answer."""
        self.script: deque[Step] = deque()
        """Steps that the next requests meet, one each; afterwards all is well."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests, in order."""
        self.refused = 0
        """How many were answered 429 because a limit was reached."""
        self._key = key
        self._requests = _Minute(requests_per_minute) if requests_per_minute else None
        self._tokens = _Minute(tokens_per_minute) if tokens_per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        body = await _body(receive)
        match (scope["method"], scope["path"]):
            case ("POST", "/openai/v1/chat/completions"):
                await self._complete(scope, body, send)
            case ("GET", "/openai/v1/models"):
                await _answer(
                    send,
                    200,
                    {"object": "list", "data": [{"id": "stand-in", "object": "model", "owned_by": "hookline"}]},
                )
            case ("POST", "/stand-in"):
                told = json.loads(body)
                self.latency = float(told.get("latency", self.latency))
                self.script.extend(Step(**step) for step in told.get("script", ()))
                await _answer(send, 200, {"script": len(self.script)})
            case ("GET", "/stand-in"):
                await _answer(
                    send, 200, {"asked": len(self.asked), "refused": self.refused, "script": len(self.script)}
                )
            case _:
                await _answer(
                    send,
                    404,
                    {
                        "error": {
                            "message": "Unknown request URL",
                            "type": "invalid_request_error",
                            "code": "unknown_url",
                        }
                    },
                )

    async def _complete(self, scope: Scope, body: bytes, send: Send) -> None:
        request = json.loads(body)
        self.asked.append(request)
        step = self.script.popleft() if self.script else Step()
        if step.hang or self.latency:
            await asyncio.sleep(step.hang or self.latency)
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        if not authorization.startswith("Bearer ") or (self._key and authorization != f"Bearer {self._key}"):
            step = Step(status=401)
        text = step.text if step.text is not None else self.responder(request)
        prompt_tokens = sum(len(str(message.get("content") or "")) for message in request["messages"]) // 4 + 1
        completion_tokens = len(text) // 4 + 1
        step, headers = self._limited(step, prompt_tokens + completion_tokens)
        if step.drop:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b'{"id": "chatcmpl', "more_body": True})
            raise ConnectionAbortedError("the script says: drop")
        if step.raw is not None:
            await _send(send, 200, step.raw.encode(), headers)
        elif step.status != 200:
            await _answer(send, step.status, _error(step), headers)
        else:
            await _answer(send, 200, _completion(request, step, text, prompt_tokens, completion_tokens), headers)

    def _limited(self, step: Step, tokens: int) -> tuple[Step, dict[str, str]]:
        """The step, or a refusal when a limit is reached; and the headers that tell about the limits."""
        now = time.monotonic()
        headers: dict[str, str] = {}
        late = [
            window.ends - now
            for window, wanted in ((self._requests, 1), (self._tokens, tokens))
            if window and window.room(now) < wanted
        ]
        if late and step.status == 200:
            self.refused += 1
            step = Step(status=429, retry_after=max(late))
        for window, wanted in ((self._requests, 1), (self._tokens, tokens)):
            if window and step.status == 200:
                window.used += wanted
        if self._tokens:
            headers |= {
                "x-ratelimit-limit-tokens": str(self._tokens.limit),
                "x-ratelimit-remaining-tokens": str(max(0, self._tokens.room(now))),
                "x-ratelimit-reset-tokens": f"{self._tokens.ends - now:.2f}s",
            }
        if step.retry_after is not None:
            headers["retry-after"] = f"{step.retry_after:g}"
        return step, headers | step.headers

    @contextlib.asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Run on 127.0.0.1 in this loop; gives the address for GROQ_BASE_URL."""
        server = _Server(uvicorn.Config(self, host="127.0.0.1", port=port, log_level="critical", lifespan="off"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            if running.done():
                await running
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.ended.set()
            await running


class _Server(uvicorn.Server):
    """Stops at once, open requests included: tests start and stop many of these, and leave some unanswered."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs this process."""
        yield

    async def main_loop(self) -> None:
        """Until it is ended."""
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """Close everything."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.close()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def smallest_answer(request: dict[str, Any]) -> str:
    """JSON that fits the schema in `response_format`, or the one that the instructions end in; `{}` without either."""
    schema = (request.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        told = str(request["messages"][0].get("content") or "")
        start = told.find('{"')
        try:
            schema = json.loads(told[start:]) if start >= 0 else {}
        except ValueError:
            schema = {}
    return json.dumps(_smallest(schema, schema))


def _smallest(node: dict[str, Any], root: dict[str, Any]) -> Any:  # noqa: C901, PLR0911 -- one rule a branch
    if "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _smallest(target, root)
    if "enum" in node:
        return node["enum"][0]
    if "const" in node:
        return node["const"]
    for choice in node.get("anyOf", node.get("oneOf", ())):
        return _smallest(choice, root)
    match node.get("type"):
        case "object" | None:
            required = node.get("required", list(node.get("properties", {})))
            return {
                name: _smallest(inner, root) for name, inner in node.get("properties", {}).items() if name in required
            }
        case "array":
            return []
        case "integer":
            return max(1, node.get("minimum", 1))
        case "number":
            return 0.5
        case "boolean":
            return False
        case "null":
            return None
    # Strict schemas know no formats; a model reads them in the description, and so does this.
    said = f"{node.get('format', '')} {node.get('description', '')}"
    return "2026-01-01T00:00:00Z" if "date-time" in said else "2026-01-01" if "date" in said else "stand-in"


def _completion(
    request: dict[str, Any], step: Step, text: str, prompt_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": step.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_time": 0.001,
            "completion_time": 0.001,
            "total_time": 0.002,
        },
        "x_groq": {"id": "req_stand_in"},
    }


def _error(step: Step) -> dict[str, Any]:
    kind, code = _ERRORS.get(step.status, ("internal_server_error", "internal_server_error"))
    error: dict[str, Any] = {
        "message": f"stand-in: status {step.status}, as scripted",
        "type": kind,
        "code": step.code or code,
    }
    if step.failed_generation is not None:
        error["failed_generation"] = step.failed_generation
    return {"error": error}


async def _body(receive: Receive) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        parts += message.get("body", b"")
        if not message.get("more_body") or len(parts) > _MAX_BODY:
            return bytes(parts)


async def _answer(send: Send, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
    await _send(send, status, orjson.dumps(body), headers or {})


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    listed += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


def main(arguments: list[str] | None = None) -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(
        prog="groq_stand_in", description="A stand-in for Groq's API, on 127.0.0.1. No model."
    )
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--tokens-per-minute", type=int)
    given = parser.parse_args(arguments)
    stand_in = GroqStandIn(
        latency=given.latency, requests_per_minute=given.requests_per_minute, tokens_per_minute=given.tokens_per_minute
    )
    uvicorn.run(stand_in, host="127.0.0.1", port=given.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
