"""The front door: cap the body, find the endpoint, verify, seal, publish, answer after the broker's acknowledgement.

Law: no database or Redis is asked on the way, and nothing of the body is parsed, unless it is verified and too large for one
message (`ingress/split.py`). Nothing unverified goes further than the admin's list. Every refusal has a cause, is counted,
logged and kept for the admin. The address of a Salesforce endpoint is its secret, so no path is ever logged or put into a span.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from opentelemetry.trace import Span, SpanKind

from infra import metrics
from infra.accounts import Endpoint
from infra.kafka.broker import MessageTooLarge
from infra.kafka.codec import Outgoing
from infra.keyring import DataKey
from infra.telemetry import log, start_trace
from infra.unavailable import Unavailable
from ingress import answers
from ingress.body import Body, BodyRefusedError
from ingress.conditions import conditions_of
from ingress.deadlines import Deadlines
from ingress.gate import Gate
from ingress.identity import RequestIds
from ingress.ledger import Ledger, Refused
from ingress.parcel import Parcels
from ingress.proxies import Proxies
from ingress.rates import Rates
from ingress.refused import KEPT, MAX_BODY_BYTES, Allowance, RefusedRequest
from ingress.replays import Mark, Replays, SignedOnce
from ingress.sender_trace import link_sender
from ingress.sources.source import Answer, InboundRequest, Source, json_refused
from ingress.split import Splittable
from ingress.verification import judge
from schemas.delivery import Refusal

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
_SPLIT_BESIDE_BYTES = 1_000_000
"""Larger bodies are cut in a thread, so that nobody else waits for it."""
_LENGTHS = {size: b"%d" % size for size in range(1_024)}


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What the door takes; see the settings `ingress_…`."""

    message_bytes: int
    """The largest body that fits into one message."""
    split_bytes: int
    """The largest body where the dialect lets us cut it."""
    body_seconds: float


class _RefusedError(Exception):
    def __init__(
        self, refusal: Refusal, detail: str = "", size: int = 0, *, gone: bool = False, retry_after: int = 0
    ) -> None:
        super().__init__(detail)
        self.refusal, self.detail, self.size, self.gone, self.retry_after = refusal, detail, size, gone, retry_after


@dataclass(slots=True)
class _Exchange:
    """One request and what is known of it so far."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    traced: bool
    asked: str
    """What stands where an endpoint's id should."""
    endpoint: Endpoint | None = None
    source: Source | None = None
    span: Span | None = None
    request: InboundRequest | None = None
    received_at: datetime | None = None

    async def answer(self, answer: Answer, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        status, headers, body = answer
        size = len(body)
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    (b"content-length", _LENGTHS.get(size) or b"%d" % size),
                    (b"x-request-id", self.request_id.encode()),
                    *extra,
                ],
            }
        )
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})


class _Dialect:
    """What is known of a source once and for all."""

    __slots__ = ("accepted", "answer", "cap", "replayed", "seconds", "signed_once", "source", "split")

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source = source
        self.answer = source.accepted()
        self.signed_once = source.signed_once if isinstance(source, SignedOnce) else ()
        self.split = source.split if isinstance(source, Splittable) else None
        self.cap = limits.message_bytes if self.split is None else max(limits.split_bytes, limits.message_bytes)
        self.accepted = metrics.REQUESTS.labels(source.name, "accepted")
        self.replayed = metrics.REQUESTS.labels(source.name, Refusal.REPLAYED.value)
        self.seconds = metrics.REQUEST_SECONDS.labels(source.name)


class Receiver:
    """Answers one HTTP request at a time per call; safe to call at once from many tasks of one loop."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        sources: Mapping[str, Source],
        keys: DeliveryKeys,
        publish: Publish,
        ledger: Ledger,
        gate: Gate,
        rates: Rates,
        limits: Limits,
        public_url: str | None,
        proxies: Proxies | None = None,
        trace_ratio: float = 1.0,
        writer: str = "hookline/ingress",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`public_url` None: the address is rebuilt from what trusted proxies say, or, where a sender reaches us directly, from
        Host, which it chooses; endpoints may name an address of their own.
        """
        self._endpoints = endpoints
        self._dialects = {name: _Dialect(source, limits) for name, source in sources.items()}
        self._keys = keys
        self._publish = publish
        self._ledger = ledger
        self._gate = gate
        self._rates = rates
        self._limits = limits
        self._deadlines = Deadlines(limits.body_seconds)
        self._replays = Replays()
        self._allowance = Allowance()
        self._parcels = Parcels(writer)
        self._ids = RequestIds(trace_ratio)
        self._public = public_url.rstrip("/").encode() if public_url is not None else None
        self._proxies = proxies or Proxies()
        self._now = now
        self._log = log("ingress")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        request_id, traced = self._ids.draw()
        path: bytes = scope.get("raw_path") or b""
        exchange = _Exchange(scope, receive, send, request_id, traced, path[len(_PREFIX) :].decode("ascii", "replace"))
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
        dialect = self._dialects.get(endpoint.source)
        if dialect is None:
            raise _RefusedError(Refusal.ENDPOINT_DISABLED, "its source is not installed here")
        exchange.source = dialect.source
        method: str = exchange.scope["method"]
        handshake = conditions_of(endpoint).handshake
        if handshake is not None and endpoint.enabled:
            said = handshake.greeting(method, exchange.scope["query_string"])
            if said is not None:
                metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
                await exchange.answer(said)
                return
        if method != "POST":
            if method not in {"GET", "HEAD"}:
                raise _RefusedError(Refusal.METHOD_NOT_ALLOWED)
            metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
            await exchange.answer((200, answers.PLAIN, answers.GREETING))
            return
        if not endpoint.enabled:
            raise _RefusedError(Refusal.ENDPOINT_DISABLED, "disabled by an administrator")
        if exchange.traced:
            exchange.span = start_trace("delivery.receive", exchange.request_id, kind=SpanKind.SERVER)
        await exchange.answer(await self._take(exchange, endpoint, dialect))

    async def _take(self, exchange: _Exchange, endpoint: Endpoint, dialect: _Dialect) -> Answer:
        if not self._gate.enter():
            raise _RefusedError(Refusal.OVERLOADED, "too much is in flight")
        body = Body(self._gate, dialect.cap, self._deadlines)
        try:
            try:
                headers = exchange.scope["headers"]
                given: dict[bytes, bytes] = dict(headers)
                content = await body.read(exchange.receive, given, headers)
            except BodyRefusedError as error:
                raise _RefusedError(error.refusal, error.detail, error.size, gone=error.gone) from None
            if not content:
                raise _RefusedError(Refusal.EMPTY_BODY)
            complete = time.perf_counter()
            now = exchange.received_at = self._now()
            request = exchange.request = self._request(exchange.scope, given, content, endpoint)
            denied = judge(dialect.source, request, endpoint, now)
            if denied is not None:
                raise _RefusedError(denied.refusal, denied.detail, len(content))
            if exchange.span is not None:
                link_sender(exchange.span, given)
            handshake = conditions_of(endpoint).handshake
            said = handshake.reply(content) if handshake is not None else None
            if said is not None:
                metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
                return said
            await self._keep(exchange, endpoint, dialect, request, now)
            dialect.seconds.observe(time.perf_counter() - complete)
            return dialect.answer
        finally:
            body.release()
            self._gate.leave()

    def _request(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, endpoint: Endpoint) -> InboundRequest:
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        caller = self._proxies.caller(scope, headers)
        public = conditions_of(endpoint).public or self._public
        if public is None:
            public = caller.origin()
        return InboundRequest(scope["method"].encode(), target, public, headers, body, caller)

    async def _keep(
        self, exchange: _Exchange, endpoint: Endpoint, dialect: _Dialect, request: InboundRequest, now: datetime
    ) -> None:
        size = len(request.body)
        moment = time.monotonic()
        mark: Mark = ()
        if dialect.signed_once:
            headers = request.headers
            mark = (endpoint.id, *[headers.get(name) for name in dialect.signed_once])
            # Without all of them it was a weaker signature that held, and nothing says that two of those are one.
            if None in mark:
                mark = ()
            elif self._replays.known(mark):
                dialect.replayed.inc()
                self._note(exchange, Refusal.REPLAYED, dialect.answer[0], "accepted before, not published again", size)
                return
        wait = self._rates.take(endpoint, moment)
        if wait:
            raise _RefusedError(Refusal.RATE_LIMITED, "over the endpoint's rate", size, retry_after=wait)
        if size <= self._limits.message_bytes:
            parts = [request.body]
        else:
            parts = await self._split(dialect, request.body)
        key = self._keys.cached_delivery_key(endpoint.tenant, endpoint.id, now)
        if key is None:
            key = await self._new_key(endpoint, now, size)
        trace = self._traceparent(exchange)
        kind = request.headers.get(b"content-type", b"")
        identity, wrap = exchange.request_id, self._parcels.wrap
        try:
            await self._publish(
                [wrap(endpoint, key, identity, now, kind, part, trace, number) for number, part in enumerate(parts)]
            )
        except Unavailable as error:
            raise _RefusedError(Refusal.BROKER_UNAVAILABLE, type(error).__name__, size) from error
        except MessageTooLarge as error:
            raise _RefusedError(Refusal.PAYLOAD_TOO_LARGE, "larger than Kafka takes", size) from error
        if mark:
            self._replays.note(mark, moment)
        dialect.accepted.inc()

    async def _split(self, dialect: _Dialect, body: bytes) -> list[bytes]:
        limit = self._limits.message_bytes
        parts: list[bytes] | None = None
        if dialect.split is not None:
            if len(body) > _SPLIT_BESIDE_BYTES:
                parts = await asyncio.to_thread(dialect.split, body, limit)
            else:
                parts = dialect.split(body, limit)
        if parts is None:
            raise _RefusedError(
                Refusal.PAYLOAD_TOO_LARGE, f"more than {limit} bytes, and cannot be cut by event", len(body)
            )
        return parts

    def _traceparent(self, exchange: _Exchange) -> str:
        if exchange.span is not None:
            context = exchange.span.get_span_context()
            if context.is_valid:
                return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return self._ids.traceparent(exchange.request_id)

    async def _new_key(self, endpoint: Endpoint, now: datetime, size: int) -> DataKey:
        try:
            async with asyncio.timeout(KEY_SECONDS):
                return await self._keys.for_delivery(endpoint.tenant, endpoint.id, now)
        except (Unavailable, TimeoutError) as error:
            raise _RefusedError(Refusal.KEYS_UNAVAILABLE, type(error).__name__, size) from error

    async def _refuse(self, exchange: _Exchange, refused: _RefusedError) -> None:
        refusal, source = refused.refusal, exchange.source
        status = answers.STATUS[refusal]
        answer = json_refused(refusal, status) if source is None else source.refused(refusal, status)
        metrics.REQUESTS.labels(source.name if source else "none", refusal.value).inc()
        self._note(exchange, refusal, answer[0], refused.detail, refused.size)
        if refused.gone:
            return
        extra: list[tuple[bytes, bytes]] = []
        if refusal in answers.RETRY_AFTER:
            extra.append((b"retry-after", b"%d" % (refused.retry_after or answers.RETRY_AFTER[refusal])))
        if refusal is Refusal.METHOD_NOT_ALLOWED:
            extra.append((b"allow", b"GET, HEAD, POST"))
        if refusal in answers.CLOSING:
            extra.append((b"connection", b"close"))
        await exchange.answer(answer, extra)

    def _note(self, exchange: _Exchange, cause: Refusal, status: int, detail: str, size: int) -> None:
        source, endpoint = exchange.source, exchange.endpoint
        secret = source is None or source.id_is_secret
        self._ledger.note(
            Refused(
                request_id=exchange.request_id,
                at=self._now(),
                endpoint=f"{exchange.asked[:_SHOWN]}…" if secret else exchange.asked,
                tenant=endpoint.tenant if endpoint else "",
                cause=cause,
                status=status,
                detail=detail,
                size=size,
                sealed=self._sealed(exchange, cause),
            )
        )

    def _sealed(self, exchange: _Exchange, cause: Refusal) -> bytes | None:
        """The request as it is kept for a retry, where it is."""
        request, at, endpoint = exchange.request, exchange.received_at, exchange.endpoint
        if cause not in KEPT or request is None or at is None or endpoint is None or not self._ledger.keeps_requests:
            return None
        size = len(request.body)
        key = self._keys.cached_delivery_key(endpoint.tenant, endpoint.id, at)
        if key is None or size > MAX_BODY_BYTES or not self._allowance.take(endpoint.id, size, at):
            return None
        return RefusedRequest.of(request, endpoint.id, at).seal(key)
