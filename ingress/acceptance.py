"""What decides about a request whose body is here: is it believed, is it new, is it within its rate; and what a refusal is.

Law: nothing here waits, asks a server or parses. Both ways through the door use it, the usual one over ASGI (`ingress/receiver.py`)
and the short one of most requests (`ingress/direct.py`), so that neither can forget a check. Nothing unverified goes further than the
admin's list; every refusal has a cause, is counted, logged and kept for the admin. The address of a Salesforce endpoint
is its secret, so no path is ever logged or put into a span.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from opentelemetry.trace import Span, SpanKind

from infra import metrics
from infra.accounts import Endpoint
from infra.kafka.codec import Outgoing
from infra.kafka.lane import MessageTooLarge
from infra.keyring import DataKey
from infra.telemetry import log, start_trace, traceparent
from infra.unavailable import Unavailable
from ingress import answers
from ingress.identity import RequestIds
from ingress.known import Dialect, Known, Limits
from ingress.ledger import Ledger, Refused
from ingress.parcel import Parcels
from ingress.per_endpoint import MOST
from ingress.proxies import Proxies
from ingress.rates import Rates
from ingress.refused import KEPT, MAX_BODY_BYTES, Allowance, RefusedRequest
from ingress.replays import Mark
from ingress.sender_trace import link_sender
from ingress.sources.source import Answer, InboundRequest, Source, json_refused
from schemas.delivery import Refusal

Scope = MutableMapping[str, Any]
Extra = list[tuple[bytes, bytes]]
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


class RefusedError(Exception):
    """The request is turned away. `gone`: nobody is there any more to hear it."""

    def __init__(
        self, refusal: Refusal, detail: str = "", size: int = 0, *, gone: bool = False, retry_after: int = 0
    ) -> None:
        super().__init__(detail)
        self.refusal, self.detail, self.size, self.gone, self.retry_after = refusal, detail, size, gone, retry_after


@dataclass(slots=True)
class Case:
    """One request and what is known of it so far."""

    request_id: str
    traced: bool
    asked: str
    """What stands where an endpoint's id should."""
    endpoint: Endpoint | None = None
    dialect: Dialect | None = None
    known: Known | None = None
    span: Span | None = None
    request: InboundRequest | None = None
    scope: Scope | None = None
    received_at: datetime | None = None
    mark: Mark = ()

    def end(self) -> None:
        """End its span, where it has one. May be called twice."""
        span, self.span = self.span, None
        if span is not None:
            span.end()


class Acceptance:
    """One per process."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        sources: Mapping[str, Source],
        keys: DeliveryKeys,
        ledger: Ledger,
        rates: Rates,
        limits: Limits,
        public_url: str | None,
        proxies: Proxies | None,
        trace_ratio: float,
        writer: str,
        now: Callable[[], datetime],
    ) -> None:
        """`public_url` None: the address is rebuilt from what trusted proxies say, or, where a sender reaches us directly, from
        Host, which it chooses; endpoints may name an address of their own.
        """
        self.endpoint = endpoints.endpoint
        self.dialects = {name: Dialect(source, limits) for name, source in sources.items()}
        self.keys = keys
        self.limits = limits
        self.now = now
        self.draw = RequestIds(trace_ratio)
        self._known: dict[bytes, Known] = {}
        self._ledger = ledger
        self._rates = rates
        self._allowance = Allowance()
        self._wrap = Parcels(writer).wrap
        self._public = public_url.rstrip("/").encode() if public_url is not None else None
        self._proxies = proxies or Proxies()
        self._log = log("ingress")

    @staticmethod
    def asked(path: bytes) -> str | None:
        """The endpoint's id that a path names, be it one or not; None for a path that names none."""
        asked = path[len(_PREFIX) :].decode("ascii", "replace")
        return asked if path.startswith(_PREFIX) and 0 < len(asked) <= _MAX_ID else None

    def known(self, path: bytes) -> Known | None:
        """What is known of the endpoint that a path names; None where there is none, or nobody here speaks its language."""
        found = self._known.get(path)
        if found is not None and self.endpoint(found.endpoint.id) is found.endpoint:
            return found
        self._known.pop(path, None)
        asked = self.asked(path)
        endpoint = self.endpoint(asked) if asked is not None else None
        dialect = self.dialects.get(endpoint.source) if endpoint is not None else None
        if endpoint is None or dialect is None:
            return None
        if len(self._known) >= MOST:
            self._known.clear()
        made = self._known[path] = Known(endpoint, dialect, self._public)
        return made

    def key(self, known: Known, now: datetime) -> DataKey | None:
        """The endpoint's key of this hour, from memory; None when it is not there."""
        if known.key_from <= now < known.key_until:
            return known.key
        return known.keep(self.keys.cached_delivery_key(known.endpoint.tenant, known.endpoint.id, now), now)

    @staticmethod
    def begin_trace(case: Case) -> None:
        """A span for the few that are traced."""
        case.span = start_trace("delivery.receive", case.request_id, kind=SpanKind.SERVER)

    def believe(self, case: Case, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> InboundRequest:
        """The request, which comes from who it says it does; raises RefusedError. Afterwards `case` knows it, and when it came."""
        known = case.known
        assert known is not None
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        request = InboundRequest(scope["method"].encode(), target, known.public or b"", headers, body)
        return self.judge(case, known, request, scope, self.now())

    def judge(self, case: Case, known: Known, request: InboundRequest, scope: Scope, now: datetime) -> InboundRequest:
        """`believe`, for whoever has the request and the time at hand. `scope`: what ASGI's says of the connection."""
        case.received_at, case.request, case.scope = now, request, scope
        if known.asks:
            caller = request.caller = self._proxies.caller(scope, request.headers)
            if known.public is None:
                request.public = caller.origin()
        denied = known.verify(request, known.endpoint, now)
        if denied is not None:
            raise RefusedError(denied.refusal, denied.detail, len(request.body))
        if case.span is not None:
            link_sender(case.span, request.headers)
        return request

    def is_new(self, case: Case) -> bool:
        """False: the very same signed request was accepted a moment ago; it is noted as a replay and needs no publishing."""
        endpoint, dialect, request = case.endpoint, case.dialect, case.request
        assert endpoint is not None
        assert dialect is not None
        assert request is not None
        if dialect.once is None:
            return True
        once = dialect.once(request, endpoint)
        if once is None:
            return True
        mark: Mark = (endpoint.id, *once)
        if dialect.replays.known(mark):
            dialect.replayed.inc()
            self._note(case, Refusal.REPLAYED, dialect.answer[0], "accepted before, not published again", len(request.body))  # fmt: skip
            return False
        case.mark = mark
        return True

    def spend(self, case: Case) -> None:
        """Take one token of the endpoint's rate; raises RefusedError."""
        assert case.endpoint is not None
        assert case.request is not None
        wait = self._rates.take(case.endpoint, time.monotonic())
        if wait:
            raise RefusedError(Refusal.RATE_LIMITED, "over the endpoint's rate", len(case.request.body), retry_after=wait)  # fmt: skip

    def message(self, case: Case, key: DataKey, body: bytes, part: int = 0) -> Outgoing:
        """The body, sealed for Kafka."""
        assert case.endpoint is not None
        assert case.request is not None
        assert case.received_at is not None
        kind = case.request.headers.get(b"content-type", b"")
        trace = "" if case.span is None else traceparent(case.span)
        trace = trace or self.draw.traceparent(case.request_id)
        return self._wrap(case.endpoint, key, case.request_id, case.received_at, kind, body, trace, part)

    @staticmethod
    def accepted(case: Case, seconds: float) -> None:
        """The broker has it, so many seconds after its last byte."""
        dialect = case.dialect
        assert dialect is not None
        if case.mark:
            dialect.replays.note(case.mark, time.monotonic())
        dialect.took(seconds)

    @staticmethod
    def as_refusal(error: Exception, size: int) -> RefusedError | None:
        """What an error of publishing means for the sender; None when it is none of those that are expected."""
        if isinstance(error, Unavailable):
            return RefusedError(Refusal.BROKER_UNAVAILABLE, type(error).__name__, size)
        if isinstance(error, MessageTooLarge):
            return RefusedError(Refusal.PAYLOAD_TOO_LARGE, "larger than Kafka takes", size)
        return None

    def refuse(self, case: Case, refused: RefusedError) -> tuple[Answer, Extra]:
        """Count, list and keep it; what is to be answered."""
        refusal = refused.refusal
        source = case.dialect.source if case.dialect is not None else None
        status = answers.STATUS[refusal]
        answer = json_refused(refusal, status) if source is None else source.refused(refusal, status)
        metrics.REQUESTS.labels(source.name if source else "none", refusal.value).inc()
        self._note(case, refusal, answer[0], refused.detail, refused.size)
        extra: Extra = []
        if refusal in answers.RETRY_AFTER:
            extra.append((b"retry-after", b"%d" % (refused.retry_after or answers.RETRY_AFTER[refusal])))
        if refusal is Refusal.METHOD_NOT_ALLOWED:
            extra.append((b"allow", b"GET, HEAD, POST"))
        if refusal in answers.CLOSING:
            extra.append((b"connection", b"close"))
        return answer, extra

    def failed(self, case: Case, error: Exception) -> Answer:
        """A bug of ours must answer too, so that the sender comes again."""
        metrics.REQUESTS.labels(case.dialect.source.name if case.dialect else "none", "failed").inc()
        self._log.error("ingress_failed", request_id=case.request_id, error=type(error).__name__)
        return 500, answers.PLAIN, answers.FAILED

    def _note(self, case: Case, cause: Refusal, status: int, detail: str, size: int) -> None:
        endpoint = case.endpoint
        secret = case.dialect is None or case.dialect.source.id_is_secret
        self._ledger.note(
            Refused(
                request_id=case.request_id,
                at=self.now(),
                endpoint=f"{case.asked[:_SHOWN]}…" if secret else case.asked,
                tenant=endpoint.tenant if endpoint else "",
                cause=cause,
                status=status,
                detail=detail,
                size=size,
                sealed=self._sealed(case, cause),
            )
        )

    def _sealed(self, case: Case, cause: Refusal) -> bytes | None:
        """The request as it is kept for a retry, where it is."""
        request, at, endpoint = case.request, case.received_at, case.endpoint
        if cause not in KEPT or request is None or at is None or endpoint is None or not self._ledger.keeps_requests:
            return None
        if request.caller is None and case.scope is not None:
            request.caller = self._proxies.caller(case.scope, request.headers)
        size = len(request.body)
        key = self.keys.cached_delivery_key(endpoint.tenant, endpoint.id, at)
        if key is None or size > MAX_BODY_BYTES or not self._allowance.take(endpoint.id, size, at):
            return None
        return RefusedRequest.of(request, endpoint.id, at).seal(key)


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
