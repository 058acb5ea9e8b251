"""The analyst: from a snapshot to the insights that its analyses have on it.

Law: an analysis runs only where what it reads has changed, and nothing that it says leaves before it was held against
the snapshot. Order of effects: insights acknowledged → state kept → asides and dead letters → the pump commits. A crash
anywhere between repeats the batch: what was kept is skipped by its version, the rest is made again, from the gateway's cache.

A change of somebody's is spoken of at once: with a model's words where it has been asked about for long enough or cannot be spoken
of otherwise, and else provisionally (`provisional`), while the question rests. The pump keeps its messages meanwhile and brings
them again with what has come by then; a crash brings them again, too. A record rests once: then it is asked about.

What is finished is published at once, so that a slow answer for one record holds back no other record's insights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Protocol, TypeVar

from opentelemetry.trace import Span, use_span
from pydantic import BaseModel

from infra import metrics
from infra.kafka.attempt import Again
from infra.kafka.codec import COMPRESS_FROM_BYTES, Received
from infra.kafka.giving_way import GivingWay
from infra.kafka.raw import Raw
from infra.kafka.schedule import Key
from infra.keyring import DataKey, Undecryptable, open_sealed, seal
from infra.set_aside import Aside, SetAsideStore
from infra.telemetry import log, traceparent
from infra.unavailable import Unavailable
from llm_gateway.prompt import (
    Answer,
    Caller,
    InputRefused,
    ModelUnavailable,
    OutputInvalid,
    Prompt,
    QuotaSpent,
    WaitsForBatch,
)
from processors.analyses.analysis import Analysis, Ask, Context, Finding
from processors.grounding import ground
from processors.grounding.evidence import Evidence
from processors.hydration import OVERTAKEN, fenced
from processors.matching import Match
from processors.ports import Letter, Opens, Publishes, owner_of, write_letters
from processors.provisional import GENERATION as PROVISIONAL
from processors.provisional import Carries, provisional, rest_of
from processors.reading import Fingerprint, known_of, reading_of
from processors.room import Room
from processors.state import AnalystState, Kept
from processors.tracing import begin
from processors.triggers import stronger
from schemas.dead_letter import Cause
from schemas.insight import Insight, Version
from schemas.record import Reason, RecordRef, RecordSnapshot
from schemas.topics import CHANGES, INSIGHTS, RECORDS

STAGE = "analyst"
SNAPSHOTS_AT_ONCE = 16
FLOCK_SECONDS = 0.002
"""How long a finished record waits for each other of its batch that is under way, at most; one that is alone never waits."""
PURPOSE = "analyst_state.sealed_insight"
SKIPS_UNCHANGED: frozenset[Reason] = frozenset({"webhook", "gap", "backfill", "reconcile", "redrive"})
"""Reasons for which an unchanged input means: nothing to say. The others ask for the insight to be sent again. A redrive asks for
what is missing alone: redriven twice, a record's insights are made once."""

UNANSWERED = b"unanswered"
"""Stands for the input of a question that brought no answer; no hash is as short."""
WAITS: frozenset[Reason] = frozenset({"backfill", "replay"})
"""Reasons for which nobody waits: their questions may go into a provider's batch. An edit of somebody's never does, on whatever
lane it comes."""
WAITS_FOR_BATCH = "WAITS_FOR_BATCH"
MOST_RESTED = 20_000
"""Records that are remembered to have rested; beyond it those that did not come again in time are forgotten."""

_log = log(STAGE)
T = TypeVar("T", bound=BaseModel)


class Asks(Protocol):
    """`llm_gateway.gateway.Gateway`."""

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:
        """May wait for quota and network; raises the errors of `llm_gateway.prompt`; asking twice costs once."""
        ...


class Lookalikes(Protocol):
    """`processors.match_store.MatchStore`: who else a record may be."""

    async def upsert(self, snapshots: Sequence[RecordSnapshot]) -> None:
        """Keep what these records are recognised by. May wait for the database; safe to call again."""
        ...

    async def candidates(self, snapshots: Sequence[RecordSnapshot]) -> Mapping[RecordRef, Sequence[Match]]:
        """Likely duplicates, best first; records without any are absent. May wait for the database; safe to call again."""
        ...

    async def remove(self, refs: Collection[RecordRef]) -> None:
        """Drop records that are gone. May wait for the database; safe to call again."""
        ...


class Rulebook(Protocol):
    """Which analyses speak for a tenant, and in which generation; one that was handed out never changes.

    No method blocks or raises; see `processors.replay.promotions`, where what was promoted comes in.
    """

    def analyses(self, tenant: str) -> Mapping[str, Analysis]:
        """By name."""
        ...

    def generation(self, tenant: str, analysis: str) -> int:
        """Of prompt and model; raised when one is promoted."""
        ...

    def gateway(self, tenant: str, analysis: str) -> Asks | None:
        """The door to a model of its own; None: the one that settings name."""
        ...


@dataclass(frozen=True, slots=True)
class AsInstalled:
    """The rulebook without promotions: what is installed, in the generation that settings name."""

    installed: Mapping[str, Analysis]
    configured: int

    def analyses(self, tenant: str) -> Mapping[str, Analysis]:  # noqa: ARG002 -- the protocol's signature
        """See Rulebook."""
        return self.installed

    def generation(self, tenant: str, analysis: str) -> int:  # noqa: ARG002 -- the protocol's signature
        """See Rulebook."""
        return self.configured

    def gateway(self, tenant: str, analysis: str) -> Asks | None:  # noqa: ARG002 -- the protocol's signature
        """See Rulebook."""
        return None


_Matches = asyncio.Task[Mapping[RecordRef, Sequence[Match]]]
"""Of all records of a batch."""


@dataclass(slots=True)
class _Look:
    """One record of a batch: its newest snapshot, and what the older ones add to it."""

    received: Received[RecordSnapshot]
    reason: Reason
    latest_read: datetime
    news: bool
    """Whether any of them was made because of somebody's edit, not only because a sweep came by."""
    traceparents: list[str]
    lane: Literal["live", "bulk"]
    """The best of theirs."""
    rules: Rulebook = AsInstalled({}, 0)
    """Pinned, so that what is said under a generation was said by it."""
    states: Mapping[str, Kept] = field(default_factory=dict)
    matches: _Matches | None = None
    key: DataKey | None = None
    evidence: Evidence | None = None
    """Of its snapshot, worked out once for all analyses."""
    older: list[Received[RecordSnapshot]] = field(default_factory=list)
    """Its earlier snapshots of the same batch."""
    rests: bool = False
    """Whether questions about it may wait."""

    @property
    def snapshot(self) -> RecordSnapshot:
        return self.received.payload

    def ready(self) -> Evidence:
        if self.evidence is None:
            self.evidence = Evidence(self.snapshot)
        return self.evidence


@dataclass(slots=True)
class _Outcome:
    """What is to be done for one record."""

    look: _Look
    insights: list[tuple[Insight, bytes | None]] = field(default_factory=list)
    """With the hash of what each was made from; None for a provisional one, which is not kept."""
    asides: list[Aside] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    unanswered: list[tuple[str, Kept]] = field(default_factory=list)
    """What is kept of analyses whose question brought no answer after a provisional word: nothing that an input could equal."""
    errors: list[BaseException] = field(default_factory=list)
    overtaken: bool = False
    resting: bool = False
    """A question about it waits."""
    span: Span | None = None


class Analyst:
    """One per process. `handle` may run any number of times at once, on disjoint records."""

    def __init__(
        self,
        *,
        codec: Opens,
        publisher: Publishes,
        state: AnalystState,
        keys: Callable[[Collection[RecordRef]], Awaitable[Mapping[RecordRef, DataKey]]],
        fingerprint: Fingerprint,
        gateway: Asks,
        analyses: Mapping[str, Analysis],
        lookalikes: Lookalikes,
        set_aside: SetAsideStore,
        epoch: int,
        generation: int,
        rulebook: Callable[[], Rulebook] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rest_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        way: GivingWay | None = None,
        withdraw: Callable[[Collection[RecordRef]], Awaitable[None]] | None = None,
    ) -> None:
        """`keys` and `fingerprint` are the keyring's; `epoch` is that of `crm.records`. `rulebook()` is asked once a batch;
        without it `analyses` speak in `generation`. `rest_seconds`: how long a question about somebody's change may wait. `way`:
        what bulk work gives way by; somebody else runs it. `withdraw`: told of records that are gone, whose questions need not wait
        any more.
        """
        self._codec = codec
        self._publisher = publisher
        self._state = state
        self._keys = keys
        self._fingerprint = fingerprint
        self._gateway = gateway
        installed = AsInstalled(analyses, generation)
        self._rulebook: Callable[[], Rulebook] = rulebook or (lambda: installed)
        self._lookalikes = lookalikes
        self._set_aside = set_aside
        self._epoch = epoch
        self._now = now
        self._rest_seconds = rest_seconds
        self._clock = clock
        self._rested: dict[RecordRef, float] = {}
        self._withdraw = withdraw or _nobody
        self._way = way or GivingWay()
        self._room = Room(
            SNAPSHOTS_AT_ONCE, bulk_share=lambda: self._way.share, share_of_one=lambda: self._way.share_of_one
        )

    async def handle(self, raws: Sequence[Raw]) -> Again:
        """Return when all that these snapshots cause is acknowledged, with what is to come again, because questions about it
        rest. Raises Unavailable when nobody can go on now.
        """
        received, refused = await self._codec.open(RECORDS, raws)
        letters = [Letter(raw, cause, detail, *owner_of(raw)) for raw, cause, detail in refused]
        looks = _newest(received)
        if live := {ref.tenant for ref, look in looks.items() if look.lane == "live"}:
            self._way.saw_live(live)
        if any(look.lane != "live" for look in looks.values()):
            self._way.saw_bulk()
        alive = [look.snapshot for look in looks.values() if not look.snapshot.deleted]
        # Beside everything else: whoever wants likely duplicates waits for them, and nobody else does.
        matches = asyncio.create_task(self._matches(alive))
        try:
            await self._prepare(looks, matches)
            outcomes = await self._work(looks.values())
            await matches
        finally:
            matches.cancel()
            await asyncio.gather(matches, return_exceptions=True)
        gone = [each.look.snapshot.ref for each in outcomes if each.look.snapshot.deleted and not each.overtaken]
        if gone:
            await self._lookalikes.remove(gone)
            await self._withdraw(gone)
        await self._set_aside.put([aside for outcome in outcomes for aside in outcome.asides])
        errors = [error for outcome in outcomes for error in outcome.errors]
        if errors:
            # The batch comes again, without what is kept by now; whatever is laid aside for good is so then.
            raise next((error for error in errors if not isinstance(error, Unavailable)), errors[0])
        letters.extend(letter for outcome in outcomes for letter in outcome.letters)
        await write_letters(self._publisher, STAGE, letters)
        return self._rests(outcomes)

    def _rests(self, outcomes: Iterable[_Outcome]) -> dict[Key, float]:
        """Message key → seconds to rest; remembers whose turn it is when they come again."""
        again: dict[Key, float] = {}
        now = self._clock()
        for outcome in outcomes:
            received = outcome.look.received
            if outcome.resting and received.raw.key is not None:
                seconds = rest_of(received.payload.tenant, now, self._rest_seconds)
                again[received.raw.key] = seconds
                self._rested[received.payload.ref] = now + seconds
            else:
                self._rested.pop(received.payload.ref, None)
        if len(self._rested) > MOST_RESTED:
            late = now - self._rest_seconds
            self._rested = {ref: until for ref, until in self._rested.items() if until > late}
        return again

    async def _prepare(self, looks: Mapping[RecordRef, _Look], matches: _Matches) -> None:
        """All that is known of these records: one round trip. Their keys are at hand, for one of them has just opened the message."""
        keys = await self._keys(looks)
        states = await self._state.load(looks)
        rules = self._rulebook()
        for ref, look in looks.items():
            look.rules = rules
            look.states = states.get(ref, {})
            look.matches = matches
            look.key = keys[ref]
            look.rests = (
                self._rest_seconds > 0
                and look.reason == "webhook"
                and ref not in self._rested
                and look.received.raw.key is not None
            )

    async def _matches(self, alive: Sequence[RecordSnapshot]) -> Mapping[RecordRef, Sequence[Match]]:
        if not alive:
            return {}
        # First in, then looked for: two new records of one batch may be each other's duplicates.
        await self._lookalikes.upsert(alive)
        return await self._lookalikes.candidates(alive)

    async def _work(self, looks: Iterable[_Look]) -> list[_Outcome]:
        """Run what is to be run; publish and keep whatever has finished while the rest goes on."""
        began = time.time_ns()
        outcomes = []
        ready: list[_Outcome] = []
        wanted: list[_Look] = []
        for look in looks:
            outcome = self._settled(look)
            if outcome is not None:
                ready.append(outcome)
            else:
                wanted.append(look)
        if len(wanted) == 1 and not ready:
            # Nobody else's answer comes first: no task of its own, which would wait for its turn twice.
            ready.append(await self._analyse(wanted.pop(), began))
        pending = {asyncio.create_task(self._analyse(look, began)) for look in wanted}
        try:
            while ready or pending:
                if not ready:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    if pending:
                        # Answers come in flocks; each delivery is an acknowledgement of Kafka's and a commit of Postgres'.
                        more, pending = await asyncio.wait(pending, timeout=FLOCK_SECONDS * len(pending))
                        done |= more
                    ready = [task.result() for task in done]
                await self._deliver(ready, began)
                outcomes.extend(ready)
                ready = []
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return outcomes

    def _settled(self, look: _Look) -> _Outcome | None:
        """What needs no analysis: a late redelivery, an overtaken snapshot, a record that is gone. None for all others."""
        last = max(look.states.values(), key=lambda kept: kept.version, default=None)
        if last is not None and (self._epoch, look.received.offset) < last.version[:2]:
            return _Outcome(look)
        # Its read came earlier, its snapshot later: an owner wrote it who did not know that he was none any more. What people
        # see last must be made from the freshest read, so the record is read again.
        read_before = max(look.latest_read, last.read_at) if last else look.latest_read
        if look.snapshot.read_at < read_before:
            if look.snapshot.reason == "fenced":
                return _Outcome(look, asides=[Aside(look.snapshot.ref, STAGE, OVERTAKEN)])
            return _Outcome(look, overtaken=True)
        return self._retract(look) if look.snapshot.deleted else None

    # One record

    async def _analyse(self, look: _Look, began: int) -> _Outcome:
        outcome = _Outcome(look)
        wanted: list[tuple[Analysis, bytes]] = []
        for analysis in look.rules.analyses(look.snapshot.tenant).values():
            if look.snapshot.object not in analysis.objects or self._is_known(look, analysis.name):
                continue
            read = self._input(look, analysis)
            kept = look.states.get(analysis.name)
            if kept is None or kept.input != read:
                wanted.append((analysis, read))
            elif look.reason in SKIPS_UNCHANGED and not self._may_have_said_else(look, kept, analysis):
                metrics.INSIGHTS.labels(analysis.name, "unchanged").inc()
            elif (again := self._again(look, kept)) is not None:
                outcome.insights.append((again, read))
            else:
                wanted.append((analysis, read))
        if wanted:
            async with self._room.of(look.snapshot.tenant, bulk=look.lane == "bulk"):
                outcome.span = begin("analyse", look.traceparents, look.snapshot.ref, began)
                with use_span(outcome.span):
                    await self._run(outcome, wanted)
        elif not outcome.insights and look.news:
            self._carry_on(outcome)
        return outcome

    async def _run(self, outcome: _Outcome, wanted: Sequence[tuple[Analysis, bytes]]) -> None:
        look = outcome.look
        asked = (self._ask(look, analysis, read) for analysis, read in wanted)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for (analysis, read), answer in zip(wanted, answers, strict=True):
            if not isinstance(answer, BaseException):
                insight, final = answer
                outcome.insights.append((insight, read if final else None))
                outcome.resting |= not final
            else:
                self._failed(outcome, analysis.name, answer)

    async def _ask(self, look: _Look, analysis: Analysis, read: bytes) -> tuple[Insight, bool]:
        """What it says, and whether that is its last word on this snapshot."""
        began = time.perf_counter()
        snapshot = look.snapshot
        kept = look.states.get(analysis.name)
        last = self._open(look, kept) if kept else None
        previous = last if last and not last.retracted else None
        matches: Sequence[Match] = ()
        if analysis.wants_matches and look.matches is not None:
            # Shielded: others of the batch wait for the same answer.
            matches = (await asyncio.shield(look.matches)).get(snapshot.ref, ())
        known = known_of(analysis.pieces(snapshot), read, kept.input) if kept and previous else frozenset()
        context = Context(
            snapshot=snapshot,
            previous=previous,
            # A question about some pieces is another one than that about all of them.
            ask=self._door(look, analysis.name, b"\0".join((read, *sorted(name.encode() for name in known)))),
            matches=matches,
            today=self._now().date(),
            known=known,
        )
        final = True
        if look.rests and isinstance(analysis, Carries):
            finding, final = await provisional(analysis, context)
        else:
            finding = await analysis.analyse(context)
        insight = self._insight(look, analysis.name, finding, previous, final=final)
        metrics.INSIGHT_SECONDS.labels(analysis.name).observe(time.perf_counter() - began)
        return insight, final

    def _insight(
        self, look: _Look, name: str, finding: Finding, previous: Insight | None, *, final: bool = True
    ) -> Insight:
        snapshot = look.snapshot
        grounded = ground(finding.payload, snapshot, previous=previous, evidence=look.ready())
        # What a provisional finding carries on is not claimed anew: that some of it no longer holds is nobody's fault.
        dropped = finding.dropped_claims + len(grounded.dropped) if final else 0
        if dropped:
            metrics.CLAIMS_DROPPED.labels(name).inc(dropped)
        thin = getattr(grounded.payload, "status", "") == "not_enough_data"
        metrics.INSIGHTS.labels(name, "provisional" if not final else "not_enough_data" if thin else "published").inc()
        version = self._version(look, name)
        return Insight(
            tenant=snapshot.tenant,
            account=snapshot.account,
            object=snapshot.object,
            id=snapshot.id,
            crm=snapshot.crm,
            analysis=name,
            version=version if final else version._replace(generation=PROVISIONAL),
            as_of=snapshot.modified_at,
            analyzed_at=self._now(),
            model=finding.model,
            prompt_version=finding.prompt_version,
            payload=grounded.payload,
            dropped_claims=dropped,
            usage=finding.usage,
        )

    def _door(self, look: _Look, name: str, read: bytes) -> Ask:
        snapshot = look.snapshot
        assert look.key is not None
        caller = Caller(
            tenant=snapshot.tenant,
            account=snapshot.account,
            user=snapshot.edited_by or snapshot.owner or "",
            analysis=name,
            key=look.key,
            lane=look.lane if look.reason == "webhook" else "bulk",
            can_wait="yes" if look.reason in WAITS else "no" if look.reason == "webhook" else "if_there",
            reads=read,
        )

        gateway = look.rules.gateway(snapshot.tenant, name) or self._gateway

        def ask(prompt: Prompt[T], /) -> Awaitable[Answer[T]]:
            # What talks to a machine stands in a prompt of its own, where it can steer nobody else's answer.
            return gateway.ask(replace(prompt, alone=lambda: look.ready().tainted), caller)

        return ask

    def _failed(self, outcome: _Outcome, name: str, error: BaseException) -> None:
        look = outcome.look
        ref = look.snapshot.ref
        kept = look.states.get(name)
        if kept is not None and ref in self._rested and isinstance(error, QuotaSpent | OutputInvalid | InputRefused):
            # The provisional word stands now. Were what the last answer was made from to come back, it must be said again.
            version = self._version(look, name)._replace(generation=PROVISIONAL)
            outcome.unanswered.append((name, Kept(UNANSWERED, look.snapshot.read_at, version, kept.sealed)))
        if isinstance(error, QuotaSpent):
            outcome.asides.append(Aside.until(ref, STAGE, "QUOTA_SPENT", error.resets_at))
            metrics.SET_ASIDE.labels(STAGE, "QUOTA_SPENT").inc()
            metrics.INSIGHTS.labels(name, "set_aside").inc()
        elif isinstance(error, WaitsForBatch):
            outcome.asides.append(Aside.until(ref, STAGE, WAITS_FOR_BATCH, error.due_at, counts=False))
            metrics.INSIGHTS.labels(name, "waits").inc()
        elif isinstance(error, OutputInvalid | InputRefused):
            cause = Cause.MODEL_OUTPUT_INVALID if isinstance(error, OutputInvalid) else Cause.MODEL_REFUSED
            outcome.letters.append(Letter(look.received.raw, cause, f"{name}: {error}", ref.tenant, ref))
            metrics.INSIGHTS.labels(name, "refused").inc()
        elif isinstance(error, ModelUnavailable):
            outcome.errors.append(Unavailable("model", error.retry_after, error.cause))
        else:
            outcome.errors.append(error)

    def _carry_on(self, outcome: _Outcome) -> None:
        """Nothing to say about an edit that left everything as it was, and yet the insights are as new as it: one says so.

        People, and we, judge by `as_of` whether the newest edit has been looked at.
        """
        look = outcome.look
        kept = [(state, found) for state in look.states.values() if (found := self._open(look, state)) is not None]
        alive = [(state, found) for state, found in kept if not found.retracted]
        if any(self._is_known(look, name) for name in look.states) or not alive:
            return
        if look.snapshot.modified_at > max(found.as_of for _, found in alive):
            state, found = min(alive, key=lambda each: len(each[0].sealed))
            outcome.insights.append((self._renewed(look, found), state.input))

    def _retract(self, look: _Look) -> _Outcome:
        """Take back what is known to be out, and what may be: a crash may have come between publishing and keeping."""
        outcome = _Outcome(look)
        snapshot = look.snapshot
        analyses = look.rules.analyses(snapshot.tenant).values()
        applying = {each.name for each in analyses if snapshot.object in each.objects}
        for name in sorted(applying | look.states.keys()):
            kept = look.states.get(name)
            already = kept is not None and not kept.input and look.reason in SKIPS_UNCHANGED
            if (already and all(each.payload.deleted for each in look.older)) or self._is_known(look, name):
                continue
            metrics.INSIGHTS.labels(name, "retracted").inc()
            retracted = Insight(
                tenant=snapshot.tenant,
                account=snapshot.account,
                object=snapshot.object,
                id=snapshot.id,
                crm=snapshot.crm,
                analysis=name,
                version=self._version(look, name),
                as_of=snapshot.modified_at,
                analyzed_at=self._now(),
                model="rules",
                retracted=True,
            )
            outcome.insights.append((retracted, b""))
        return outcome

    # Versions and what was said before

    def _version(self, look: _Look, name: str) -> Version:
        return Version(self._epoch, look.received.offset, look.rules.generation(look.snapshot.tenant, name))

    def _is_known(self, look: _Look, name: str) -> bool:
        """Whether this snapshot, or a later one, is behind what was published already."""
        kept = look.states.get(name)
        return kept is not None and kept.version >= self._version(look, name)

    def _may_have_said_else(self, look: _Look, kept: Kept, analysis: Analysis) -> bool:
        """Whether an earlier snapshot of this batch differs from what is kept, although the newest does not.

        It may have been published before a crash that came ahead of the keeping, and would be the last word then: what is
        kept is said once more.
        """
        return any(
            (self._epoch, each.offset) > kept.version[:2]
            and (each.payload.deleted or self._input(look, analysis, each.payload) != kept.input)
            for each in look.older
        )

    def _input(self, look: _Look, analysis: Analysis, snapshot: RecordSnapshot | None = None) -> bytes:
        snapshot = snapshot or look.snapshot
        generation = look.rules.generation(snapshot.tenant, analysis.name)
        return reading_of(analysis, snapshot, generation, self._fingerprint)

    def _open(self, look: _Look, kept: Kept) -> Insight | None:
        """The insight, or None when its key was destroyed meanwhile."""
        assert look.key is not None
        try:
            return Insight.model_validate_json(open_sealed(look.key, kept.sealed, purpose=PURPOSE))
        except Undecryptable:
            return None

    def _again(self, look: _Look, kept: Kept) -> Insight | None:
        found = self._open(look, kept)
        return self._renewed(look, found) if found else None

    def _renewed(self, look: _Look, found: Insight) -> Insight:
        """The same insight, as of now: no model is asked."""
        metrics.INSIGHTS.labels(found.analysis, "published").inc()
        return found.model_copy(
            update={"version": self._version(look, found.analysis), "as_of": look.snapshot.modified_at}
        )

    # Effects

    async def _unerased(self, outcomes: Sequence[_Outcome]) -> None:
        """Leave out what was made from a snapshot whose key was destroyed meanwhile: it may speak of somebody who was erased.

        Sealed under the record's next key it could be read for good. The record is read again by whoever destroyed the key.
        """
        said = [outcome for outcome in outcomes if outcome.insights or outcome.unanswered]
        if not said:
            return
        keys = await self._keys({outcome.look.snapshot.ref for outcome in said})
        for outcome in said:
            look = outcome.look
            now = keys[look.snapshot.ref].id
            if look.key is not None and look.key.id == now and look.received.envelope.key_id in {"", now}:
                continue
            _log.info("insights_left_out", tenant=look.snapshot.tenant, why="the snapshot's key was destroyed")
            outcome.insights.clear()
            outcome.unanswered.clear()

    async def _deliver(self, outcomes: Sequence[_Outcome], began: int) -> None:
        await self._unerased(outcomes)
        insights: list[Insight] = []
        traces: list[str] = []
        kept: dict[tuple[RecordRef, str], Kept] = {
            (outcome.look.snapshot.ref, name): row for outcome in outcomes for name, row in outcome.unanswered
        }
        again: list[RecordSnapshot] = []
        for outcome in outcomes:
            look = outcome.look
            assert look.key is not None
            if outcome.overtaken:
                again.append(look.snapshot)
            if outcome.insights and outcome.span is None:
                outcome.span = begin("analyse", look.traceparents, look.snapshot.ref, began)
            span = outcome.span
            if span is None:
                continue
            span.end()
            for insight, read in outcome.insights:
                insights.append(insight)
                traces.append(traceparent(span))
                if read is None:
                    continue
                plaintext = insight.__pydantic_serializer__.to_json(insight)
                compress = len(plaintext) >= COMPRESS_FROM_BYTES
                sealed = seal(look.key, plaintext, purpose=PURPOSE, compress=compress)
                kept[insight.ref, insight.analysis] = Kept(read, look.snapshot.read_at, insight.version, sealed)
        if insights:
            await self._publisher.publish(INSIGHTS, insights, traceparents=traces)
        if kept:
            await self._state.save(kept)
        if again:
            _log.warning("fenced", records=len(again))
            await self._publisher.publish(CHANGES, [fenced(snapshot) for snapshot in again])


async def _nobody(refs: Collection[RecordRef]) -> None:
    """Nothing waits anywhere."""


def _newest(received: Iterable[Received[RecordSnapshot]]) -> dict[RecordRef, _Look]:
    """The newest snapshot of each record; why the older ones were made still counts."""
    looks: dict[RecordRef, _Look] = {}
    for each in received:
        snapshot = each.payload
        look = looks.get(snapshot.ref)
        if look is None:
            looks[snapshot.ref] = _Look(
                each, snapshot.reason, snapshot.read_at, _is_news(snapshot), [each.envelope.traceparent], snapshot.lane
            )
            continue
        look.traceparents.append(each.envelope.traceparent)
        look.reason = stronger(snapshot.reason, look.reason)
        look.latest_read = max(look.latest_read, snapshot.read_at)
        look.news = look.news or _is_news(snapshot)
        look.lane = "live" if snapshot.lane == "live" else look.lane
        older = min(each, look.received, key=lambda one: one.offset)
        look.received = max(each, look.received, key=lambda one: one.offset)
        look.older.append(older)
    for look in looks.values():
        if look.older:
            look.received = replace(look.received, payload=_with_all_changed(look))
    return looks


def _with_all_changed(look: _Look) -> RecordSnapshot:
    """The newest snapshot, naming what any of them changed."""
    snapshots = (each.payload for each in sorted((*look.older, look.received), key=lambda one: one.offset))
    names = dict.fromkeys(name for snapshot in snapshots for name in snapshot.changed)
    return look.snapshot.model_copy(update={"changed": tuple(names)})


def _is_news(snapshot: RecordSnapshot) -> bool:
    return snapshot.reason == "webhook" or bool(snapshot.changed)
