"""The front door over ASGI: cap the body, find the endpoint, verify, seal, publish, answer after the broker's acknowledgement.

Law: no database or Redis is asked on the way, and nothing of the body is parsed, unless it is verified and too large for one
message (`ingress/split.py`). What decides is in `ingress/acceptance.py`; here is what may have to wait: for the body, for a key
that is not in memory, for the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import datetime
from typing import Any

from infra import metrics
from infra.accounts import Endpoint
from infra.kafka.broker import MessageTooLarge
from infra.kafka.codec import Outgoing
from infra.keyring import DataKey
from infra.unavailable import Unavailable
from ingress import answers
from ingress.acceptance import Acceptance, Case, DeliveryKeys, Endpoints, RefusedError, utc_now
from ingress.body import Body, BodyRefusedError
from ingress.conditions import conditions_of
from ingress.deadlines import Deadlines
from ingress.direct import Direct, Offer
from ingress.gate import Gate
from ingress.known import Dialect, Limits
from ingress.ledger import Ledger
from ingress.proxies import Proxies
from ingress.rates import Rates
from ingress.sources.source import Answer, Source
from schemas.delivery import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Publish = Callable[[Sequence[Outgoing]], Awaitable[object]]
"""Returns after the broker's acknowledgement; raises Unavailable within ACK_SECONDS, which is its own business."""

ACK_SECONDS = 4.0
"""What the publisher is given. HubSpot hangs up after five; an answer that nobody hears only makes them send again."""
KEY_SECONDS = 1.0
_SPLIT_BESIDE_BYTES = 1_000_000
"""Larger bodies are cut in a thread, so that nobody else waits for it."""


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
        offer: Offer | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`offer`: `publish` for whoever does not wait; with it `direct` takes what needs no waiting. `public_url`: see Acceptance."""
        self._acceptance = Acceptance(
            endpoints=endpoints, sources=sources, keys=keys, ledger=ledger, rates=rates, limits=limits, public_url=public_url,
            proxies=proxies, trace_ratio=trace_ratio, writer=writer, now=now,
        )  # fmt: skip
        self._publish = publish
        self._gate = gate
        self._limits = limits
        self._deadlines = Deadlines(limits.body_seconds)
        self.direct = Direct(self._acceptance, gate, offer) if offer is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        acceptance = self._acceptance
        request_id, traced = acceptance.draw.draw()
        asked = acceptance.asked(scope.get("raw_path") or b"")
        case = Case(request_id, traced, asked or "")
        gone = False
        extra: list[tuple[bytes, bytes]] = []
        try:
            if asked is None:
                metrics.REQUESTS.labels("none", "404").inc()
                answer: Answer = (404, answers.PLAIN, answers.NOT_FOUND)
            else:
                answer = await self._serve(case, scope, receive)
        except RefusedError as refused:
            answer, extra = acceptance.refuse(case, refused)
            gone = refused.gone
        except Exception as error:  # noqa: BLE001 - a bug of ours must answer too, so that the sender comes again
            answer = acceptance.failed(case, error)
        finally:
            case.end()
        if not gone:
            await _answer(scope, send, request_id, answer, extra)

    async def _serve(self, case: Case, scope: Scope, receive: Receive) -> Answer:
        endpoint = case.endpoint = self._acceptance.endpoint(case.asked)
        if endpoint is None:
            raise RefusedError(Refusal.UNKNOWN_ENDPOINT)
        dialect = case.dialect = self._acceptance.dialects.get(endpoint.source)
        if dialect is None:
            raise RefusedError(Refusal.ENDPOINT_DISABLED, "its source is not installed here")
        case.known = self._acceptance.known(scope["raw_path"])
        method: str = scope["method"]
        handshake = conditions_of(endpoint).handshake
        if handshake is not None and endpoint.enabled:
            said = handshake.greeting(method, scope["query_string"])
            if said is not None:
                metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
                return said
        if method != "POST":
            if method not in {"GET", "HEAD"}:
                raise RefusedError(Refusal.METHOD_NOT_ALLOWED)
            metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
            return 200, answers.PLAIN, answers.GREETING
        if not endpoint.enabled:
            raise RefusedError(Refusal.ENDPOINT_DISABLED, "disabled by an administrator")
        if case.traced:
            self._acceptance.begin_trace(case)
        return await self._take(case, scope, receive, endpoint, dialect)

    async def _take(self, case: Case, scope: Scope, receive: Receive, endpoint: Endpoint, dialect: Dialect) -> Answer:
        if not self._gate.enter():
            raise RefusedError(Refusal.OVERLOADED, "too much is in flight")
        body = Body(self._gate, dialect.cap, self._deadlines)
        try:
            try:
                headers = scope["headers"]
                given: dict[bytes, bytes] = dict(headers)
                content = await body.read(receive, given, headers)
            except BodyRefusedError as error:
                raise RefusedError(error.refusal, error.detail, error.size, gone=error.gone) from None
            if not content:
                raise RefusedError(Refusal.EMPTY_BODY)
            complete = time.perf_counter()
            self._acceptance.believe(case, scope, given, content)
            handshake = conditions_of(endpoint).handshake
            said = handshake.reply(content) if handshake is not None else None
            if said is not None:
                metrics.REQUESTS.labels(dialect.source.name, "greeted").inc()
                return said
            if await self._keep(case, endpoint, dialect, content):
                self._acceptance.accepted(case, time.perf_counter() - complete)
            else:
                dialect.seconds.observe(time.perf_counter() - complete)
            return dialect.answer
        finally:
            body.release()
            self._gate.leave()

    async def _keep(self, case: Case, endpoint: Endpoint, dialect: Dialect, content: bytes) -> bool:
        """False: a replay, of which nothing needs keeping."""
        acceptance = self._acceptance
        size = len(content)
        if not acceptance.is_new(case):
            return False
        acceptance.spend(case)
        parts = [content] if size <= self._limits.message_bytes else await self._split(dialect, content)
        now = case.received_at
        assert now is not None
        key = acceptance.keys.cached_delivery_key(endpoint.tenant, endpoint.id, now)
        if key is None:
            key = await self._new_key(endpoint, now, size)
        try:
            await self._publish([acceptance.message(case, key, part, number) for number, part in enumerate(parts)])
        except (Unavailable, MessageTooLarge) as error:
            raise acceptance.as_refusal(error, size) or error from error
        return True

    async def _split(self, dialect: Dialect, body: bytes) -> list[bytes]:
        limit = self._limits.message_bytes
        parts: list[bytes] | None = None
        if dialect.split is not None:
            if len(body) > _SPLIT_BESIDE_BYTES:
                parts = await asyncio.to_thread(dialect.split, body, limit)
            else:
                parts = dialect.split(body, limit)
        if parts is None:
            raise RefusedError(
                Refusal.PAYLOAD_TOO_LARGE, f"more than {limit} bytes, and cannot be cut by event", len(body)
            )
        return parts

    async def _new_key(self, endpoint: Endpoint, now: datetime, size: int) -> DataKey:
        try:
            async with asyncio.timeout(KEY_SECONDS):
                return await self._acceptance.keys.for_delivery(endpoint.tenant, endpoint.id, now)
        except (Unavailable, TimeoutError) as error:
            raise RefusedError(Refusal.KEYS_UNAVAILABLE, type(error).__name__, size) from error


async def _answer(
    scope: Scope, send: Send, request_id: str, answer: Answer, extra: Sequence[tuple[bytes, bytes]]
) -> None:
    status, headers, body = answer
    every = [*headers, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id.encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
