"""One stage draining: who has the machine when, and what each did with it.

Law: the two sides take turns on the same backlog, each stopped (SIGSTOP) while the other works, so that whatever else the
machine does falls on both. What counts is what was committed during one's own turns, per second of them; CPU time is the
kernel's. A turn is shorter than a consumer's session and than any client's timeout, so that nobody notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bench.children import Child
from bench.failure import BenchError

TURN_SECONDS = 1.5
"""Below every timeout of a request that is under way when its process is stopped."""
SHORT_TURN_SECONDS = 0.4
"""Of the bare loop, which does much more in it."""
STALLED_SECONDS = 120.0
TOLD_EVERY_SECONDS = 20.0
HELPED_ABOVE_SECONDS = 60.0


class Offsets:
    """How far groups are, as the broker says."""

    def __init__(self, kafka: str) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=None)

    async def start(self) -> None:
        """Connect."""
        await self._admin.start()
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._admin.close()
        await self._consumer.stop()

    async def ends(self, topic: str) -> dict[TopicPartition, int]:
        """Partition → its end."""
        await self._consumer._client.force_metadata_update()  # noqa: SLF001 -- a consumer without a subscription has no other way to learn of topics
        partitions = [TopicPartition(topic, each) for each in self._consumer.partitions_for_topic(topic) or ()]
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        return found

    async def done(self, group: str, topic: str) -> int:
        """Messages committed by a group."""
        found = await self._admin.list_consumer_group_offsets(group)
        return sum(max(0, at.offset) for each, at in found.items() if each.topic == topic)


@dataclass
class Side:
    """One of the two, in one stage."""

    name: str
    group: str
    topic: str
    children: list[Child]
    weight: float = 1.0
    """Changes in a message: what rates are told in. A delivery holds many."""
    turn: float = TURN_SECONDS
    total: int = 0
    done: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    at: int = 0
    """Committed, as last seen."""
    idle: float = 0.0
    """Seconds of its own turns since it last committed anything."""
    rates: list[float] = field(default_factory=list)
    """Of each whole turn."""
    rss: list[tuple[float, float]] = field(default_factory=list)
    """(share of the backlog that is done, MiB of its largest process)."""
    helped: bool = False
    """Others drain with it by now: nothing more is counted but its memory."""

    @property
    def per_second(self) -> float:
        """Changes, over all of its turns."""
        return self.weight * self.done / self.seconds if self.seconds else 0.0

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds per 1,000 changes."""
        return 1_000 * self.cpu / (self.weight * self.done) if self.done else 0.0

    def let(self, *, run: bool) -> None:
        """Continue or stop its processes."""
        for child in self.children:
            os.kill(child.pid, signal.SIGCONT if run else signal.SIGSTOP)

    def cpu_now(self) -> float:
        """CPU seconds of its processes so far."""
        return sum(child.cpu_seconds() for child in self.children)


@dataclass(frozen=True)
class Drained:
    """A stage of both sides."""

    stage: str
    floor: Side
    ours: Side

    @property
    def ratio(self) -> float:
        """The median of the turns' ratios, neighbours in time; of the totals where there were fewer than five."""
        pairs = [one / other for one, other in zip(self.ours.rates, self.floor.rates, strict=False) if other]
        return median(pairs) if len(pairs) >= 5 else self.ours.per_second / max(1e-9, self.floor.per_second)


async def drain(
    stage: str, offsets: Offsets, floor: Side, ours: Side, help_out: Callable[[], Awaitable[Child]] | None = None
) -> Drained:
    """Let both drain their backlog in turns; raises BenchError when one ends, or makes no progress for STALLED_SECONDS.

    `help_out` starts one more process of ours, once the bare loop is done and ours has more than HELPED_ABOVE_SECONDS to go:
    what is left has nothing to be compared with.
    """
    for side in (floor, ours):
        side.total = sum((await offsets.ends(side.topic)).values())
    turns = {side.name: 0 for side in (floor, ours)}
    waiting = [floor, ours]
    for side in waiting:
        side.let(run=False)
        side.at = await offsets.done(side.group, side.topic)
    told = time.monotonic()
    try:
        while waiting:
            if (
                waiting == [ours]
                and help_out
                and not ours.helped
                and ours.total - ours.at > HELPED_ABOVE_SECONDS * (ours.done / max(1e-9, ours.seconds))
            ):
                ours.helped = True
                ours.let(run=True)
                ours.children.append(await help_out())
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                told = time.monotonic()
                print(f"    {stage}: {ours.at / max(1, ours.total):.0%} of {ours.total:,} messages", flush=True)
            for side in list(waiting):
                turns[side.name] += 1
                # The first turn is the warm-up: connections, keys, code that runs for the first time.
                await _turn(offsets, side, counted=turns[side.name] > 1, alone=len(waiting) == 1)
                if side.at >= side.total:
                    side.let(run=True)
                    waiting.remove(side)
    finally:
        for side in (floor, ours):
            with contextlib.suppress(ProcessLookupError):
                side.let(run=True)
    return Drained(stage, floor, ours)


async def _turn(offsets: Offsets, side: Side, *, counted: bool, alone: bool) -> None:
    side.let(run=True)
    began, cpu, before = time.monotonic(), side.cpu_now(), side.at
    limit = side.turn if not alone else 4 * side.turn
    while (now := time.monotonic()) - began < limit and side.at < side.total:
        await asyncio.sleep(side.turn / 10)
        for child in side.children:
            child.check()
        found = await offsets.done(side.group, side.topic)
        side.idle = 0.0 if found != side.at else side.idle + time.monotonic() - now
        side.at = found
        side.rss.append((side.at / max(1, side.total), max(rss_mib(child.pid) for child in side.children)))
        if side.idle > STALLED_SECONDS:
            raise BenchError(f"{side.name} made no progress for {STALLED_SECONDS:.0f} s at {side.at} of {side.total}")
    if side.at < side.total and not alone:
        side.let(run=False)
    seconds, spent, done = time.monotonic() - began, side.cpu_now() - cpu, side.at - before
    if counted and not side.helped:
        side.done += done
        side.seconds += seconds
        side.cpu += spent
        if seconds >= side.turn * 0.9:
            side.rates.append(done / seconds)


def rss_mib(pid: int) -> float:
    """Resident memory of a process; 0 where the system does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


async def alone(offsets: Offsets, side: Side) -> float:
    """Messages a second of a group that drains by itself, from its first commit to 90 % of what it has before it: the last tenth is
    that of the fullest partition, not of the group.
    """
    side.total = sum((await offsets.ends(side.topic)).values())
    before = await offsets.done(side.group, side.topic)
    first, at, moved = None, before, time.monotonic()
    while True:
        await asyncio.sleep(0.1)
        for child in side.children:
            child.check()
        found, now = await offsets.done(side.group, side.topic), time.monotonic()
        if found != at:
            at, moved = found, now
        if first is None and found > before:
            first = (now, found)
        if first and at - before >= 0.9 * (side.total - before):
            return (at - first[1]) / max(1e-9, now - first[0])
        if now - moved > STALLED_SECONDS:
            raise BenchError(f"{side.name} made no progress for {STALLED_SECONDS:.0f} s at {at} of {side.total}")
