"""A stand-in for Groq: an HTTP server that speaks as much of its API as we use. It is no model, and never says it is one.

Law: imports no product code. It answers what its responder says (by default: the smallest values that fit the JSON
schema it was given, or the tool that was asked for), keeps limits as Groq does where they are set, and misbehaves exactly
as its script says. It counts by itself what it saw: tests believe it, not the gateway. For tests, for measuring, and for
trying the `groq` provider without a key:

    make sandbox-groq              # or: python -m infra.local.groq_stand_in --port 8900 --latency 0.2 --requests-per-minute 100
    GROQ_API_KEY=anything GROQ_BASE_URL=http://127.0.0.1:8900 hookline demo

Limits hold in a sliding window (`--window` seconds, 60 by default) and are enforced: 429 with `retry-after`. Headers as
Groq's: `x-ratelimit-*-requests` speaks of the day, `*-tokens` of the minute. Control, over HTTP: `POST /stand-in` with
{"latency": seconds, "script": [step, ...]} where a step, used by one request, is {"text": ...}, {"status": 429,
"retry_after": 2}, {"hang": seconds}, {"raw": "not json"} or {"drop": true}; {"forget": true} starts the counts anew.
`GET /stand-in` tells what came. Shapes from https://console.groq.com/docs/api-reference, limits and headers from
https://console.groq.com/docs/rate-limits, batches from https://console.groq.com/docs/batch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
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

_MAX_BODY = 100 * 1024 * 1024
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
    gap: float = 0.0
    """Seconds between the chunks of a stream."""


_WELL = Step()
_CACHED_FROM = 4_096
"""Characters: 1,024 tokens."""
_CACHE_SECONDS = 7_200.0


class _Window:
    """A limit in a sliding window, exact: every admission is remembered until it slides out."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.used = 0
        self.most = 0
        """The most that one window ever held."""
        self._taken: deque[tuple[float, int]] = deque()

    def room(self, now: float) -> int:
        while self._taken and self._taken[0][0] <= now - self.seconds:
            self.used -= self._taken.popleft()[1]
        return self.limit - self.used

    def take(self, amount: int, now: float) -> None:
        self._taken.append((now, amount))
        self.used += amount
        self.most = max(self.most, self.used)

    def wait(self, amount: int, now: float) -> float:
        """Seconds until there is room."""
        missing = amount - self.room(now)
        for at, taken in self._taken:
            missing -= taken
            if missing <= 0:
                return at + self.seconds - now
        return self.seconds


@dataclass
class Saw:
    """What came, by the stand-in's own count."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    batched: int = 0
    """Questions in batches."""
    by_second: dict[int, list[int]] = field(default_factory=dict)
    """Second since the start (or since it was told to forget) → answered, tokens, refused."""
    by_user: dict[str, list[int]] = field(default_factory=dict)
    """OpenAI's `user` of a request → answered, tokens, refused."""


class GroqStandIn:
    """The ASGI application, and what it was asked."""

    def __init__(
        self,
        responder: Responder | None = None,
        *,
        latency: float = 0.0,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        requests_per_day: int | None = None,
        window: float = 60.0,
        key: str | None = None,
        remember: bool = True,
    ) -> None:
        self.responder: Responder = responder or smallest_answer
        self.latency = latency
        """Seconds before each answer."""
        self.script: deque[Step] = deque()
        """Steps that the next requests meet, one each; afterwards all is well."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests, in order, if it is to `remember` them."""
        self.refused = 0
        """How many were answered 429 because a limit was reached."""
        self.cancelled = 0
        """Streams whose reader hung up."""
        self.saw = Saw()
        self._key = key
        self._remember = remember
        self._requests = _Window(requests_per_minute, window) if requests_per_minute else None
        self._tokens = _Window(tokens_per_minute, window) if tokens_per_minute else None
        self._day = _Window(requests_per_day, 86_400.0) if requests_per_day else None
        self._began = time.monotonic()
        self._prefixes: dict[int, float] = {}
        self._files: dict[str, bytes] = {}
        self._filenames: dict[str, str] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._number = 0
        self._run = secrets.token_hex(3)
        """A provider never gives an id twice, and whoever asks keeps them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        body = await _body(receive)
        path = scope["path"]
        match (scope["method"], path):
            case ("POST", "/openai/v1/chat/completions" | "/v1/chat/completions"):
                await self._complete(scope, body, receive, send)
            case ("GET", "/openai/v1/models" | "/v1/models"):
                await _answer(
                    send,
                    200,
                    {"object": "list", "data": [{"id": "stand-in", "object": "model", "owned_by": "hookline"}]},
                )
            case ("POST", "/stand-in"):
                self._told(json.loads(body))
                await _answer(send, 200, {"script": len(self.script)})
            case ("GET", "/stand-in"):
                await _answer(send, 200, self.report())
            case (_, _) if path.startswith(("/openai/v1/files", "/openai/v1/batches")):
                await self._file_or_batch(scope, body, send)
            case _:
                await _answer(send, 404, _not_found())

    def report(self) -> dict[str, Any]:
        """What came, as `GET /stand-in` tells it."""
        return {
            "asked": self.saw.requests,
            "refused": self.refused,
            "script": len(self.script),
            "answered": self.saw.answered,
            "prompt_tokens": self.saw.prompt_tokens,
            "completion_tokens": self.saw.completion_tokens,
            "cached_tokens": self.saw.cached_tokens,
            "batched": self.saw.batched,
            "batches": len(self._batches),
            "files": len(self._files),
            "cancelled": self.cancelled,
            "most_requests_in_a_window": self._requests.most if self._requests else None,
            "most_tokens_in_a_window": self._tokens.most if self._tokens else None,
            "by_second": {str(second): counts for second, counts in self.saw.by_second.items()},
            "by_user": self.saw.by_user,
        }

    def _told(self, told: dict[str, Any]) -> None:
        self.latency = float(told.get("latency", self.latency))
        self.script.extend(Step(**step) for step in told.get("script", ()))
        if told.get("forget"):
            self.saw, self._began, self.refused = Saw(), time.monotonic(), 0
            self.asked.clear()
            for window in (self._requests, self._tokens):
                if window:
                    window.most = window.used

    async def _complete(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        try:
            request = orjson.loads(body)
            messages = request["messages"]
        except (ValueError, KeyError, TypeError):
            await _answer(send, 400, _error(Step(status=400)))
            return
        if self._remember:
            self.asked.append(request)
        self.saw.requests += 1
        step = self.script.popleft() if self.script else _WELL
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode()
        if not authorization.startswith("Bearer ") or (self._key and authorization != f"Bearer {self._key}"):
            step = Step(status=401)
        text = step.text if step.text is not None else self.responder(request)
        prompt_tokens = sum(len(str(message.get("content") or "")) for message in messages) // 4 + 1
        completion_tokens = len(text) // 4 + 1
        cached = self._cached(messages)
        # Groq counts a request when it comes in, and cached prompt tokens toward no limit.
        step, headers = self._limited(step, prompt_tokens - cached + completion_tokens, str(request.get("user") or ""))
        if step.hang or (self.latency and step.status == 200):
            await asyncio.sleep(step.hang or self.latency)
        if step.drop:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b'{"id": "chatcmpl', "more_body": True})
            raise ConnectionAbortedError("the script says: drop")
        if step.raw is not None:
            await _send(send, 200, step.raw.encode(), headers)
        elif step.status != 200:
            await _answer(send, step.status, _error(step), headers)
        else:
            self.saw.prompt_tokens += prompt_tokens
            self.saw.completion_tokens += completion_tokens
            self.saw.cached_tokens += cached
            usage = _usage(prompt_tokens, completion_tokens, cached)
            if request.get("stream"):
                await self._stream(request, step, text, usage, headers, receive, send)
            else:
                await _answer(send, 200, _completion(request, step, text, usage), headers)

    def _cached(self, messages: list[dict[str, Any]]) -> int:
        """Groq caches stable beginnings for two hours; the stand-in counts a system part that it saw before, if it is long
        (https://console.groq.com/docs/prompt-caching: at least 128 to 1,024 tokens, by model).
        """
        first = str(messages[0].get("content") or "") if messages and messages[0].get("role") == "system" else ""
        if len(first) < _CACHED_FROM:
            return 0
        now, name = time.monotonic(), hash(first)
        fresh = self._prefixes.get(name, -_CACHE_SECONDS) > now - _CACHE_SECONDS
        self._prefixes[name] = now
        return len(first) // 4 if fresh else 0

    def _limited(self, step: Step, tokens: int, user: str) -> tuple[Step, dict[str, str]]:
        """The step, or a refusal when a limit is reached; and the headers that tell about the limits."""
        now = time.monotonic()
        headers: dict[str, str] = {}
        windows = [
            (window, wanted)
            for window, wanted in ((self._requests, 1), (self._tokens, tokens), (self._day, 1))
            if window is not None
        ]
        second = self.saw.by_second.setdefault(int(now - self._began), [0, 0, 0])
        mine = self.saw.by_user.setdefault(user, [0, 0, 0]) if user else [0, 0, 0]
        if step.status == 200 and any(window.room(now) < wanted for window, wanted in windows):
            self.refused += 1
            self.saw.refused += 1
            late = max(window.wait(wanted, now) for window, wanted in windows if window.room(now) < wanted)
            step = Step(status=429, retry_after=round(late, 3))
        if step.status == 200:
            self.saw.answered += 1
            for window, wanted in windows:
                window.take(wanted, now)
        for counts in (second, mine):
            if step.status == 200:
                counts[0] += 1
                counts[1] += tokens
            elif step.status == 429:
                counts[2] += 1
        if self._tokens:
            headers |= _rate_headers("tokens", self._tokens, now)
        if self._day:
            headers |= _rate_headers("requests", self._day, now)
        if step.retry_after is not None:
            headers["retry-after"] = f"{step.retry_after:g}"
        return step, headers | step.headers

    async def _stream(  # noqa: PLR0917 -- what an answer is made of
        self,
        request: dict[str, Any],
        step: Step,
        text: str,
        usage: dict[str, Any],
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        """Server-sent events, a chunk every `step.gap` seconds; ends early when the reader hangs up."""
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [*listed, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")],
            }
        )
        gone = asyncio.ensure_future(_gone(receive))
        try:
            for chunk in _chunks(request, step, text, usage):
                if gone.done():
                    self.cancelled += 1
                    return
                await send({"type": "http.response.body", "body": b"data: " + chunk + b"\n\n", "more_body": True})
                if step.gap:
                    await asyncio.wait([gone], timeout=step.gap)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        finally:
            gone.cancel()

    async def _file_or_batch(self, scope: Scope, body: bytes, send: Send) -> None:
        """Files and batches: a batch is answered as soon as it is created, unless a step says `hang` (then after so long), or a `status`:
        then none is made.
        """
        parts = scope["path"].removeprefix("/openai/v1/").split("/")
        match (scope["method"], parts):
            case ("POST", ["files"]):
                content = _uploaded(scope, body)
                name = self._named("file")
                self._files[name] = content
                self._filenames[name] = _filename(body) or f"{name}.jsonl"
                await _answer(send, 200, self._file(name))
            case ("GET", ["files"]):
                await _answer(send, 200, {"object": "list", "data": [self._file(each) for each in self._files]})
            case ("GET", ["files", name]) if name in self._files:
                await _answer(send, 200, self._file(name))
            case ("GET", ["files", name, "content"]) if name in self._files:
                await _send(send, 200, self._files[name], {})
            case ("DELETE", ["files", name]) if name in self._files:
                del self._files[name]
                await _answer(send, 200, {"id": name, "object": "file", "deleted": True})
            case ("POST", ["batches"]):
                await self._batch(json.loads(body), send)
            case ("GET", ["batches"]):
                await _answer(
                    send, 200, {"object": "list", "data": [self._seen(each) for each in self._batches.values()]}
                )
            case ("GET", ["batches", name]) if name in self._batches:
                await _answer(send, 200, self._seen(self._batches[name]))
            case ("POST", ["batches", name, "cancel"]) if name in self._batches:
                batch = self._batches[name]
                batch["status"] = "cancelled"
                await _answer(send, 200, self._seen(batch))
            case _:
                await _answer(send, 404, _not_found())

    async def _batch(self, asked: dict[str, Any], send: Send) -> None:
        source = self._files.get(str(asked.get("input_file_id")))
        if source is None or asked.get("endpoint") != "/v1/chat/completions":
            await _answer(send, 400, _error(Step(status=400)))
            return
        step = self.script.popleft() if self.script else _WELL
        if step.status != 200:
            await _answer(send, step.status, _error(step))
            return
        name, now = self._named("batch"), int(time.time())
        lines = [json.loads(line) for line in source.splitlines() if line.strip()]
        results = [self._batched(line) for line in lines]
        self.saw.batched += len(lines)
        output = self._named("file")
        self._files[output] = b"\n".join(orjson.dumps(result) for result in results) + b"\n"
        batch: dict[str, Any] = {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked.get("completion_window", "24h"),
            "status": "in_progress" if step.hang else "completed",
            "output_file_id": output,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + 86_400,
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
            "metadata": asked.get("metadata"),
            "_ready": time.monotonic() + step.hang,
        }
        self._batches[name] = batch
        await _answer(send, 200, self._seen(batch))

    def _file(self, name: str) -> dict[str, Any]:
        return _file(name, len(self._files[name]), self._filenames.get(name, f"{name}.jsonl"))

    def _seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] == "in_progress" and time.monotonic() >= batch["_ready"]:
            batch["status"] = "completed"
        shown = {name: value for name, value in batch.items() if not name.startswith("_")}
        if shown["status"] != "completed":
            shown["output_file_id"] = None
        return shown

    def _batched(self, line: dict[str, Any]) -> dict[str, Any]:
        request = line["body"]
        text = self.responder(request)
        prompt_tokens = sum(len(str(message.get("content") or "")) for message in request["messages"]) // 4 + 1
        usage = _usage(prompt_tokens, len(text) // 4 + 1, 0)
        self.saw.prompt_tokens += prompt_tokens
        self.saw.completion_tokens += usage["completion_tokens"]
        return {
            "id": self._named("batch_req"),
            "custom_id": line["custom_id"],
            "response": {
                "status_code": 200,
                "request_id": "req_stand_in",
                "body": _completion(request, _WELL, text, usage),
            },
            "error": None,
        }

    def _named(self, kind: str) -> str:
        self._number += 1
        return f"{kind}_stand_in_{self._run}_{self._number}"

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


def _usage(prompt_tokens: int, completion_tokens: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_time": 0.001,
        "completion_time": 0.001,
        "total_time": 0.002,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _tool_call(request: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The first tool that was offered, called with the smallest arguments; None when none was, or a tool has answered."""
    tools = request.get("tools")
    if not tools or request.get("tool_choice") == "none" or request["messages"][-1].get("role") == "tool":
        return None
    tool = tools[0]["function"]
    parameters = tool.get("parameters") or {}
    arguments = json.dumps(_smallest(parameters, parameters))
    return [{"id": "call_stand_in", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}]


def _completion(request: dict[str, Any], step: Step, text: str, usage: dict[str, Any]) -> dict[str, Any]:
    calls = _tool_call(request)
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else text}
    if calls:
        message["tool_calls"] = calls
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "tool_calls" if calls else step.finish_reason,
            }
        ],
        "usage": usage,
        "system_fingerprint": "fp_stand_in",
        "x_groq": {"id": "req_stand_in"},
    }


def _chunks(request: dict[str, Any], step: Step, text: str, usage: dict[str, Any]) -> Iterator[bytes]:
    """A stream's chunks: the role, the text in pieces (or the tool's call), the end, and the usage if it was asked for."""
    base = {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request["model"],
        "system_fingerprint": "fp_stand_in",
    }

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return orjson.dumps({**base, "choices": [choice], **more})

    yield chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_stand_in"})
    calls = _tool_call(request)
    if calls:
        yield chunk({"tool_calls": [{"index": 0, **calls[0]}]})
    else:
        size = max(1, len(text) // 8)
        for start in range(0, len(text), size):
            yield chunk({"content": text[start : start + size]})
    # Groq sends the usage with the last chunk, besides the one that `stream_options` asks for.
    yield chunk({}, "tool_calls" if calls else step.finish_reason, x_groq={"id": "req_stand_in", "usage": usage})
    if (request.get("stream_options") or {}).get("include_usage"):
        yield orjson.dumps({**base, "choices": [], "usage": usage})


def _rate_headers(kind: str, window: _Window, now: float) -> dict[str, str]:
    left = max(0, window.room(now))
    reset = window.seconds * window.used / window.limit
    return {
        f"x-ratelimit-limit-{kind}": str(window.limit),
        f"x-ratelimit-remaining-{kind}": str(left),
        f"x-ratelimit-reset-{kind}": f"{reset:.2f}s",
    }


def _file(name: str, size: int, filename: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": size,
        "created_at": int(time.time()),
        "filename": filename,
        "purpose": "batch",
    }


def _uploaded(scope: Scope, body: bytes) -> bytes:
    """The `file` part of multipart/form-data."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    boundary = b"--" + kind.partition(b"boundary=")[2].strip(b'"')
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    return b""


def _filename(body: bytes) -> str:
    """What multipart/form-data calls its file."""
    _, found, rest = body.partition(b'filename="')
    return rest.partition(b'"')[0].decode("utf-8", "replace") if found else ""


def _not_found() -> dict[str, Any]:
    return {"error": {"message": "Unknown request URL", "type": "invalid_request_error", "code": "unknown_url"}}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
    parser.add_argument("--requests-per-day", type=int)
    parser.add_argument("--window", type=float, default=60.0, help="seconds of the limits' minute (sliding)")
    parser.add_argument("--forget-bodies", action="store_true", help="keep counts alone: for measuring")
    given = parser.parse_args(arguments)
    stand_in = GroqStandIn(
        latency=given.latency,
        requests_per_minute=given.requests_per_minute,
        tokens_per_minute=given.tokens_per_minute,
        requests_per_day=given.requests_per_day,
        window=given.window,
        remember=not given.forget_bodies,
    )
    print(f"Groq's stand-in: GROQ_BASE_URL=http://127.0.0.1:{given.port} (no model, smallest answers)", flush=True)  # noqa: T201 -- a command
    uvicorn.run(stand_in, host="127.0.0.1", port=given.port, log_level="warning", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
