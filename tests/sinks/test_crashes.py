"""The CRM sink killed between any two of its effects, doubled, and left without an answer: what holds nevertheless.

The state machine is an analyst that says new things and old ones again, a CRM that takes a write and loses the answer, and
sinks that die anywhere, hang while another takes over, and start again from the last commit. What PostgreSQL's statement
does under the same troubles is searched in `tests/connected/test_sink_crashes.py`, on the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from infra.crm.client import AnswerLost, Busy, CrmUnavailable
from infra.unavailable import Unavailable
from schemas.insight import Insight, Version
from schemas.record import RecordRef
from sinks.destinations.crm_writer import CrmDestination
from sinks.destinations.destination import Later, Needs
from sinks.rendering import render
from tests.sinks.making import (
    ACCOUNT,
    FakeAccounts,
    FakeCrm,
    MemoryState,
    fingerprint,
    insight,
    lead,
    quality,
    requirements,
)

RECORDS = ("1", "2")
SAYINGS = (lead(10), lead(20), lead(None), quality(50), quality(60), requirements())


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class World:
    """Where a process dies."""

    def __init__(self) -> None:
        self.effects = 0
        self.crash_at: int | None = None

    async def effect(self) -> None:
        # Somebody else may come between any two effects.
        await asyncio.sleep(0)
        if self.crash_at is not None and self.effects >= self.crash_at:
            self.crash_at = None
            raise Crash
        self.effects += 1


class State(MemoryState):
    """Each of its statements is one effect: it is whole, or it is not."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    async def take_up(self, insights: Any, claim: str) -> Any:
        await self.world.effect()
        return await super().take_up(insights, claim)

    async def done(self, rows: Any, claim: str) -> Any:
        await self.world.effect()
        return await super().done(rows, claim)


class Crm(FakeCrm):
    """Rows are written one by one; an answer may be lost after all of them, and a row may be refused for now."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.answer_lost = False
        self.away = False
        self.busy = ""
        self.repeated: list[str] = []
        self.went_down: list[str] = []

    async def write(self, account: Any, object: str, rows: Mapping[str, Mapping[str, str]]) -> Any:  # noqa: A002 - the protocol's word
        if self.away:
            raise CrmUnavailable("hubspot", "away")
        busy, self.busy = self.busy, ""
        answer = {}
        for one, values in rows.items():
            if one == busy:
                answer[one] = Busy("LOCKED", 3.0)
                continue
            await self.world.effect()
            held = self.records.setdefault(one, {})
            if all(held.get(name, "") == value for name, value in values.items()):
                self.repeated.append(f"{one}: {sorted(values)}")
            for name in ("version", "as_of"):
                if name in values and name in held and _order(values[name]) < _order(held[name]):
                    self.went_down.append(f"{one}: {name} from {held[name]} to {values[name]}")
            answer |= await super().write(account, object, {one: values})
        await self.world.effect()
        if self.answer_lost:
            self.answer_lost = False
            raise AnswerLost("hubspot", "no answer")
        return answer


def _order(text: str) -> Any:
    parts = text.split(".")
    return [int(part) for part in parts] if len(parts) == 3 and text.replace(".", "").isdigit() else [text]


class Sinks(RuleBasedStateMachine):
    """The world, the sinks, and what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.crm = Crm(self.world)
        for record in RECORDS:
            self.crm.records[record] = {}
        self.state = State(self.world)
        self.log: list[Insight] = []
        self.committed = 0
        self.offset = 0
        self.aside: set[RecordRef] = set()
        self.stalled = False
        """Whether two sinks ever held the same messages."""
        self.hanging: list[asyncio.Task[None]] = []

    def teardown(self) -> None:
        for task in self.hanging:
            task.cancel()
        if self.hanging:
            self.loop.run_until_complete(asyncio.wait(self.hanging))
        self.loop.close()

    def sink(self) -> CrmDestination:
        async def disconnect(_account: str, _reason: str) -> bool:
            return True

        needs = Needs(
            settings=None,
            engine=None,
            accounts=FakeAccounts(ACCOUNT),
            fingerprint=fingerprint,
            touch=None,
            disconnect=disconnect,
        )
        return CrmDestination(needs, self.crm, state=self.state)

    # What the analyst does

    @rule(
        record=strategies.sampled_from(RECORDS),
        said=strategies.lists(
            strategies.sampled_from(SAYINGS), min_size=1, max_size=3, unique_by=lambda each: each.analysis
        ),
    )
    def say(self, record: str, said: Sequence[Any]) -> None:
        """Of one snapshot, by one analysis or several."""
        self.offset += 1
        self.log += [insight(payload, self.offset, record) for payload in said]

    @precondition(lambda self: self.log)
    @rule(data=strategies.data())
    def say_again(self, data: strategies.DataObject) -> None:
        """A crash of the analyst repeats what it had published, and a slow lane brings it late."""
        self.log.append(data.draw(strategies.sampled_from(self.log)))

    # What goes wrong

    @rule(after=strategies.integers(0, 6))
    def die_soon(self, after: int) -> None:
        self.world.crash_at = self.world.effects + after

    @rule()
    def lose_the_next_answer(self) -> None:
        self.crm.answer_lost = True

    @rule(away=strategies.booleans())
    def the_crm_goes_and_comes(self, away: bool) -> None:
        self.crm.away = away

    @rule(record=strategies.sampled_from(RECORDS))
    def a_row_is_locked(self, record: str) -> None:
        self.crm.busy = record

    # What runs

    @rule()
    def consume_all(self) -> None:
        """All that is there, as far as nothing is wrong."""
        self.consume(len(self.log), kept=True)

    @rule(size=strategies.integers(1, 5), kept=strategies.booleans())
    def consume(self, size: int, kept: bool) -> None:
        """One batch, and its commit, which may be refused."""
        batch = self.log[self.committed : self.committed + size]
        if batch and self._run(self._handle(batch)) and kept:
            self.committed += len(batch)

    @precondition(lambda self: self.committed < len(self.log))
    @rule(size=strategies.integers(1, 4), steps=strategies.integers(1, 8))
    def hang(self, size: int, steps: int) -> None:
        """A sink goes so far and no further for now; its messages are given to another, and nobody commits for it."""
        batch = self.log[self.committed : self.committed + size]
        self.stalled = True

        async def some_steps() -> asyncio.Task[None]:
            task = asyncio.create_task(self._handle(batch))
            for _ in range(steps):
                await asyncio.sleep(0)
            return task

        self.hanging.append(self.loop.run_until_complete(some_steps()))

    @precondition(lambda self: self.hanging)
    @rule()
    def wake(self) -> None:
        with contextlib.suppress(Crash, Unavailable):
            self.loop.run_until_complete(self.hanging.pop(0))

    @precondition(lambda self: not self.hanging and self.committed == len(self.log))
    @rule(
        record=strategies.sampled_from(RECORDS),
        first=strategies.sampled_from(SAYINGS),
        then=strategies.sampled_from(SAYINGS),
        steps=strategies.integers(1, 6),
        others=strategies.integers(1, 12) | strategies.just(50),
    )
    def overtake(self, record: str, first: Any, then: Any, steps: int, others: int) -> None:
        """A sink hangs with one thing while another takes over, goes part of the way or all of it with a newer one, and
        then both go on side by side.
        """
        self.say(record, [first])
        self.hang(1, steps)
        self.say(record, [then])
        self.hang(2, others)
        both, self.hanging = list(self.hanging), []
        self.loop.run_until_complete(asyncio.wait(both))
        for task in both:
            assert task.exception() is None or isinstance(task.exception(), Crash | Unavailable)
        if both[1].exception() is None:
            self.committed = len(self.log)

    @rule()
    def emit(self) -> None:
        """What was set aside comes due: the analyst sends what it keeps of the record, under a new version."""
        for ref in sorted(self.aside):
            newest: dict[str, Insight] = {}
            for each in self.log:
                if each.ref == ref and (each.analysis not in newest or each.version > newest[each.analysis].version):
                    newest[each.analysis] = each
            self.offset += 1
            self.log += [each.model_copy(update={"version": Version(1, self.offset, 1)}) for each in newest.values()]
        self.aside.clear()

    # What must hold

    def check_everything_arrives(self) -> None:
        """Let all troubles end; then each record shows the newest of each analysis, and nothing was done twice."""
        self.world.crash_at = None
        self.crm.away = self.crm.answer_lost = False
        self.crm.busy = ""
        while self.hanging:
            self.wake()
        for _ in range(20):
            self.emit()
            while batch := self.log[self.committed : self.committed + 4]:
                assert self._run(self._handle(batch)), "nothing is wrong any more"
                self.committed += len(batch)
            if not self.aside:
                break
        else:
            raise AssertionError("never comes to rest")
        for record in RECORDS:
            self._check(record)
        if not self.stalled:
            # A sink that hangs past its session may write late what is then done anew (docs/adr/0007).
            assert self.crm.repeated == [], "a write that changed nothing"
            assert self.crm.went_down == [], "a version or an as-of that went down"

    def _check(self, record: str) -> None:
        newest: dict[str, Insight] = {}
        for each in self.log:
            if each.id == record and (each.analysis not in newest or each.version > newest[each.analysis].version):
                newest[each.analysis] = each
        held = self.crm.records[record]
        for each in newest.values():
            for name, text in render(each).items():
                assert held.get(name, "") == text, f"{name} is not what the newest {each.analysis} says"
        if newest:
            assert held["version"] == str(max(each.version for each in newest.values()))

    async def _handle(self, batch: Sequence[Insight]) -> None:
        """As the dispatcher does: what cannot be written now is set aside before the batch may be committed."""
        last = {(each.ref, each.analysis): each for each in batch}
        for each in batch:
            if each.version > last[each.ref, each.analysis].version:
                last[each.ref, each.analysis] = each
        wanted = list(last.values())
        for each, outcome in zip(wanted, await self.sink().write(wanted), strict=True):
            if isinstance(outcome, Later):
                self.aside.add(each.ref)

    def _run(self, work: Any) -> bool:
        """Whether it may be committed."""
        try:
            self.loop.run_until_complete(work)
        except (Crash, Unavailable):
            return False
        return True


class Whole(Sinks):
    """Every run ends in peace, and is judged then."""

    def teardown(self) -> None:
        try:
            self.check_everything_arrives()
        finally:
            super().teardown()


TestWhole = Whole.TestCase
TestWhole.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_judge_can_say_no() -> None:
    """A judge that finds nothing proves nothing: without the note that a write begins, a crash after it doubles it."""
    machine = Sinks()

    async def unnoted(insights: Any, _claim: str) -> Any:
        return {ref: dict(machine.state.rows.get(ref, {})) for ref in insights}

    try:
        machine.state.take_up = unnoted
        machine.say("1", [lead(10)])
        machine.die_soon(1)
        machine.consume(1, kept=True)
        with pytest.raises(AssertionError, match="changed nothing"):
            machine.check_everything_arrives()
    finally:
        machine.teardown()
