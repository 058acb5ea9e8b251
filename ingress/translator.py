"""Deliveries become changes: the sender's dialect is understood here, and ends here.

Law: every event of a delivery ends as a change, as a dead letter with its cause, or as a counted drop (an echo of our own
write, an object that nothing reads, an event that was seen). An event speaks only for an account that its endpoint may
speak for. What a sender wrote is never poison: its letters belong to the account, and nobody else is stopped by them. A change
takes the live lane unless it is an import's or its tenant is over its rate (ingress/lanes.py). Offsets are the pump's
business: whatever is raised here is tried again, so every step may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from opentelemetry.trace import Span, SpanKind
from sqlalchemy.exc import SQLAlchemyError

from infra import metrics
from infra.accounts import Endpoint
from infra.kafka.codec import Received
from infra.kafka.raw import Raw
from infra.telemetry import continue_trace, log, traceparent, tracer
from infra.unavailable import Unavailable, as_unavailable
from ingress.fold import fold
from ingress.seen import mark_key
from ingress.sources.source import Event, Ignored, Resync, Source, Untranslatable
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, Topic

STAGE = "translator"
_SHOWN_POSITIONS = 20


class Known(Protocol):
    """The directory's side that is needed here."""

    def endpoint(self, id: str) -> Endpoint | None:  # noqa: A002 - the directory's own name for it
        """From memory; never blocks."""
        ...

    async def refresh(self) -> bool:
        """Look for changes now; raises what the database raises."""
        ...


class Opener(Protocol):
    """The codec's side that is needed here."""

    async def open(
        self, topic: Topic[Delivery], raws: Sequence[Raw]
    ) -> tuple[list[Received[Delivery]], list[tuple[Raw, Cause, str]]]:
        """Decode; what cannot be comes back with its cause. Raises Unavailable."""
        ...


class Out(Protocol):
    """The publisher's side that is needed here; both methods return after the broker's acknowledgement."""

    async def publish(
        self, topic: Topic[Change], payloads: Sequence[Change], *, traceparents: Sequence[str] | None = None
    ) -> list[tuple[int, int]]:
        """Raises Unavailable."""
        ...

    async def dead_letter(
        self, raw: Raw, *, stage: str, cause: Cause, detail: str, tenant: str, account: str | None = None
    ) -> None:
        """Raises Unavailable."""
        ...


class Marks(Protocol):
    """Seen-marks; see ingress/seen.py."""

    async def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        """Raises Unavailable."""
        ...

    async def set(self, marks: Mapping[str, str]) -> None:
        """Never raises."""
        ...


class Rates(Protocol):
    """See ingress/lanes.py."""

    async def take(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """Tenant → how many of its changes may take the live lane, of so many that want to; each at most what it wanted.

        One round trip for a whole batch. Never raises. Called twice for the same changes it takes twice.
        """
        ...


class Notes(Protocol):
    """Where it is noted what changes most; never blocks. See ingress/hot.py."""

    def note(self, changes: Sequence[Change], over: dict[str, int]) -> None:
        """Remember them."""
        ...


class Demands(Protocol):
    """Where it is asked for that an object be read again; see ingress/pubsub/store.py."""

    async def ask(self, demands: Iterable[tuple[str, Resync, datetime]]) -> None:
        """(endpoint, what, until when it may have changed). Safe to repeat; raises what the database raises."""
        ...


Prepare = Callable[[Sequence[Delivery]], Awaitable[None]]
"""Fetches what a dialect needs to understand these deliveries, which it may not do itself. Safe to repeat; raises what the database
raises."""


class Times(Protocol):
    """Where it is noted that an account was heard of; never blocks."""

    def note(self, account: str, at: Any) -> None:
        """Remember it."""
        ...


@dataclass(slots=True)
class _Work:
    """What becomes of one delivery."""

    received: Received[Delivery]
    origin: str
    """`epoch/partition/offset` of the delivery."""
    span: Span
    events: list[tuple[str, Event]] = field(default_factory=list)
    """Mark key and event."""
    letters: list[Untranslatable] = field(default_factory=list)
    resyncs: list[Resync] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def delivery(self) -> Delivery:
        return self.received.payload


class _Lanes:
    """What is to be published, by lane."""

    def __init__(self, granted: dict[str, int]) -> None:
        """`granted`: how many of each tenant's changes may take the live lane; used up."""
        self._granted = granted
        self.live: tuple[list[Change], list[str]] = ([], [])
        self.bulk: tuple[list[Change], list[str]] = ([], [])
        self._sent: Counter[tuple[str, str]] = Counter()
        self._over: Counter[tuple[str, str]] = Counter()

    def add(self, change: Change, traceparent: str, source: str, *, bulk: bool) -> None:
        """`bulk`: its sender said so."""
        if not bulk:
            left = self._granted[change.tenant] = self._granted.get(change.tenant, 0) - 1
            if left < 0:
                bulk = True
                self._over[change.tenant, source] += 1
        changes, traceparents = self.bulk if bulk else self.live
        changes.append(change)
        traceparents.append(traceparent)
        self._sent[source, "bulk" if bulk else "live"] += 1

    def count(self) -> None:
        """Once they are acknowledged."""
        for (source, lane), number in self._sent.items():
            metrics.CHANGES.labels(source, lane).inc(number)
        for (_, source), number in self._over.items():
            metrics.OVER_RATE.labels(source).inc(number)

    def over(self) -> dict[str, int]:
        """How many of each tenant's were over its rate."""
        found: Counter[str] = Counter()
        for (tenant, _), number in self._over.items():
            found[tenant] += number
        return found


class Translator:
    """Handles batches of `crm.deliveries`; safe to call at once for different messages."""

    def __init__(
        self,
        *,
        opener: Opener,
        out: Out,
        known: Known,
        sources: Mapping[str, Source],
        marks: Marks,
        rates: Rates,
        hot: Notes,
        times: Times,
        epoch: int,
        demands: Demands | None = None,
        prepare: Mapping[str, Prepare] | None = None,
    ) -> None:
        """`epoch` is that of `crm.deliveries`: offsets mean something only within it. `prepare`: by source."""
        self._opener = opener
        self._out = out
        self._known = known
        self._sources = sources
        self._marks = marks
        self._rates = rates
        self._hot = hot
        self._times = times
        self._epoch = epoch
        self._demands = demands
        self._prepare = dict(prepare or {})
        self._log = log(STAGE)
        self._tracer = tracer()

    async def handle(self, raws: Sequence[Raw]) -> None:
        """Returns when everything that came of these deliveries is acknowledged; raises Unavailable when it cannot be now."""
        received, unreadable = await self._opener.open(DELIVERIES, raws)
        for raw, cause, detail in unreadable:
            await self._out.dead_letter(raw, stage=STAGE, cause=cause, detail=detail, tenant=_tenant(raw))
        works = [self._begin(one) for one in received]
        try:
            await self._prepared(works)
            for place, work in enumerate(works):
                if place:
                    # A batch of large deliveries must not keep the loop from the consumer's heartbeats.
                    await asyncio.sleep(0)
                self._translate(work)
            await self._look_again(works)
            marks, granted = await self._ask_redis(works)
            await self._publish(works, dict(granted))
            await self._marks.set(marks)
            self._count(works)
        finally:
            for work in works:
                work.span.end()

    def _begin(self, one: Received[Delivery]) -> _Work:
        span = self._tracer.start_span(
            "delivery.translate", context=continue_trace(one.envelope.traceparent), kind=SpanKind.CONSUMER
        )
        return _Work(one, f"{self._epoch}/{one.partition}/{one.offset}", span)

    async def _prepared(self, works: Sequence[_Work]) -> None:
        for source, prepare in self._prepare.items():
            theirs = [work.delivery for work in works if work.delivery.source == source]
            if theirs:
                await prepare(theirs)

    def _translate(self, work: _Work) -> None:
        delivery = work.delivery
        endpoint = self._known.endpoint(delivery.endpoint)
        source = self._sources.get(delivery.source)
        work.events.clear()
        work.letters.clear()
        work.resyncs.clear()
        work.dropped.clear()
        if endpoint is None or endpoint.tenant != delivery.tenant:
            work.letters.append(Untranslatable(Cause.FOREIGN_ACCOUNT, "the endpoint was removed after the delivery"))
            return
        if source is None:
            work.letters.append(
                Untranslatable(Cause.UNSUPPORTED_EVENT, "the source of this delivery is not installed here")
            )
            return
        only = next(iter(endpoint.accounts)) if len(endpoint.accounts) == 1 else None
        for found in source.translate(delivery, endpoint):
            if isinstance(found, Ignored):
                work.dropped[found.reason] += 1
            elif found.account is not None and found.account not in endpoint.accounts:
                work.letters.append(
                    Untranslatable(
                        Cause.FOREIGN_ACCOUNT,
                        "the endpoint may not speak for this account",
                        found.position,
                        found.account,
                    )
                )
            elif isinstance(found, Untranslatable):
                # A body that nobody can read names no account; its endpoint may speak for one all the same.
                work.letters.append(found if found.account else replace(found, account=only))
            elif isinstance(found, Resync):
                work.resyncs.append(found)
            else:
                work.events.append((mark_key(delivery.tenant, delivery.endpoint, found.key), found))

    async def _look_again(self, works: Sequence[_Work]) -> None:
        """The directory follows within a second; before an account is called foreign, it is asked once more."""
        doubtful = [work for work in works if any(letter.cause is Cause.FOREIGN_ACCOUNT for letter in work.letters)]
        if not doubtful:
            return
        try:
            await self._known.refresh()
        except (SQLAlchemyError, OSError) as error:
            raise as_unavailable(error) or Unavailable("postgres", why=type(error).__name__) from error
        # Whether or not it found news itself: the view may have been replaced since these were translated.
        for work in doubtful:
            self._translate(work)

    async def _ask_redis(self, works: Sequence[_Work]) -> tuple[dict[str, str], Mapping[str, int]]:
        """The marks to set once all is acknowledged, and what may take the live lane; what was seen is taken out.

        Both at once: Redis is asked at one moment a batch. What is paid for here and dropped as seen was sent all the same.
        """
        wanted = _wanted(works)
        if not wanted:
            return await self._drop_seen(works), {}
        rates = asyncio.ensure_future(self._rates.take(wanted))
        try:
            return await self._drop_seen(works), await rates
        finally:
            rates.cancel()

    async def _drop_seen(self, works: Sequence[_Work]) -> dict[str, str]:
        """Take out what was seen; returns the marks to set once all is acknowledged."""
        wanted = list(dict.fromkeys(key for work in works for key, _ in work.events))
        found = await self._marks.look_up(wanted) if wanted else {}
        first: dict[str, tuple[str, int]] = {}
        for work in works:
            fresh = []
            repeated: set[tuple[str, int]] = set()
            for key, event in work.events:
                here = (work.origin, event.position)
                # Only who may pass takes the place: a repetition that stands before the marked offset must not cost it its own.
                # One event may have become several (a merge, an association): those share key and position.
                if found.get(key, work.origin) == work.origin and first.setdefault(key, here) == here:
                    fresh.append((key, event))
                else:
                    repeated.add((key, event.position))
            work.events = fresh
            work.dropped["seen"] += len(repeated)
        return {key: work.origin for work in works for key, _ in work.events}

    async def _publish(self, works: Sequence[_Work], granted: dict[str, int]) -> None:
        lanes = _Lanes(granted)
        for work in works:
            trace = _traceparent(work)
            for change, told in fold(work.delivery, (event for _, event in work.events)):
                lanes.add(change, trace, work.delivery.source, bulk=told)
        for topic, changes, traceparents in ((CHANGES, *lanes.live), (CHANGES_BULK, *lanes.bulk)):
            if changes:
                await self._out.publish(topic, changes, traceparents=traceparents)
        demands = [(work.delivery.endpoint, one, work.delivery.received_at) for work in works for one in work.resyncs]
        if demands and self._demands is not None:
            await self._demands.ask(demands)
        lanes.count()
        self._hot.note(lanes.live[0] + lanes.bulk[0], lanes.over())
        for work in works:
            for letter in _gathered(work):
                await self._out.dead_letter(
                    work.received.raw,
                    stage=STAGE,
                    cause=letter.cause,
                    detail=letter.detail,
                    tenant=work.delivery.tenant,
                    account=letter.account,
                )

    def _count(self, works: Sequence[_Work]) -> None:
        for work in works:
            source = work.delivery.source
            metrics.DELIVERIES.labels(source).inc()
            for reason, number in work.dropped.items():
                if reason == "seen":
                    metrics.DUPLICATES.labels(source).inc(number)
                elif reason == "own_property":
                    metrics.OWN_EVENTS.labels(source).inc(number)
                else:
                    metrics.UNREAD_EVENTS.labels(source, reason).inc(number)
            for account in {event.account for _, event in work.events}:
                self._times.note(account, work.delivery.received_at)
        self._log.debug("deliveries_translated", deliveries=len(works), events=sum(len(work.events) for work in works))


def _gathered(work: _Work) -> list[Untranslatable]:
    """One letter per cause, account and detail: a letter holds the whole delivery, and a hundred of those hold it a hundred times."""
    groups: dict[tuple[Cause, str | None, str], list[int]] = {}
    for letter in work.letters:
        positions = groups.setdefault((letter.cause, letter.account, letter.detail), [])
        if letter.position is not None:
            positions.append(letter.position)
    found = []
    for (cause, account, detail), positions in groups.items():
        at = named(work.delivery.endpoint) if cause is Cause.MALFORMED_BODY else ""
        shown = ", ".join(str(position) for position in positions[:_SHOWN_POSITIONS])
        more = f" and {len(positions) - _SHOWN_POSITIONS} more" if len(positions) > _SHOWN_POSITIONS else ""
        where = ", ".join(part for part in (at, f"event {shown}{more}" if positions else "") if part)
        found.append(Untranslatable(cause, f"{where}: {detail}" if where else detail, None, account))
    return found


def named(endpoint: str) -> str:
    """How a letter about a body names the endpoint that took it: the id itself is some senders' secret."""
    return f"endpoint {endpoint[:6]}…"


def _traceparent(work: _Work) -> str:
    return traceparent(work.span) or work.received.envelope.traceparent


def _wanted(works: Sequence[_Work]) -> dict[str, int]:
    """Tenant → changes that want the live lane: at most what will be published, for what was seen is not known yet."""
    wanted: Counter[str] = Counter()
    for work in works:
        records = {(event.account, event.object, event.id) for _, event in work.events if not event.bulk}
        if records:
            wanted[work.delivery.tenant] += len(records)
    return dict(wanted)


def _tenant(raw: Raw) -> str:
    return next((bytes(value).decode("ascii", "replace") for name, value in raw.headers if name == "hl_tenant"), "")
