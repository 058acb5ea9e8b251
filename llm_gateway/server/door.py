"""The ASGI application: who asks, what for, and what is answered.

Law: without a key nothing is said but health. Bodies are bounded. Every answer carries `x-request-id`, every chat answer
`x-hookline-cache`. No address, header or body is logged.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable

import orjson
from opentelemetry import context as otel

from infra.keyring import DataKey, Keyring
from infra.ops import is_ready
from infra.settings import Settings
from infra.telemetry import continue_trace, log
from infra.unavailable import Unavailable
from llm_gateway.prompt import GatewayError, Lane, ModelUnavailable
from llm_gateway.server.asked import MOST_USER, read
from llm_gateway.server.batches import Batches, Wanted
from llm_gateway.server.call import Call
from llm_gateway.server.chat import Chat
from llm_gateway.server.choosing import Choosing
from llm_gateway.server.errors import Headers, Refusal, answered
from llm_gateway.server.exchange import (
    HOW,
    JSON,
    EventStream,
    Receive,
    Scope,
    Send,
    body_of,
    hung_up,
    send_whole,
    warned,
)
from llm_gateway.server.flights import Gone
from llm_gateway.server.keys import LANES, KeyView, VirtualKey
from llm_gateway.server.listing import Listing
from llm_gateway.server.meter import Meter
from llm_gateway.server.stream import replayed
from schemas.record import RecordRef

Ready = Callable[[], Awaitable[dict[str, str | None]]]

_MOST_FILE_BYTES = 100 * 1024 * 1024
"""Groq's largest batch file."""
_KEY_SECONDS = 1.0
_MOST_DIGITS = 9
"""Of a `max-age`: longer than thirty years no answer is kept anyway."""
_MOST_RECORD = 500
"""Bytes of a record's name."""
_LEAST_SECONDS = 0.1


class Door:
    """One per server."""

    def __init__(  # noqa: PLR0917 -- its parts
        self,
        settings: Settings,
        keys: KeyView,
        keyring: Keyring,
        chat: Chat,
        meter: Meter,
        choosing: Choosing,
        batches: Batches,
        ready: Ready,
    ) -> None:
        self._keys = keys
        self._keyring = keyring
        self._chat = chat
        self._meter = meter
        self._choosing = choosing
        self._virtual = choosing.names
        self._batches = batches
        self._ready = ready
        self._seconds = settings.gateway_timeout_seconds
        self._most = settings.gateway_max_body_bytes
        self._names = (f"req_{secrets.token_hex(4)}{number:x}".encode() for number in itertools.count())
        self._tenant_keys: dict[str, tuple[float, DataKey]] = {}
        self._listing = Listing(meter.upstream, choosing.names)

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
        except orjson.JSONEncodeError:
            refused = Refusal(400, "invalid_json", "the body is nested more deeply than 250 levels: make it flatter")
            status, headers, body = answered(refused)
        except Unavailable as error:
            status, headers, body = answered(ModelUnavailable("DATABASE_AWAY", str(error), 2.0))
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client is answered
            log("llm_gateway").exception("request_failed", error=type(error).__name__)
            status, headers, body = answered(GatewayError())
        await send_whole(send, status, [*headers, name], body)

    # chat

    async def _completion(self, scope: Scope, receive: Receive, send: Send, name: tuple[bytes, bytes]) -> None:
        told = dict(scope["headers"])
        call = await self._call(told, receive)
        asked = call.asked
        reply = EventStream(send, name) if asked.stream else None
        if reply is not None:
            call.begin, call.sink, call.end = reply.begin, reply.sink, reply.end
        parent = told.get(b"traceparent")
        token = otel.attach(continue_trace(parent.decode(errors="replace"))) if parent is not None else None
        try:
            if asked.model in self._virtual:
                call.analysis = told.get(b"x-hookline-analysis", b"").decode(errors="replace")
                found = await self._choosing.answer(call)
            else:
                found = await self._chat.answer(self._meter, call)
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
            await send_whole(send, 200, [JSON, HOW[found.how], *warned(found.warnings), name], found.body)
            return
        if not found.streamed:
            await reply.begin(found.warnings, found.how)
            await reply.sink(b"".join(replayed(found.body, wants_usage=asked.wants_usage)))
        await reply.end()

    async def _call(self, told: dict[bytes, bytes], receive: Receive) -> Call:
        key = self._keys.known(_bearer(told), time.time()) or await self._unknown(told)
        if "chat" not in key.scopes:
            raise _no_scope("chat")
        asked = read(await body_of(receive, self._most))
        if key.models and asked.model not in key.models:
            raise Refusal(
                403, "model_not_allowed", f"this key may not ask {asked.model}: see GET /v1/models", param="model"
            )
        record = told.get(b"x-hookline-record")
        call = Call(
            asked,
            key.tenant,
            asked.user or _user(told),
            key.id,
            _lane(told.get(b"x-hookline-priority"), key),
            await self._data_key(key.tenant) if record is None else await self._record_key(key.tenant, record),
            time.monotonic() + self._budget(told),
            gone=lambda: hung_up(receive),
        )
        control = told.get(b"cache-control")
        if control is not None:
            _controlled(call, control)
        return call

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
        now = time.monotonic()
        if kept is not None and kept[0] > now:
            return kept[1]
        key = await self._keyring.for_tenant(tenant)
        if len(self._tenant_keys) > 10_000:
            self._tenant_keys.clear()
        self._tenant_keys[tenant] = (now + _KEY_SECONDS, key)
        return key

    async def _record_key(self, tenant: str, record: bytes) -> DataKey:
        try:
            ref = RecordRef.parse(f"{tenant}/{record.decode()}") if len(record) <= _MOST_RECORD else None
        except ValueError:
            ref = None
        if ref is None:
            raise Refusal(
                400, "invalid_record", "x-hookline-record names a record as ACCOUNT/OBJECT/ID, hubspot:1/contact/7"
            )
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
            return 200, [JSON], b'{"live": true}'
        if path == "/health/ready":
            parts = await self._ready()
            ready = is_ready(parts)
            body = orjson.dumps({"ready": ready, "parts": {name: said or "ok" for name, said in parts.items()}})
            return 200 if ready else 503, [JSON], body
        told = dict(scope["headers"])
        key = self._keys.known(_bearer(told), time.time()) or await self._unknown(told)
        method, inner = scope["method"], path.removeprefix("/openai").removeprefix("/v1/").rstrip("/")
        if method == "GET" and inner == "models":
            return 200, [JSON], orjson.dumps({"object": "list", "data": await self._listing.shown_to(key)})
        if method == "GET" and inner.startswith("models/"):
            for each in await self._listing.shown_to(key):
                if each.get("id") == inner.removeprefix("models/"):
                    return 200, [JSON], orjson.dumps(each)
            raise Refusal(
                404, "model_not_found", "this model is not served to this key: see GET /v1/models", param="model"
            )
        if _is_batch(method, inner):
            if "batch" not in key.scopes:
                raise _no_scope("batch")
            wanted = Wanted(
                method, inner, scope["query_string"].decode(), await body_of(receive, _MOST_FILE_BYTES),
                told.get(b"content-type", b"").decode(errors="replace"), _user(told),
            )  # fmt: skip
            raw = await self._batches.answer(wanted, key)
            return raw.status, [(b"content-type", raw.content_type.encode() or b"application/json")], raw.body
        raise Refusal(
            404,
            "unknown_url",
            f"{method} {path[:100]} is not served: chat completions, models, files and batches are, under /v1 and /openai/v1",
        )


def _bearer(told: dict[bytes, bytes]) -> bytes:
    said = told.get(b"authorization", b"")
    return said[7:] if said[:7].lower() == b"bearer " else b""


def _user(told: dict[bytes, bytes]) -> str:
    return told.get(b"x-hookline-user", b"").decode(errors="replace")[:MOST_USER]


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
        elif name == "max-age" and value.isdecimal() and len(value) <= _MOST_DIGITS:
            call.ttl = int(value)


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
