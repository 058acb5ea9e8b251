"""The translator killed between any two of its effects, doubled, and fed the same events again: what holds nevertheless.

The state machine is senders that repeat themselves, a topic of two partitions, a Redis that forgets and is away, and
members that die anywhere, hang while others take over, and start again from the last commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from infra.kafka.codec import Received
from infra.kafka.raw import Raw, RawMessage
from infra.unavailable import BrokerUnavailable, Unavailable
from ingress.translator import Translator
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.envelope import Envelope
from schemas.topics import DELIVERIES
from tests.ingress.fakes import NOW, FakeDirectory, FakeNotes, FakeRates, FakeTimes, delivery, endpoint, sources
from tests.ingress.test_translator import event

PARTITIONS = (0, 1)
EVENTS = strategies.lists(strategies.integers(1, 4), min_size=1, max_size=3, unique=True)


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@dataclass
class World:
    """Where a process dies, and who is away."""

    effects: int = 0
    crash_at: int | None = None
    redis_away: bool = False
    kafka_away: bool = False

    async def effect(self) -> None:
        # Somebody else may come between any two effects.
        await asyncio.sleep(0)
        if self.crash_at is not None and self.effects >= self.crash_at:
            self.crash_at = None
            raise Crash
        self.effects += 1


@dataclass
class Topic:
    """`crm.deliveries`; implements the codec's side that the translator needs. Sealing has its own tests."""

    lines: dict[int, list[Delivery]] = field(default_factory=lambda: {place: [] for place in PARTITIONS})

    def raws(self, partition: int, start: int, end: int) -> list[Raw]:
        return [
            RawMessage(DELIVERIES.name, partition, offset, b"k", b"x", [])
            for offset in range(start, min(end, len(self.lines[partition])))
        ]

    async def open(self, topic: Any, raws: Sequence[Raw]) -> tuple[list[Received[Delivery]], list[Any]]:
        envelope = Envelope("i", DELIVERIES.type, "test", NOW, "acme")
        return [
            Received(self.lines[raw.partition][raw.offset], envelope, topic.name, raw.partition, raw.offset, 0, raw)
            for raw in raws
        ], []


@dataclass
class Out:
    """`crm.changes`: what arrived, message by message, since a batch may arrive in part."""

    world: World
    changes: list[Change] = field(default_factory=list)

    async def publish(
        self, topic: Any, payloads: Sequence[Change], *, traceparents: Any = None
    ) -> list[tuple[int, int]]:
        if self.world.kafka_away:
            raise BrokerUnavailable("away")
        for payload in payloads:
            await self.world.effect()
            self.changes.append(payload)
        return [(0, place) for place in range(len(payloads))]

    async def dead_letter(self, raw: Raw, **given: Any) -> None:
        raise AssertionError("nothing here is anybody's mistake")


@dataclass
class Redis:
    """Seen-marks, as `ingress.seen` keeps them: looking up may raise, setting never does."""

    world: World
    marks: dict[str, str] = field(default_factory=dict)

    async def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        await asyncio.sleep(0)
        if self.world.redis_away:
            raise Unavailable("redis")
        return {key: self.marks[key] for key in keys if key in self.marks}

    async def set(self, marks: Mapping[str, str]) -> None:
        for key, value in marks.items():
            await self.world.effect()
            if not self.world.redis_away:
                self.marks[key] = value


class Desk(RuleBasedStateMachine):
    """The world, the members, and what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.topic = Topic()
        self.out = Out(self.world)
        self.redis = Redis(self.world)
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.accepted: Counter[int] = Counter()
        """Event → deliveries that brought it."""
        self.troubled = False
        """Whether anything has gone wrong that may repeat an event."""
        self.hanging: list[asyncio.Task[None]] = []

    def teardown(self) -> None:
        for task in self.hanging:
            task.cancel()
        if self.hanging:
            self.loop.run_until_complete(asyncio.wait(self.hanging))
        self.loop.close()

    def member(self) -> Translator:
        return Translator(
            opener=self.topic,
            out=self.out,
            known=FakeDirectory({endpoint().id: endpoint()}),
            sources=sources(),
            marks=self.redis,
            rates=FakeRates(),
            hot=FakeNotes(),
            times=FakeTimes(),
            epoch=1,
        )

    # What senders do

    @rule(numbers=EVENTS, partition=strategies.sampled_from(PARTITIONS))
    def deliver(self, numbers: list[int], partition: int) -> None:
        """Events new and old, as one request; a repetition is a delivery of its own, on any partition."""
        body = json.dumps([event(number) for number in numbers]).encode()
        self.topic.lines[partition].append(delivery(body))
        self.accepted.update(numbers)

    # What goes wrong

    @rule(after=strategies.integers(0, 6))
    def die_soon(self, after: int) -> None:
        self.world.crash_at = self.world.effects + after

    @rule(away=strategies.booleans())
    def redis_goes_and_comes(self, away: bool) -> None:
        # Marks that could not be set while it was away are missing ever after.
        self.troubled = self.troubled or away
        self.world.redis_away = away

    @rule()
    def redis_forgets(self) -> None:
        self.troubled = True
        self.redis.marks.clear()

    @rule(away=strategies.booleans())
    def kafka_goes_and_comes(self, away: bool) -> None:
        self.troubled = self.troubled or away
        self.world.kafka_away = away

    # What runs

    @rule(partition=strategies.sampled_from(PARTITIONS), size=strategies.integers(1, 4), kept=strategies.booleans())
    def consume(self, partition: int, size: int, kept: bool) -> None:
        """One batch, and its commit, which may be refused."""
        start = self.committed[partition]
        raws = self.topic.raws(partition, start, start + size)
        if raws and self._run(self.member().handle(raws)):
            if kept:
                self.committed[partition] = start + len(raws)
            else:
                self.troubled = True

    @rule(size=strategies.integers(1, 4))
    def consume_both(self, size: int) -> None:
        """Both partitions at the same time, by two members."""
        batches = {
            place: self.topic.raws(place, self.committed[place], self.committed[place] + size) for place in PARTITIONS
        }
        if not all(batches.values()):
            return
        # An event on both may be looked up by both before either has marked it.
        self.troubled = True
        work = [self.loop.create_task(self.member().handle(raws)) for raws in batches.values()]
        self.loop.run_until_complete(asyncio.wait(work))
        for (place, raws), task in zip(batches.items(), work, strict=True):
            if task.exception() is None:
                self.committed[place] += len(raws)
            elif not isinstance(task.exception(), Crash | Unavailable):
                raise task.exception()

    @precondition(lambda self: any(self.topic.raws(place, self.committed[place], 10_000) for place in PARTITIONS))
    @rule(partition=strategies.sampled_from(PARTITIONS), steps=strategies.integers(1, 12))
    def hang(self, partition: int, steps: int) -> None:
        """A member goes so far and no further for now; its partition is given to another, and nobody commits for it."""
        raws = self.topic.raws(partition, self.committed[partition], self.committed[partition] + 3)
        if not raws:
            return
        self.troubled = True

        async def some_steps() -> asyncio.Task[None]:
            task = asyncio.create_task(self.member().handle(raws))
            for _ in range(steps):
                await asyncio.sleep(0)
            return task

        self.hanging.append(self.loop.run_until_complete(some_steps()))

    @precondition(lambda self: self.hanging)
    @rule()
    def wake(self) -> None:
        with contextlib.suppress(Crash, Unavailable):
            self.loop.run_until_complete(self.hanging.pop(0))

    # What must hold

    def check_everything_arrives(self) -> None:
        """Let all troubles end and deliver what is owed: every event has passed, and none twice without a reason."""
        self.world.crash_at = None
        self.world.redis_away = self.world.kafka_away = False
        while self.hanging:
            self.wake()
        for partition in PARTITIONS:
            while raws := self.topic.raws(partition, self.committed[partition], self.committed[partition] + 3):
                assert self._run(self.member().handle(raws)), "nothing is wrong any more"
                self.committed[partition] += len(raws)
        passed = Counter(int(change.id) for change in self.out.changes)
        assert set(passed) == set(self.accepted), "an event was lost"
        if not self.troubled:
            assert set(passed.values()) <= {1}, "an event passed twice although nothing had gone wrong"

    def _run(self, work: Any) -> bool:
        """Whether it may be committed."""
        try:
            self.loop.run_until_complete(work)
        except Crash:
            self.troubled = True
            return False
        except Unavailable:
            return False
        return True


class Whole(Desk):
    """Every run ends in peace, and is judged then."""

    def teardown(self) -> None:
        try:
            self.check_everything_arrives()
        finally:
            super().teardown()


TestWhole = Whole.TestCase
TestWhole.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_judge_can_say_no() -> None:
    """A judge that finds nothing proves nothing: marks that are set too early, and a mark that is lost, must be found."""
    machine = Desk()
    try:
        machine.deliver([1], 0)
        machine.redis.marks = _Always()
        with pytest.raises(AssertionError, match="lost"):
            machine.check_everything_arrives()
        machine.redis.marks = {}
        machine.deliver([1], 1)
        machine.out.changes += [machine.out.changes[0]] if machine.out.changes else []
        machine.committed = dict.fromkeys(PARTITIONS, 0)
        machine.redis.marks = _Never()
        with pytest.raises(AssertionError, match="twice"):
            machine.check_everything_arrives()
    finally:
        machine.teardown()


class _Always(dict):
    """Marks that stand before anything was published, and carry no offset of the event's own."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return "1/9/9"


class _Never(dict):
    """A memory that keeps nothing."""

    def __setitem__(self, key: str, value: str) -> None:
        pass
