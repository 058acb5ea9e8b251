"""The front door: cap the body, find the endpoint, verify, seal, publish, answer after the broker's acknowledgement.

Law: nothing of the body is parsed, nothing unverified is kept, and no database or Redis is asked on the way. Every refusal
has a cause, is counted, logged and kept for the admin. The address of a Salesforce endpoint is its secret, so no path is
ever logged or put into a span.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from opentelemetry.trace import Span, SpanKind

from infra import metrics
from infra.accounts import Endpoint
from infra.kafka.codec import Codec, Outgoing
from infra.keyring import DataKey
from infra.telemetry import log, tracer
from infra.unavailable import Unavailable
from ingress import answers
from ingress.body import Body, BodyRefusedError
from ingress.gate import Gate
from ingress.ledger import Ledger, Refused
from ingress.sources.source import Answer, InboundRequest, Source, json_refused
from schemas.delivery import Refusal, pack_delivery
from schemas.topics import DELIVERIES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Publish = Callable[[Sequence[Outgoing]], Awaitable[object]]
"""Returns after the broker's acknowledgement; raises Unavailable within ACK_SECONDS, which is its own business."""

ACK_SECONDS = 4.0
"""What the publisher is given. HubSpot hangs up after five; an answer that nobody hears only makes them send again."""
KEY_SECONDS = 1.0
_PREFIX = b"/hooks/"
_MAX_ID = 128
_SHOWN = 6


class Endpoints(Protocol):
    """Directory's side that the door needs; never blocks."""

    def endpoint(self, id: str) -> Endpoint | None:  # noqa: A002 - the directory's own name for it
        """The endpoint, or None."""
        ...


class DeliveryKeys(Protocol):
    """Keyring's side that the door needs."""

    def cached_delivery_key(self, tenant: str, endpoint: str, at: datetime) -> DataKey | None:
        """From memory; never blocks."""
        ...

    async def for_delivery(self, tenant: str, endpoint: str, at: datetime) -> DataKey:
        """Raises Unavailable."""
        ...


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal, detail: str = "", size: int = 0, *, gone: bool = False) -> None:
        super().__init__(detail)
        self.refusal, self.detail, self.size, self.gone = refusal, detail, size, gone


@dataclass(slots=True)
class _Exchange:
    """One request and what is known of it so far."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    asked: str
    """What stands where an endpoint's id should."""
    endpoint: Endpoint | None = None
    source: Source | None = None
    span: Span | None = None

    async def answer(self, answer: Answer, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        status, headers, body = answer
        identity = (b"x-request-id", self.request_id.encode())
        length = (b"content-length", b"%d" % len(body))
        await self.send(
            {"type": "http.response.start", "status": status, "headers": [*headers, length, identity, *extra]}
        )
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})


class Receiver:
    """Answers one HTTP request at a time per call; safe to call at once from many tasks of one loop."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        sources: Mapping[str, Source],
        keys: DeliveryKeys,
        codec: Codec,
        publish: Publish,
        ledger: Ledger,
        gate: Gate,
        max_body_bytes: int,
        body_seconds: float,
        public_url: str | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`public_url` None: the address is rebuilt from Host, which the sender chooses; for development alone."""
        self._endpoints = endpoints
        self._sources = sources
        self._keys = keys
        self._codec = codec
        self._publish = publish
        self._ledger = ledger
        self._gate = gate
        self._cap = max_body_bytes
        self._seconds = body_seconds
        self._public = public_url.rstrip("/").encode() if public_url is not None else None
        self._now = now
        self._log = log("ingress")
        self._tracer = tracer()  # making one costs more than a span
        self._accepted = {name: source.accepted() for name, source in sources.items()}
        self._count_accepted = {name: metrics.REQUESTS.labels(name, "accepted") for name in sources}
        self._seconds_taken = {name: metrics.REQUEST_SECONDS.labels(name) for name in sources}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        request_id = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
        path: bytes = scope.get("raw_path") or b""
        exchange = _Exchange(scope, receive, send, request_id, path[len(_PREFIX) :].decode("ascii", "replace"))
        try:
            if not path.startswith(_PREFIX) or not 0 < len(exchange.asked) <= _MAX_ID:
                metrics.REQUESTS.labels("none", "404").inc()
                await exchange.answer((404, answers.PLAIN, answers.NOT_FOUND))
                return
            await self._serve(exchange)
        except _RefusedError as refused:
            await self._refuse(exchange, refused)
        except Exception as error:  # noqa: BLE001 - a bug of ours must answer too, so that the sender comes again
            metrics.REQUESTS.labels(exchange.source.name if exchange.source else "none", "failed").inc()
            self._log.error("ingress_failed", request_id=request_id, error=type(error).__name__)
            await exchange.answer((500, answers.PLAIN, answers.FAILED))
        finally:
            if exchange.span is not None:
                exchange.span.end()

    async def _serve(self, exchange: _Exchange) -> None:
        endpoint = exchange.endpoint = self._endpoints.endpoint(exchange.asked)
        if endpoint is None:
            raise _RefusedError(Refusal.UNKNOWN_ENDPOINT)
        source = exchange.source = self._sources.get(endpoint.source)
        if source is None:
            raise _RefusedError(Refusal.ENDPOINT_DISABLED, "its source is not installed here")
        method: str = exchange.scope["method"]
        if method in {"GET", "HEAD"}:
            metrics.REQUESTS.labels(source.name, "greeted").inc()
            await exchange.answer((200, answers.PLAIN, answers.GREETING))
            return
        if method != "POST":
            raise _RefusedError(Refusal.METHOD_NOT_ALLOWED)
        if not endpoint.enabled:
            raise _RefusedError(Refusal.ENDPOINT_DISABLED, "disabled by an administrator")
        exchange.span = self._tracer.start_span("delivery.receive", kind=SpanKind.SERVER)
        await self._take(exchange, endpoint, source)
        self._count_accepted[source.name].inc()
        await exchange.answer(self._accepted[source.name])

    async def _take(self, exchange: _Exchange, endpoint: Endpoint, source: Source) -> None:
        if not self._gate.enter():
            raise _RefusedError(Refusal.OVERLOADED, "too much is in flight")
        body = Body(self._gate, self._cap, self._seconds)
        try:
            headers: dict[bytes, bytes] = dict(exchange.scope["headers"])
            try:
                content = await body.read(exchange.receive, headers)
            except BodyRefusedError as error:
                raise _RefusedError(error.refusal, error.detail, error.size, gone=error.gone) from None
            if not content:
                raise _RefusedError(Refusal.EMPTY_BODY)
            complete = time.perf_counter()
            now = self._now()
            request = self._request(exchange.scope, headers, content)
            refusal = source.verify(request, endpoint, now)
            if refusal is not None:
                raise _RefusedError(refusal, size=len(content))
            await self._keep(exchange, endpoint, request, now)
            self._seconds_taken[source.name].observe(time.perf_counter() - complete)
        finally:
            body.release()
            self._gate.leave()

    def _request(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> InboundRequest:
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        public = self._public
        if public is None:
            public = scope["scheme"].encode() + b"://" + headers.get(b"host", b"")
        return InboundRequest(scope["method"].encode(), target, public, headers, body)

    async def _keep(self, exchange: _Exchange, endpoint: Endpoint, request: InboundRequest, now: datetime) -> None:
        context = exchange.span.get_span_context() if exchange.span else None
        traceparent = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            if context and context.is_valid
            else ""
        )
        size = len(request.body)
        key = self._keys.cached_delivery_key(endpoint.tenant, endpoint.id, now)
        if key is None:
            key = await self._new_key(endpoint, now, size)
        outgoing = self._codec.seal_bytes(
            DELIVERIES,
            pack_delivery(
                request_id=exchange.request_id,
                tenant=endpoint.tenant,
                endpoint=endpoint.id,
                source=endpoint.source,
                received_at=now,
                content_type=request.headers.get(b"content-type", b"")[:128].decode("latin-1"),
                body=request.body,
            ),
            key,
            kafka_key=f"{endpoint.tenant}/{exchange.request_id}",
            partition_key=exchange.request_id,
            now=now,
            traceparent=traceparent,
            message_id=exchange.request_id,
        )
        try:
            await self._publish((outgoing,))
        except Unavailable as error:
            raise _RefusedError(Refusal.BROKER_UNAVAILABLE, type(error).__name__, size) from error

    async def _new_key(self, endpoint: Endpoint, now: datetime, size: int) -> DataKey:
        try:
            async with asyncio.timeout(KEY_SECONDS):
                return await self._keys.for_delivery(endpoint.tenant, endpoint.id, now)
        except (Unavailable, TimeoutError) as error:
            raise _RefusedError(Refusal.KEYS_UNAVAILABLE, type(error).__name__, size) from error

    async def _refuse(self, exchange: _Exchange, refused: _RefusedError) -> None:
        refusal = refused.refusal
        source, endpoint = exchange.source, exchange.endpoint
        status = answers.STATUS[refusal]
        answer = json_refused(refusal, status) if source is None else source.refused(refusal, status)
        metrics.REQUESTS.labels(source.name if source else "none", refusal.value).inc()
        secret = source is None or source.id_is_secret
        self._ledger.note(
            Refused(
                request_id=exchange.request_id,
                at=self._now(),
                endpoint=f"{exchange.asked[:_SHOWN]}…" if secret else exchange.asked,
                tenant=endpoint.tenant if endpoint else "",
                cause=refusal,
                status=answer[0],
                detail=refused.detail,
                size=refused.size,
            )
        )
        if refused.gone:
            return
        extra: list[tuple[bytes, bytes]] = []
        if refusal in answers.RETRY_AFTER:
            extra.append((b"retry-after", b"%d" % answers.RETRY_AFTER[refusal]))
        if refusal is Refusal.METHOD_NOT_ALLOWED:
            extra.append((b"allow", b"GET, HEAD, POST"))
        if refusal in answers.CLOSING:
            extra.append((b"connection", b"close"))
        await exchange.answer(answer, extra)
