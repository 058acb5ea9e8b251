"""The analyst in a replay, whole, in a world of its own: what a shadow and a replay that writes may cause."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.keyring import seal
from infra.unavailable import Unavailable
from llm_gateway.policy import REPLAYS
from llm_gateway.prompt import Answer, Caller, Prompt, QuotaSpent, WaitsForBatch
from processors.analyses.lead_intel import PLUGIN
from processors.analyst import PURPOSE, Analyst, AsInstalled
from processors.replay.prepared import Prepared, Shelf
from processors.replay.results import Guarded
from processors.replay.seams import CountingCodec, Insights, Narrowed, NothingSetAside, OnlyLooks, Patient, Tally
from processors.state import Kept
from schemas.insight import Insight, Usage
from schemas.record import RecordRef
from schemas.topics import INSIGHTS, RECORDS
from tests.processors.world import Log, MemoryAnalystState, World, fingerprint, keys, ref, scorable


@dataclass
class Door:
    """Answers by the offline rules; `spent` as often as it says."""

    spent: int = 0
    callers: list[Caller] = field(default_factory=list)

    async def ask(self, prompt: Prompt[Any], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[Any]:
        self.callers.append(caller)
        if self.spent:
            self.spent -= 1
            raise QuotaSpent("requests per day of this tenant", datetime.now(UTC) + timedelta(hours=3))
        assert prompt.rules is not None
        value = prompt.rules(prompt.facts)
        return Answer(value, "m", "p", Usage(input_tokens=1), cached=False, prompt_version=prompt.version)


class Keys:
    async def for_records(self, refs: Collection[RecordRef]) -> Any:
        return await keys(refs)


@dataclass
class Replaying:
    log: Log = field(default_factory=Log)
    state: Any = None
    door: Door = field(default_factory=Door)
    tally: Tally = field(default_factory=Tally)
    generation: int = 1
    around: Any = None
    publishes: bool = True

    def analyst(self, *, keep_deleted: bool = True) -> Analyst:
        self.state = self.state or MemoryAnalystState(World())
        rules = Narrowed(
            AsInstalled({"lead_intel": PLUGIN}, self.generation), frozenset({"lead_intel"}), around=self.around
        )
        return Analyst(
            codec=CountingCodec(self.log, self.tally, keep_deleted=keep_deleted),
            publisher=Insights(self.tally, self.log if self.publishes else None),
            state=self.state,
            keys=keys,
            fingerprint=fingerprint,
            gateway=Patient(self.door),
            analyses={},
            rulebook=lambda: rules,
            lookalikes=OnlyLooks(None),
            set_aside=NothingSetAside(self.tally),
            epoch=1,
            generation=1,
        )

    def said(self) -> Sequence[Insight]:
        return self.log.of(INSIGHTS)


async def test_a_shadow_keeps_and_publishes_nothing() -> None:
    world = Replaying(publishes=False)
    await world.analyst().handle(world.log.put(RECORDS, scorable(), scorable(ref("8"))))
    assert world.log.topics.keys() == {RECORDS.name}
    assert not world.log.letters
    assert len(world.state.rows) == world.tally.counts["insights"] == 2


async def test_a_replay_asks_on_the_bulk_lane_and_on_nobodys_quota() -> None:
    world = Replaying()
    await world.analyst().handle(world.log.put(RECORDS, scorable(edited_by="userId:7")))
    assert [(caller.lane, caller.user) for caller in world.door.callers] == [("bulk", REPLAYS)]


async def test_a_spent_quota_makes_it_wait_and_sets_nothing_aside() -> None:
    world = Replaying(door=Door(spent=1))
    analyst, raws = world.analyst(), world.log.put(RECORDS, scorable())
    with pytest.raises(Unavailable) as waiting:
        await analyst.handle(raws)
    assert waiting.value.part == "model"
    assert 1 <= (waiting.value.retry_after or 0) <= 60
    await analyst.handle(raws)
    assert len(world.said()) == 1


async def test_an_erased_record_is_counted_and_no_dead_letter() -> None:
    world = Replaying()
    raws = world.log.put(RECORDS, scorable(), scorable(ref("8")))
    world.log.unreadable = {0}
    await world.analyst().handle(raws)
    assert world.tally.counts["erased"] == 1
    assert [each.id for each in world.said()] == ["8"]
    assert not world.log.letters


async def test_a_snapshot_that_was_overtaken_triggers_nobody() -> None:
    world = Replaying()
    analyst = world.analyst()
    await analyst.handle(world.log.put(RECORDS, scorable(when=10)))
    await analyst.handle(world.log.put(RECORDS, scorable(when=0)))
    assert world.log.topics.keys() == {RECORDS.name, INSIGHTS.name}
    assert world.tally.counts["overtaken"] == 1


async def test_the_same_generation_says_nothing_twice_and_a_raised_one_is_newer() -> None:
    """INVARIANT: a replay of the past as it was is a no-op until something was promoted."""
    world = Replaying()
    raws = world.log.put(RECORDS, scorable())
    await world.analyst().handle(raws)
    await world.analyst().handle(raws)
    assert len(world.said()) == 1
    world.generation = 2
    await world.analyst().handle(raws)
    first, second = world.said()
    assert second.version > first.version
    assert second.version[:2] == first.version[:2]


async def test_a_live_insight_that_came_in_between_has_the_last_word() -> None:
    """INVARIANT: the last message of a key on the compacted topic is the newest; else a new destination would see the past."""
    world = Replaying()
    live = MemoryAnalystState(World())
    guarded = Guarded(live, Keys(), world.log)
    world.state = guarded
    await world.analyst().handle(world.log.put(RECORDS, scorable()))
    assert await guarded.settle() == 0
    (ours,) = world.said()
    # A live analyst that began before us keeps a newer one, which lies before ours on the topic.
    newer = ours.model_copy(update={"version": ours.version._replace(offset=9)})
    place = (ours.ref, ours.analysis)
    kept = live.rows[place]
    key = (await keys([ours.ref]))[ours.ref]
    sealed = seal(key, newer.model_dump_json().encode(), purpose=PURPOSE)
    live.rows[place] = replace(kept, version=newer.version, sealed=sealed)
    assert await guarded.settle() == 1
    assert world.said()[-1].version == newer.version
    assert await guarded.settle() == 0
    assert not guarded.wrote


@dataclass
class Rows:
    """`Results`, as far as a shelf asks."""

    rows: dict[RecordRef, dict[str, Kept]]

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        return {each: self.rows[each] for each in refs if each in self.rows}


async def test_a_promoted_result_is_said_where_the_record_reads_the_same_and_asked_where_not() -> None:
    shadow = Replaying(generation=0, publishes=False)
    await shadow.analyst().handle(shadow.log.put(RECORDS, scorable(), scorable(ref("8"))))
    rows: dict[RecordRef, dict[str, Kept]] = {}
    for (record, name), kept in shadow.state.rows.items():
        rows.setdefault(record, {})[name] = kept

    live = Replaying(generation=2)
    results: Any = Rows(rows)
    shelf = Shelf(results, Keys(), fingerprint, live.tally)
    live.around = lambda analysis: Prepared(analysis, shelf)
    raws = live.log.put(RECORDS, scorable(), scorable(ref("8"), when=5, title="CEO"))
    await shelf.fetch([ref(), ref("8")])
    await live.analyst().handle(raws)
    assert live.tally.counts["taken_over"] == 1
    assert len(live.door.callers) == 1
    assert {each.version.generation for each in live.said()} == {2}


@dataclass
class Waits:
    """A door behind which the question waits for a batch, as a backfill's does."""

    async def ask(self, prompt: Prompt[Any], _caller: Caller, *, deadline_seconds: float | None = None) -> Answer[Any]:
        raise WaitsForBatch(prompt.name, datetime.now(UTC) + timedelta(hours=3))


async def test_a_replay_waits_with_what_waits_for_somebody_elses_batch():
    """INVARIANT: a replay has nothing that would bring one record again: it waits as a whole, or the record is left out unseen."""
    world = Replaying(door=Waits())  # type: ignore[arg-type]
    with pytest.raises(Unavailable) as waiting:
        await world.analyst().handle(world.log.put(RECORDS, scorable()))
    assert (waiting.value.part, waiting.value.retry_after) == ("model", 60)
    assert world.tally.counts["overtaken"] == 0
