"""What the analyst is given in a replay instead of the live world: same protocols, other effects.

Law: nothing here decides about an insight. What cannot be opened any more is counted, never laid aside: the live stages
had their say about it. Nothing is set aside and no record is triggered by a replay from snapshots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from infra.kafka.codec import Received
from infra.kafka.raw import Raw
from infra.set_aside import Aside
from llm_gateway.policy import REPLAYS
from llm_gateway.prompt import Answer, Caller, ModelUnavailable, Prompt, QuotaSpent, WaitsForBatch
from processors.analyses.analysis import Analysis
from processors.analyst import Asks, Lookalikes, Rulebook
from processors.matching import Match
from processors.ports import Opens, Publishes
from schemas.dead_letter import Cause
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import INSIGHTS, Topic

T = TypeVar("T", bound=BaseModel)
P = TypeVar("P", bound=BaseModel)

PUBLISHED = frozenset({"insights", "retracted"})
LONGEST_QUOTA_WAIT = 60.0
"""Seconds after which a spent quota is asked about again: it may have been raised."""


@dataclass(slots=True)
class Tally:
    """What a replay has met, by name: `erased`, `unreadable`, `deleted`, `insights`, `refused`, ..."""

    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str, number: int = 1) -> None:
        """Count."""
        if number:
            self.counts[name] += number

    @contextmanager
    def unless_it_comes_again(self) -> Iterator[None]:
        """Take back what was counted of a page that failed and will be tried again. What was published stays: it is known by
        its version then, and not published again.
        """
        before = Counter(self.counts)
        try:
            yield
        except BaseException:
            for name in self.counts.keys() - PUBLISHED:
                self.counts[name] = before[name]
            raise


class CountingCodec:
    """Opens; what cannot be opened is counted and left out."""

    def __init__(self, inner: Opens, tally: Tally, *, keep_deleted: bool = True) -> None:
        self._inner = inner
        self._tally = tally
        self._keep_deleted = keep_deleted

    async def open(
        self, topic: Topic[P], raws: Sequence[Raw]
    ) -> tuple[list[Received[P]], list[tuple[Raw, Cause, str]]]:
        """See Opens."""
        opened, refused = await self._inner.open(topic, raws)
        for _, cause, _detail in refused:
            self._tally("erased" if cause is Cause.UNDECRYPTABLE else "unreadable")
        if self._keep_deleted:
            return opened, []
        kept = [each for each in opened if not getattr(each.payload, "deleted", False)]
        self._tally("deleted", len(opened) - len(kept))
        return kept, []


class Insights:
    """Publishes insights and dead letters through `out`, where there is one, and nothing else ever."""

    def __init__(self, tally: Tally, out: Publishes | None = None) -> None:
        self._tally = tally
        self._out = out

    async def publish(
        self, topic: Topic[P], payloads: Sequence[P], *, traceparents: Sequence[str] | None = None
    ) -> list[tuple[int, int]]:
        """See Publishes. Triggers for another read are not for a replay to give."""
        if topic.name != INSIGHTS.name:
            self._tally("overtaken", len(payloads))
            return [(0, 0)] * len(payloads)
        given: Sequence[Any] = payloads
        places = [(0, 0)] * len(payloads)
        if self._out is not None:
            places = await self._out.publish(topic, payloads, traceparents=traceparents)
        self._tally("retracted", sum(insight.retracted for insight in given))
        self._tally("insights", sum(not insight.retracted for insight in given))
        return places

    async def dead_letter(self, raw: Raw, *, stage: str, cause: Cause, detail: str, tenant: str, **place: Any) -> None:
        """See Publishes."""
        self._tally("refused")
        if self._out is not None:
            await self._out.dead_letter(raw, stage=stage, cause=cause, detail=detail, tenant=tenant, **place)


class NothingSetAside:
    """SetAsideStore: what is set aside stays as the live stages left it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def put(self, rows: Sequence[Aside]) -> None:
        """See SetAsideStore."""
        self._tally("overtaken", len(rows))


class OnlyLooks:
    """Lookalikes: finds duplicates among the records as they stand, and does not put the past among them."""

    def __init__(self, inner: Lookalikes | None) -> None:
        self._inner = inner

    async def upsert(self, snapshots: Sequence[RecordSnapshot]) -> None:
        """Does nothing."""

    async def candidates(self, snapshots: Sequence[RecordSnapshot]) -> Mapping[RecordRef, Sequence[Match]]:
        """See Lookalikes."""
        return await self._inner.candidates(snapshots) if self._inner else {}

    async def remove(self, refs: Collection[RecordRef]) -> None:
        """Does nothing."""


class Patient:
    """Asks on the bulk lane, and on the quota that all replays of a tenant have together: the person who edited the record has
    asked for nothing, and what a replay may spend of the tenant's day leaves the rest to live traffic. A spent quota makes the
    whole replay wait: thousands of records set aside would come back as thousands of reads of the CRM.
    """

    def __init__(self, inner: Asks) -> None:
        self._inner = inner

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:
        """See Asks."""
        try:
            return await self._inner.ask(
                prompt,
                replace(caller, lane="bulk", user=REPLAYS, can_wait="if_there", asker=REPLAYS),
                deadline_seconds=deadline_seconds,
            )
        except QuotaSpent as spent:
            raise later(spent) from spent
        except WaitsForBatch as waits:
            # Somebody else's, a backfill's say: nobody else would bring this record of the replay again.
            raise ModelUnavailable("RATE_LIMITED", str(waits), LONGEST_QUOTA_WAIT) from waits


def later(spent: QuotaSpent) -> ModelUnavailable:
    """A spent quota, for who waits as a whole."""
    left = (spent.resets_at - datetime.now(UTC)).total_seconds()
    return ModelUnavailable("RATE_LIMITED", str(spent), min(max(1.0, left), LONGEST_QUOTA_WAIT))


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A Rulebook of which only some analyses speak, each perhaps asking another door."""

    inner: Rulebook
    only: frozenset[str]
    """Empty: all."""
    door: Asks | None = None
    around: Callable[[Analysis], Analysis] | None = None
    """Put around each of them."""
    own: Callable[[Any], Asks] = Patient
    """Put around a promoted model's door."""

    def analyses(self, tenant: str) -> Mapping[str, Analysis]:
        """See Rulebook."""
        around = self.around or (lambda analysis: analysis)
        found = self.inner.analyses(tenant)
        return {name: around(each) for name, each in found.items() if not self.only or name in self.only}

    def generation(self, tenant: str, analysis: str) -> int:
        """See Rulebook."""
        return self.inner.generation(tenant, analysis)

    def gateway(self, tenant: str, analysis: str) -> Asks | None:
        """See Rulebook."""
        if self.door is not None:
            return self.door
        own = self.inner.gateway(tenant, analysis)
        return self.own(own) if own is not None else None
