"""Hydrator and analyst together, killed between any two of their effects, doubled, and fed late: what holds nevertheless.

The state machine is a CRM that people edit, a Kafka of lists, and consumers that die anywhere and start again from the last
commit. In the end everything is delivered, and the last word on each record must be the CRM's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infra.crm.client import AccountUnavailable, Gone, Read
from infra.set_aside import Aside, Due
from infra.unavailable import Unavailable
from llm_gateway.prompt import ModelUnavailable, QuotaSpent
from processors.analyst import Analyst
from processors.hydrator import Hydrator
from processors.set_aside_emitter import trigger
from schemas.insight import Insight
from schemas.record import RecordRef
from schemas.topics import CHANGES, CHANGES_BULK, INSIGHTS, RECORDS, Topic
from tests.processors.test_analyst import CarryingAnalysis, FakeAnalysis, FakeGateway, FakeLookalikes
from tests.processors.world import (
    Crash,
    Directory,
    FakeCrm,
    Log,
    MemoryAnalystState,
    MemoryHydratorState,
    MemorySetAside,
    World,
    account,
    at,
    change,
    fingerprint,
    keys,
    read,
    ref,
)

RECORD_IDS = ("1", "2")
TITLES = ("CFO", "CEO")


class Pipeline(RuleBasedStateMachine):
    """The world, the two stages, and what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.log = Log(self.world)
        self.crm = FakeCrm()
        self.directory = Directory({"hubspot:1": account()})
        self.hydrator_state = MemoryHydratorState(self.world)
        self.analyst_state = MemoryAnalystState(self.world)
        self.aside = MemorySetAside(self.world)
        self.lookalikes = FakeLookalikes()
        self.gateway = FakeGateway()
        self.committed = {CHANGES.name: 0, CHANGES_BULK.name: 0, RECORDS.name: 0}
        self.zombies: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self.hydrator = self.new_hydrator()
        self.analyst = self.new_analyst()

    def teardown(self) -> None:
        for task, _ in self.zombies:
            task.cancel()
        if self.zombies:
            self.loop.run_until_complete(asyncio.wait({task for task, _ in self.zombies}))
        self.loop.close()

    def new_hydrator(self) -> Hydrator:
        return Hydrator(
            codec=self.log,
            publisher=self.log,
            state=self.hydrator_state,
            clients={"hubspot": self.crm},
            accounts=self.directory,
            set_aside=self.aside,
            fingerprint=fingerprint,
            disconnect=self.directory.disconnect,
        )

    def new_analyst(self) -> Analyst:
        return Analyst(
            codec=self.log,
            publisher=self.log,
            state=self.analyst_state,
            keys=keys,
            fingerprint=fingerprint,
            gateway=self.gateway,
            analyses={
                "data_quality": FakeAnalysis("data_quality"),
                "lead_intel": CarryingAnalysis("lead_intel", reads="jobtitle", asks=True),
            },
            lookalikes=self.lookalikes,
            set_aside=self.aside,
            epoch=1,
            generation=1,
            rest_seconds=45.0,
        )

    # What people do

    @rule(which=strategies.sampled_from(RECORD_IDS), title=strategies.sampled_from(TITLES))
    def edit(self, which: str, title: str) -> None:
        """Sometimes with the value that was there before: it is an edit all the same."""
        when = self._now()
        self.crm.save(ref(which), read(when, jobtitle=title, city="Oslo"))
        self.log.put(CHANGES, change(ref(which), when))

    @rule(which=strategies.sampled_from(RECORD_IDS), title=strategies.sampled_from(TITLES))
    def edit_and_look(self, which: str, title: str) -> None:
        self.edit(which, title)
        self.let_it_run()

    @rule(which=strategies.sampled_from(RECORD_IDS))
    def delete(self, which: str) -> None:
        self.crm.delete(ref(which))
        self.log.put(CHANGES, change(ref(which), self._now(), kind="deleted", properties=()))

    @precondition(lambda self: self.log.of(CHANGES))
    @rule(data=strategies.data())
    def deliver_again(self, data: strategies.DataObject) -> None:
        """A webhook repeated, late."""
        self.log.put(CHANGES, data.draw(strategies.sampled_from(self.log.of(CHANGES))))

    @rule(which=strategies.sampled_from(RECORD_IDS), reason=strategies.sampled_from(("replay", "backfill", "redrive")))
    def replay(self, which: str, reason: str) -> None:
        self.log.put(CHANGES_BULK, change(ref(which), self._now(), properties=(), reason=reason))

    # What goes wrong

    @rule(after=strategies.integers(0, 8))
    def die_soon(self, after: int) -> None:
        self.world.crash_at = self.world.effects + after

    @rule()
    def revoke(self) -> None:
        self.crm.raises["hubspot:1"] = AccountUnavailable("hubspot:1", "QUOTA_SPENT")

    @rule()
    def connect(self) -> None:
        self.crm.raises.clear()

    @rule(away=strategies.sampled_from([None, ModelUnavailable("TIMEOUT", "x"), QuotaSpent("user", at(1e6))]))
    def model(self, away: Exception | None) -> None:
        self.gateway.raises = away

    # What runs

    @rule(topic=strategies.sampled_from((CHANGES, CHANGES_BULK)), size=strategies.integers(1, 6))
    def hydrate(self, topic: Topic[Any], size: int) -> None:
        self._consume(topic, size)

    @rule(size=strategies.integers(1, 6))
    def analyse(self, size: int) -> None:
        self._consume(RECORDS, size)

    @rule()
    def let_it_run(self) -> None:
        """A batch of everything."""
        for topic in (CHANGES, CHANGES_BULK, RECORDS):
            self._consume(topic, 10)

    @precondition(lambda self: self.committed[CHANGES.name] < len(self.log.of(CHANGES)))
    @rule(size=strategies.integers(1, 3))
    def hang(self, size: int) -> None:
        """A member reads the CRM, and hangs: the group gives its messages to another."""
        start = self.committed[CHANGES.name]
        raws = self.log.raws(CHANGES, start, start + size)
        self.world.crash_at = None  # it lives, only too long
        wake, has_read = asyncio.Event(), asyncio.Event()
        zombie = self.new_hydrator()
        crm = self.crm

        class Slow(FakeCrm):
            async def read(self, account: Any, object: str, ids: Any) -> dict[str, Any]:  # noqa: A002 - the protocol's word
                try:
                    return await crm.read(account, object, ids)
                finally:
                    has_read.set()
                    await wake.wait()

        zombie._clients = {"hubspot": Slow()}

        async def start_it() -> None:
            task = self.loop.create_task(zombie.handle(CHANGES, raws))
            reading = self.loop.create_task(has_read.wait())
            await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            self.zombies.append((task, wake))

        self.loop.run_until_complete(start_it())

    @precondition(lambda self: self.zombies)
    @rule(dies_after=strategies.none() | strategies.integers(0, 3))
    def wake(self, dies_after: int | None = None) -> None:
        """It goes on, publishes what it read long ago, and may die at any of its effects; its commit is refused."""
        task, wake = self.zombies.pop(0)
        if dies_after is not None:
            self.world.crash_at = self.world.effects + dies_after
        wake.set()
        # Whatever it meets: nobody commits for it.
        with contextlib.suppress(Crash, Exception):
            self.loop.run_until_complete(task)

    # What must hold

    @invariant()
    def one_version_says_one_thing(self) -> None:
        """Destinations keep the highest version and ignore it when it comes again: so it must not come with other words."""
        seen: dict[tuple[RecordRef, str, Any], Any] = {}
        for insight in self.log.of(INSIGHTS):
            said = (insight.as_of, insight.retracted, insight.payload)
            assert seen.setdefault((insight.ref, insight.analysis, insight.version), said) == said

    def check_everything_arrives(self) -> None:
        """Let all troubles end, deliver what is owed, and hold the last word on each record against the CRM."""
        while self.zombies:
            self.wake()
        self.world.crash_at = None
        self.crm.raises.clear()
        self.gateway.raises = None
        for _ in range(30):
            self._emit()
            for topic in (CHANGES, CHANGES_BULK, RECORDS):
                while self.committed[topic.name] < len(self.log.of(topic)):
                    self._consume(topic, 5)
            if not self.aside.rows and all(
                self.committed[topic.name] == len(self.log.of(topic)) for topic in (CHANGES, CHANGES_BULK, RECORDS)
            ):
                break
        else:
            raise AssertionError(f"never comes to rest: {self.aside.rows}")
        for which in RECORD_IDS:
            self._check(ref(which))

    def _check(self, record: RecordRef) -> None:
        snapshots = [each for each in self.log.of(RECORDS) if each.ref == record]
        there = self.crm.records.get(("hubspot:1", "contact", record.id), Gone())
        if not any(each.ref == record for each in self.log.of(CHANGES)):
            return
        if isinstance(there, Gone):
            if snapshots:
                assert snapshots[-1].deleted, "the CRM has it no more, and our last word is that it lives"
        else:
            assert isinstance(there, Read)
            assert not snapshots[-1].deleted
            assert snapshots[-1].fields == there.fields, "the last snapshot is not what the CRM says"
        latest: dict[str, Insight] = {each.analysis: each for each in self.log.of(INSIGHTS) if each.ref == record}
        if not snapshots:
            return
        assert set(latest) == {"data_quality", "lead_intel"}, "an insight was lost"
        for last in latest.values():
            # A crash may leave an older one behind the newest on the topic, which compaction keeps: it must say the same.
            newest = max(
                (each for each in self.log.of(INSIGHTS) if (each.ref, each.analysis) == (record, last.analysis)),
                key=lambda each: each.version,
            )
            assert (last.payload, last.retracted) == (newest.payload, newest.retracted)
        if isinstance(there, Read):
            assert not any(each.retracted for each in latest.values())
            assert all(each.version.generation for each in latest.values()), "the last word is a provisional one"
            # By content, not by time: an edit that changed nothing may look unnoticed after a crash.
            offsets = {
                name: max(
                    each.version for each in self.log.of(INSIGHTS) if (each.ref, each.analysis) == (record, name)
                ).offset
                for name in latest
            }
            told = {name: self.log.of(RECORDS)[offset].fields for name, offset in offsets.items()}
            assert told["data_quality"] == there.fields, "what people read was made from another state of the record"
            assert told["lead_intel"].get("jobtitle") == there.fields.get("jobtitle")
        else:
            assert all(each.retracted for each in latest.values()), "insights on a record that is gone"

    # Inside

    def _now(self) -> float:
        self.world.step(1)
        return (self.world.now - at(0)).total_seconds()

    def _consume(self, topic: Topic[Any], size: int) -> None:
        """One batch, and its commit, unless the process dies or somebody is away: then a new one starts from the last commit."""
        start = self.committed[topic.name]
        raws = self.log.raws(topic, start, start + size)
        if not raws:
            return
        work = self.analyst.handle(raws) if topic is RECORDS else self.hydrator.handle(topic, raws)
        again: Any = None
        try:
            again = self.loop.run_until_complete(work)
        except Crash:
            self.hydrator, self.analyst = self.new_hydrator(), self.new_analyst()
        except Unavailable:
            pass
        else:
            # What is to come again holds back the commit of all that follows.
            done = next((place for place, raw in enumerate(raws) if raw.key in (again or {})), len(raws))
            self.committed[topic.name] = start + done

    def _emit(self) -> None:
        # Long after: what was fresh then is no more.
        self.world.step(600)
        rows: list[Aside] = list(self.aside.rows.values())
        for row in rows:
            due = Due(row.ref, row.stage, row.cause, 1, at(0), at(0))
            self.log.put(CHANGES_BULK, trigger(due))
        self.aside.rows.clear()


class Whole(Pipeline):
    """Every run ends in peace, and is judged then."""

    def teardown(self) -> None:
        try:
            self.check_everything_arrives()
        finally:
            super().teardown()


TestWhole = Whole.TestCase
TestWhole.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_the_judge_can_say_no() -> None:
    """A judge that finds nothing proves nothing: an edit that never reached us must be found."""
    machine = Pipeline()
    try:
        machine.edit("1", "CFO")
        machine.check_everything_arrives()
        machine.crm.save(ref("1"), read(machine._now(), jobtitle="CEO", city="Oslo"))
        with pytest.raises(AssertionError, match="not what the CRM says"):
            machine.check_everything_arrives()
    finally:
        machine.teardown()
