"""The ASGI application: who asks, what for, and what is answered.

Law: without a key nothing is said but health. Bodies are bounded. Every answer carries `x-request-id`, every chat answer
`x-hookline-cache`. No address, header or body is logged.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from opentelemetry import context as otel

from infra.keyring import DataKey, Keyring
from infra.settings import Settings
from infra.telemetry import continue_trace, log
from infra.unavailable import Unavailable
from llm_gateway.models import known
from llm_gateway.prompt import GatewayError, Lane, ModelUnavailable
from llm_gateway.providers.provider import ProviderFailure
from llm_gateway.server.asked import read
from llm_gateway.server.batches import Batches, Wanted
from llm_gateway.server.chat import Call, Chat
from llm_gateway.server.errors import Headers, Refusal, answered
from llm_gateway.server.flights import Gone
from llm_gateway.server.keys import LANES, KeyView, VirtualKey
from llm_gateway.server.stream import replayed
from llm_gateway.server.upstream import Upstream
from schemas.record import RecordRef

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Ready = Callable[[], Awaitable[dict[str, str | None]]]

_JSON = (b"content-type", b"application/json")
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_MOST_FILE_BYTES = 100 * 1024 * 1024
"""Groq's largest batch file."""
_KEY_SECONDS = 1.0
_MODELS_SECONDS = 300.0
_HOW = {how: (b"x-hookline-cache", how.encode()) for how in ("hit", "miss", "joined")}
_LEAST_SECONDS = 0.1


class Door:
    """One per server."""

    def __init__(  # noqa: PLR0917 -- its parts
        self,
        settings: Settings,
        keys: KeyView,
        keyring: Keyring,
        chat: Chat,
        batches: Batches,
        upstream: Upstream,
        ready: Ready,
    ) -> None:
        self._keys = keys
        self._keyring = keyring
        self._chat = chat
        self._batches = batches
        self._upstream = upstream
        self._ready = ready
        self._seconds = settings.gateway_timeout_seconds
        self._most = settings.gateway_max_body_bytes
        self._names = (f"req_{secrets.token_hex(4)}{number:x}".encode() for number in itertools.count())
        self._tenant_keys: dict[str, tuple[float, DataKey]] = {}
        self._models: tuple[float, bytes] = (0.0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, HTTP alone."""
        if scope["type"] != "http":
            return
        name = (b"x-request-id", next(self._names))
        path = scope["path"]
        try:
            if scope["method"] == "POST" and path in ("/v1/chat/completions", "/openai/v1/chat/completions"):
                await self._completion(scope, receive, send, name)
                return
            status, headers, body = await self._other(scope, path, receive)
        except Gone:
            return
        except (Refusal, GatewayError) as error:
            status, headers, body = answered(error)
        except Unavailable as error:
            status, headers, body = answered(ModelUnavailable("DATABASE_AWAY", str(error), 2.0))
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client is answered
            log("llm_gateway").exception("request_failed", error=type(error).__name__)
            status, headers, body = answered(GatewayError())
        await _send(send, status, [*headers, name], body)

    # chat

    async def _completion(self, scope: Scope, receive: Receive, send: Send, name: tuple[bytes, bytes]) -> None:
        told = dict(scope["headers"])
        key = self._keys.known(_bearer(told), time.time()) or await self._unknown(told)
        if "chat" not in key.scopes:
            raise _no_scope("chat")
        asked = read(await _body(receive, self._most))
        if key.models and asked.model not in key.models:
            raise Refusal(
                403, "model_not_allowed", f"this key may not ask {asked.model}: see GET /v1/models", param="model"
            )
        record = told.get(b"x-hookline-record")
        call = Call(
            asked,
            key.tenant,
            asked.user or told.get(b"x-hookline-user", b"").decode(errors="replace")[:256],
            key.id,
            _lane(told.get(b"x-hookline-priority"), key),
            await self._data_key(key.tenant) if record is None else await self._record_key(key.tenant, record),
            asyncio.get_running_loop().time() + self._budget(told),
            gone=lambda: _gone(receive),
        )
        control = told.get(b"cache-control")
        if control is not None:
            _controlled(call, control)
        reply = _Stream(send, name) if asked.stream else None
        if reply is not None:
            call.begin, call.sink = reply.begin, reply.sink
        parent = told.get(b"traceparent")
        token = otel.attach(continue_trace(parent.decode(errors="replace"))) if parent is not None else None
        try:
            found = await self._chat.answer(call)
        except GatewayError as error:
            if reply is not None and reply.begun:
                # Too late for a status: an event says it, as OpenAI's own servers do.
                await reply.sink(b"data: " + answered(error)[2] + b"\n\n")
                await reply.end()
                return
            raise
        finally:
            if token is not None:
                otel.detach(token)
        if reply is None:
            await _send(send, 200, [_JSON, _HOW[found.how], *_warned(found.warnings), name], found.body)
            return
        if not found.streamed:
            await reply.begin(found.warnings, found.how)
            await reply.sink(b"".join(replayed(found.body, wants_usage=asked.wants_usage)))
        await reply.end()

    async def _unknown(self, told: dict[bytes, bytes]) -> VirtualKey:
        text = _bearer(told)
        key = await self._keys.whose(text, time.time())
        if key is None:
            raise Refusal(
                401,
                "invalid_api_key",
                "this key is not known here, has expired or was revoked: send `Authorization: Bearer hgk_...`, made by "
                "`hookline gateway keys create`"
                if text
                else "send a key: `Authorization: Bearer hgk_...`, made by `hookline gateway keys create`",
            )
        return key

    async def _data_key(self, tenant: str) -> DataKey:
        kept = self._tenant_keys.get(tenant)
        now = asyncio.get_running_loop().time()
        if kept is not None and kept[0] > now:
            return kept[1]
        key = await self._keyring.for_tenant(tenant)
        if len(self._tenant_keys) > 10_000:
            self._tenant_keys.clear()
        self._tenant_keys[tenant] = (now + _KEY_SECONDS, key)
        return key

    async def _record_key(self, tenant: str, record: bytes) -> DataKey:
        try:
            ref = RecordRef.parse(f"{tenant}/{record.decode()}")
        except ValueError:
            raise Refusal(
                400, "invalid_record", "x-hookline-record names a record as ACCOUNT/OBJECT/ID, hubspot:1/contact/7"
            ) from None
        return (await self._keyring.for_records([ref]))[ref]

    def _budget(self, told: dict[bytes, bytes]) -> float:
        """Seconds: the gateway's, or less if the client says so, by our header or by the one of OpenAI's and Groq's clients."""
        said = told.get(b"x-hookline-timeout") or told.get(b"x-stainless-read-timeout")
        if said is None:
            return self._seconds
        try:
            return min(self._seconds, max(_LEAST_SECONDS, float(said)))
        except ValueError:
            return self._seconds

    # everything else

    async def _other(self, scope: Scope, path: str, receive: Receive) -> tuple[int, Headers, bytes]:
        if path == "/health/live":
            return 200, [_JSON], b'{"live": true}'
        if path == "/health/ready":
            parts = await self._ready()
            body = orjson.dumps(
                {"ready": not any(parts.values()), "parts": {name: said or "ok" for name, said in parts.items()}}
            )
            return 503 if any(parts.values()) else 200, [_JSON], body
        told = dict(scope["headers"])
        key = self._keys.known(_bearer(told), time.time()) or await self._unknown(told)
        method, inner = scope["method"], path.removeprefix("/openai").removeprefix("/v1/").rstrip("/")
        if method == "GET" and inner == "models":
            return 200, [_JSON], orjson.dumps({"object": "list", "data": await self._known_models(key)})
        if method == "GET" and inner.startswith("models/"):
            for each in await self._known_models(key):
                if each.get("id") == inner.removeprefix("models/"):
                    return 200, [_JSON], orjson.dumps(each)
            raise Refusal(
                404, "model_not_found", "this model is not served to this key: see GET /v1/models", param="model"
            )
        if _is_batch(method, inner):
            if "batch" not in key.scopes:
                raise _no_scope("batch")
            wanted = Wanted(
                method, inner, scope["query_string"].decode(), await _body(receive, _MOST_FILE_BYTES),
                told.get(b"content-type", b"").decode(errors="replace"),
            )  # fmt: skip
            raw = await self._batches.answer(wanted, key)
            return raw.status, [(b"content-type", raw.content_type.encode() or b"application/json")], raw.body
        raise Refusal(
            404,
            "unknown_url",
            f"{method} {path[:100]} is not served: chat completions, models, files and batches are, under /v1 and /openai/v1",
        )

    async def _known_models(self, key: VirtualKey) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        if not self._models[1] or self._models[0] < now:
            body = b""
            try:
                raw = await self._upstream.raw("GET", "models")
                body = raw.body if raw.status == 200 else b""
                orjson.loads(body)["data"]
            except (ProviderFailure, ValueError, KeyError, TypeError):
                body = self._models[1] or orjson.dumps(
                    {
                        "data": [
                            {"id": facts.name, "object": "model", "owned_by": "groq"}
                            for facts in known()
                            if "/" in facts.name
                        ]
                    }
                )
            self._models = (now + _MODELS_SECONDS, body)
        found: list[dict[str, Any]] = orjson.loads(self._models[1])["data"]
        return [each for each in found if not key.models or each.get("id") in key.models]


class _Stream:
    """Server-sent events to one client."""

    def __init__(self, send: Send, name: tuple[bytes, bytes]) -> None:
        self._send = send
        self._name = name
        self.begun = False

    async def begin(self, warnings: tuple[str, ...], how: str = "miss") -> None:
        self.begun = True
        headers = [*_EVENTS, _HOW[how], *_warned(warnings), self._name]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def sink(self, events: bytes) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive, most: int) -> bytes:
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


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _bearer(told: dict[bytes, bytes]) -> bytes:
    said = told.get(b"authorization", b"")
    return said[7:] if said[:7].lower() == b"bearer " else b""


def _lane(said: bytes | None, key: VirtualKey) -> Lane:
    """What is asked for, but no better than the key may."""
    if said is None:
        return key.lane
    for lane in LANES:
        if lane.encode() == said:
            return lane if LANES.index(lane) >= LANES.index(key.lane) else key.lane
    raise Refusal(400, "invalid_priority", f"x-hookline-priority is one of {', '.join(LANES)}")


def _controlled(call: Call, control: bytes) -> None:
    """`no-cache`: ask anew and keep that; `no-store`: neither look nor keep; `max-age=SECONDS`: keep no longer."""
    for part in control.decode(errors="replace").lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "no-cache":
            call.refresh = True
        elif name == "no-store":
            call.keep = False
        elif name == "max-age" and value.isdecimal():
            call.ttl = int(value)


def _warned(warnings: tuple[str, ...]) -> Headers:
    return [(b"x-hookline-quota-warning", " ".join(warnings).encode())] if warnings else []


def _no_scope(scope: str) -> Refusal:
    return Refusal(
        403, "missing_scope", f"this key lacks the scope `{scope}`: `hookline gateway keys create --scope {scope}`"
    )


def _is_batch(method: str, inner: str) -> bool:
    match method, inner.split("/"):
        case ("GET" | "POST", ["files" | "batches"]) | ("GET", ["files" | "batches", _]):
            return True
        case ("DELETE", ["files", _]) | ("GET", ["files", _, "content"]) | ("POST", ["batches", _, "cancel"]):
            return True
    return False
