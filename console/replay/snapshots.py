"""A replay from `crm.records`: stored snapshots through the analyst, as live, beside it, or only to be estimated.

Law: no CRM is asked. A replay that writes uses the live state and versions; a shadow keeps its results in a table of its
own and publishes nothing; an estimate keeps nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from console.replay.feed import Feed
from console.replay.index import Item
from console.replay.store import Replay
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.raw import Raw
from infra.kafka.topics import epoch
from infra.plugins import load
from infra.role import Parts
from infra.settings import Settings
from llm_gateway.gateway import Gateway
from llm_gateway.policy import REPLAYS
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.routing import chosen
from processors.analyses.analysis import Analysis
from processors.analyst import Analyst, AsInstalled, Asks, Rulebook
from processors.match_store import MatchStore
from processors.ports import Opens
from processors.replay.estimate import Questions
from processors.replay.following import Overtaken, Reread
from processors.replay.gateways import Gateways
from processors.replay.gathering import Gathered, Gathering, Later
from processors.replay.prepared import SHADOW_GENERATION, Prepared, Shelf
from processors.replay.promotions import Promoted, Promotions
from processors.replay.results import Guarded, Results
from processors.replay.seams import CountingCodec, Insights, Narrowed, NothingSetAside, OnlyLooks, Patient, Tally
from processors.state import AnalystState, Kept, PostgresAnalystState
from schemas.record import RecordRef
from schemas.topics import RECORDS

Fetched = Sequence[tuple[Item, Raw | None]]


@dataclass(frozen=True, slots=True)
class Outside:
    """What a replay's analyst is wired with."""

    settings: Settings
    parts: Parts
    gateways: Gateways
    promotions: Promotions
    tally: Tally


def installed(settings: Settings) -> dict[str, Analysis]:
    """The analyses that settings name."""
    return load("processors.analyses", Analysis, settings.analyses)  # type: ignore[type-abstract]  # the protocol is only asked for its members


def candidates(replay: Replay, outside: Outside) -> Mapping[str, Analysis]:
    """The analyses of a shadow: what is live for its tenant, but for the one that is tried. Raises CandidateError."""
    return replay.candidate.analyses(outside.promotions.current().analyses(replay.tenant))


class Snapshots:
    """The work of a replay from snapshots: see `console.replay.runner.Work`."""

    grouped = False

    def __init__(
        self, analyst: Analyst, feed: Feed, tally: Tally, *, guard: Guarded | None, shelf: Shelf | None
    ) -> None:
        self._analyst = analyst
        self._feed = feed
        self._tally = tally
        self._guard = guard
        self._shelf = shelf

    @property
    def wrote(self) -> bool:
        """See Work."""
        return self._guard is not None and self._guard.wrote

    async def fetch(self, items: Sequence[Item]) -> Fetched:
        """See Work."""
        found = await self._feed.fetch(items)
        self._tally("gone_from_topic", len(items) - len(found))
        return found

    async def handle(self, fetched: Fetched) -> None:
        """See Work."""
        with self._tally.unless_it_comes_again():
            if self._shelf is not None:
                await self._shelf.fetch({item.ref for item, _ in fetched})
            await self._analyst.handle([raw for _, raw in fetched if raw is not None])

    async def settle(self) -> None:
        """See Work."""
        if self._guard is not None:
            self._tally("last_word", await self._guard.settle())


class Unkept:
    """AnalystState of an estimate: what is there, and nothing is added."""

    def __init__(self, inner: AnalystState) -> None:
        self._inner = inner

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """See AnalystState."""
        return await self._inner.load(refs)

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """Does nothing."""


async def to_write(replay: Replay, outside: Outside, feed: Feed, publisher: Publisher) -> Snapshots:
    """As live; where it publishes a shadow, its results are said instead of asking again."""
    parts, tally = outside.parts, outside.tally
    guard = Guarded(PostgresAnalystState(parts.engine), parts.keyring, publisher)
    shelf, around = _shelf(replay, outside)
    only = frozenset(replay.filter.analyses)

    def rulebook() -> Rulebook:
        return Narrowed(outside.promotions.current(), only, around=around)

    gateway = Patient(await outside.gateways.open())
    analyst = await _analyst(outside, guard, gateway, rulebook, Insights(tally, publisher), keep_deleted=True)
    return Snapshots(analyst, feed, tally, guard=guard, shelf=shelf)


def _shelf(replay: Replay, outside: Outside) -> tuple[Shelf | None, Callable[[Analysis], Analysis] | None]:
    if not replay.promotes:
        return None, None
    parts = outside.parts
    shelf = Shelf(Results(parts.engine, replay.promotes), parts.keyring, parts.keyring.fingerprint, outside.tally)
    return shelf, partial(_prepared, shelf=shelf)


async def to_shadow(replay: Replay, outside: Outside, feed: Feed) -> Snapshots:
    """Beside the live ones."""
    rules = Narrowed(AsInstalled(candidates(replay, outside), SHADOW_GENERATION), _tried(replay))
    gateway = Patient(await outside.gateways.open(replay.candidate.model))
    state = Results(outside.parts.engine, replay.id)
    analyst = await _analyst(outside, state, gateway, lambda: rules, Insights(outside.tally), keep_deleted=False)
    return Snapshots(analyst, feed, outside.tally, guard=None, shelf=None)


async def to_gather(replay: Replay, outside: Outside, feed: Feed) -> tuple[Snapshots, Gathered]:
    """Nothing but the questions, into a provider's batches."""
    parts, tally = outside.parts, outside.tally
    put = Gathered()

    def gathering(inner: Later) -> Gathering:
        return Gathering(inner, replay.id, put)

    shelf, around = _shelf(replay, outside)
    state: AnalystState
    if replay.mode == "shadow":
        base: Rulebook = AsInstalled(candidates(replay, outside), SHADOW_GENERATION)
        state = Results(parts.engine, replay.id)
    else:
        base = outside.promotions.current()
        state = PostgresAnalystState(parts.engine)
    rules = Narrowed(base, _tried(replay), around=around, own=gathering)
    gateway = gathering(await outside.gateways.open(replay.candidate.model))
    analyst = await _analyst(
        outside, Unkept(state), gateway, lambda: rules, Insights(tally), keep_deleted=replay.mode == "write"
    )
    return Snapshots(analyst, feed, tally, guard=None, shelf=shelf), put


async def to_estimate(
    replay: Replay, outside: Outside, feed: Feed
) -> tuple[Snapshots, Questions, Mapping[str, Analysis]]:
    """Nothing but the questions, and the analyses that put them."""
    parts, tally = outside.parts, outside.tally
    settings = outside.settings
    live = outside.promotions.current()
    usual = await outside.gateways.open(replay.candidate.model)
    # A shadow asks the model that is tried, and no promoted one.
    models_of = _ways(usual, None if replay.mode == "shadow" else live, user=REPLAYS)
    questions = Questions(chosen(settings), models_of, settings.cache_ttl_seconds, tally)
    state: AnalystState
    if replay.mode == "shadow":
        analyses = candidates(replay, outside)
        base: Rulebook = AsInstalled(analyses, SHADOW_GENERATION)
        state = Results(parts.engine, replay.id)
    else:
        analyses = live.analyses(replay.tenant)
        base = live
        state = PostgresAnalystState(parts.engine)
    shelf, around = _shelf(replay, outside)
    rules = Narrowed(base, _tried(replay), door=questions, around=around)
    analyst = await _analyst(
        outside, Unkept(state), questions, lambda: rules, Insights(tally), keep_deleted=replay.mode == "write"
    )
    return Snapshots(analyst, feed, tally, guard=None, shelf=shelf), questions, analyses


@dataclass(frozen=True, slots=True)
class Follower:
    """A live analyst that keeps nothing and asks nobody, and what it would have asked."""

    analyst: Analyst
    questions: Questions
    codec: Reread
    tally: Tally


async def to_follow(outside: Outside, *, changed: bool) -> Follower:
    """What a refresh has the live analyst do with records as they stand; `changed`: as if all that is read had changed, which no
    kept answer fits.
    """
    parts, settings, tally = outside.parts, outside.settings, outside.tally
    live = outside.promotions.current()
    usual = await outside.gateways.open()
    ttl = 0 if changed else settings.cache_ttl_seconds
    questions = Questions(chosen(settings), _ways(usual, live), ttl, tally)
    codec = Reread(CountingCodec(Codec(parts.keyring, "hookline/replay"), tally))
    analyst = await _analyst(
        outside,
        Overtaken(PostgresAnalystState(parts.engine), changed=changed),
        questions,
        lambda: Narrowed(live, frozenset(), door=questions),
        Insights(tally),
        codec=codec,
    )
    return Follower(analyst, questions, codec, tally)


def _ways(
    usual: Gateway, live: Promoted | None, *, user: str | None = None
) -> Callable[[Prompt[Any], Caller], tuple[str, ...]]:
    """The models that a question of the bulk lane goes to, as `user` or as whoever asks."""

    def models_of(prompt: Prompt[Any], caller: Caller) -> tuple[str, ...]:
        speaking = live.speaking(caller.tenant, caller.analysis) if live else None
        asked = replace(caller, lane="bulk", user=caller.user if user is None else user)
        return (speaking.model,) if speaking and speaking.model else usual.models_for(prompt, asked)

    return models_of


def _tried(replay: Replay) -> frozenset[str]:
    """Which analyses run. A shadow of another prompt runs that analysis alone: the others would say what is live."""
    if replay.mode == "shadow" and replay.candidate.analysis:
        return frozenset({replay.candidate.analysis})
    return frozenset(replay.filter.analyses)


def _prepared(analysis: Analysis, shelf: Shelf) -> Analysis:
    return Prepared(analysis, shelf)


async def _analyst(
    outside: Outside,
    state: AnalystState,
    gateway: Asks,
    rulebook: Callable[[], Rulebook],
    publisher: Insights,
    *,
    keep_deleted: bool = True,
    codec: Opens | None = None,
) -> Analyst:
    parts, tally = outside.parts, outside.tally
    return Analyst(
        codec=codec or CountingCodec(Codec(parts.keyring, "hookline/replay"), tally, keep_deleted=keep_deleted),
        publisher=publisher,
        state=state,
        keys=parts.keyring.for_records,
        fingerprint=parts.keyring.fingerprint,
        gateway=gateway,
        analyses={},
        rulebook=rulebook,
        lookalikes=OnlyLooks(MatchStore(parts.engine, parts.keyring)),
        set_aside=NothingSetAside(tally),
        epoch=await epoch(parts.engine, RECORDS),
        generation=outside.settings.generation,
    )
