"""From the topic of insights to one destination: decode, keep what counts, write, and see to what could not be written.

Law: one dispatcher serves one destination with a consumer group of its own, so that a slow or broken one holds nobody up.
It returns only when each insight is written, known to be stale, set aside or a dead letter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from opentelemetry.trace import Span

from infra import metrics
from infra.kafka.codec import Received
from infra.kafka.letters import is_for
from infra.kafka.ports import LaysAside, Opens
from infra.kafka.raw import Raw
from infra.set_aside import Aside, SetAsideStore
from infra.telemetry import continue_trace, is_followed, tracer
from schemas.envelope import Envelope, EnvelopeError
from schemas.insight import Insight
from schemas.topics import INSIGHTS
from sinks.destinations.destination import Destination, Gone, Later, Outcome, Refused, Stale, Unchanged, Written, newest

NAMES: dict[type[Outcome], str] = {
    Written: "written",
    Stale: "stale",
    Unchanged: "unchanged",
    Gone: "gone",
    Refused: "refused",
    Later: "later",
}


class Dispatcher:
    """The handler of one destination's pump."""

    def __init__(self, destination: Destination, codec: Opens, publisher: LaysAside, set_aside: SetAsideStore) -> None:
        self._destination = destination
        self._codec = codec
        self._publisher = publisher
        self._set_aside = set_aside
        self.stage = f"sink:{destination.name}"

    async def handle(self, raws: Sequence[Raw]) -> None:
        """See Pump: returns when every effect is acknowledged; calling it again with the same messages is harmless."""
        mine = [raw for raw in raws if is_for(raw, self._destination.name) and self._concerns(raw)]
        opened, unreadable = await self._codec.open(INSIGHTS, mine)
        for raw, cause, detail in unreadable:
            tenant, account = owner_of(raw)
            await self._publisher.dead_letter(
                raw, stage=self.stage, cause=cause, detail=detail, tenant=tenant, account=account
            )
        wanted = [found for found in opened if self._destination.accepts(found.payload)]
        if not self._destination.keeps_history:
            kept = set(newest([found.payload for found in wanted]).values())
            self._count(Stale, len(wanted) - len(kept))
            wanted = [found for place, found in enumerate(wanted) if place in kept]
        if not wanted:
            return
        began = time.time_ns()
        outcomes = await self._destination.write([found.payload for found in wanted])
        await self._settle(list(zip(wanted, outcomes, strict=True)), began)

    def _concerns(self, raw: Raw) -> bool:
        """False for another CRM's insight, which its header tells: opening it would cost more than all else that is done for it."""
        crm = self._destination.crm
        account = next((value for name, value in raw.headers if name == "hl_account"), None)
        return crm is None or not account or bytes(account).startswith(f"{crm}:".encode())

    async def _settle(self, done: Sequence[tuple[Received[Insight], Outcome]], began: int) -> None:
        aside: dict[tuple[object, str], Aside] = {}
        now = datetime.now(UTC)
        seconds = metrics.END_TO_END_SECONDS.labels(self._destination.name)
        for kind, times in Counter(type(outcome) for _, outcome in done).items():
            self._count(kind, times)
        for received, outcome in done:
            insight = received.payload
            if is_followed(received.envelope.traceparent):
                self._span(received, outcome, began).end()
            if isinstance(outcome, Written) and not insight.retracted:
                seconds.observe(max(0.0, (now - insight.as_of).total_seconds()))
            elif isinstance(outcome, Refused):
                await self._publisher.dead_letter(
                    received.raw,
                    stage=self.stage,
                    cause=outcome.cause,
                    detail=outcome.detail,
                    tenant=insight.tenant,
                    account=insight.account,
                    object=insight.object,
                    record_id=insight.id,
                )
            elif isinstance(outcome, Later):
                metrics.SET_ASIDE.labels(self.stage, outcome.cause).inc()
                aside[insight.ref, outcome.cause] = Aside(insight.ref, self.stage, outcome.cause, outcome.retry_after)
        if aside:
            await self._set_aside.put(list(aside.values()))

    def _span(self, received: Received[Insight], outcome: Outcome, began: int) -> Span:
        """One span an insight, in the trace of the delivery that it came from; ids and names only."""
        insight = received.payload
        return tracer().start_span(
            f"write {self._destination.name}",
            context=continue_trace(received.envelope.traceparent),
            start_time=began,
            attributes={
                "hookline.tenant": insight.tenant,
                "hookline.account": insight.account,
                "hookline.object": insight.object,
                "hookline.id": insight.id,
                "hookline.analysis": insight.analysis,
                "hookline.outcome": NAMES[type(outcome)],
            },
        )

    def _count(self, outcome: type[Outcome], times: int) -> None:
        if times:
            metrics.WRITES.labels(self._destination.name, NAMES[outcome]).inc(times)


def record_of(raw: Raw) -> bytes:
    """The record's part of an insight's key: all insights of a record are handled together, in order."""
    return (raw.key or b"").rpartition(b"/")[0]


def owner_of(raw: Raw) -> tuple[str, str | None]:
    """Tenant and account, as far as the headers say."""
    try:
        envelope = Envelope.from_headers(raw.headers)
    except EnvelopeError:
        return "unknown", None
    return envelope.tenant, envelope.account or None
