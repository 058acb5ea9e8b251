"""Who has much to do gives way: how much of its time, or of its places, work may take while others' is under way.

Law: decides a share and nothing else; holds nobody up but whoever asks it to. What is measured is how late this loop's
timers are: that tells of a loop that is busy and of a machine that is, whoever's work it is. While nobody does live work
bulk work's share is whole, and a tenant's while no other tenant does; no share falls below a least one, so that all get on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext

TICK_SECONDS = 0.05
LATE_SECONDS = 0.002
"""A timer that is later than this shows that live work waits for its turn; up to one millisecond is uvloop's rounding."""
TICKS = 5
"""After so many the share changes: by the latest but one of them, for a single pause says nothing."""
LIVE_SECONDS = 3.0
"""So long after it was last seen live work, or bulk work, counts as under way. A stray message must not hold up a backlog for long."""
LEAST = 0.05
_LESS, _MORE = 0.4, 0.01
"""Less at once and more slowly: who rests makes no timer late, which must not be taken for time that the machine has."""
FIRST = 0.1
"""Bulk work that begins beside live work begins with this much, or its least: what it would push aside is late before any timer tells."""
LONGEST_REST_SECONDS = 2.0
"""What waits for its turn is in work: a rebalance waits for it, and so does a stop."""


class GivingWay:
    """One per process; belongs to one event loop."""

    def __init__(self, *, least: float = LEAST, clock: Callable[[], float] = time.monotonic) -> None:
        """`least`: share, above 0, that bulk work has in any case; `clock()` in seconds."""
        self._least = least
        self._clock = clock
        self._share = self._ramp = 1.0
        self._late: list[float] = []
        self._live_until = self._several_until = self._bulk_until = float("-inf")
        self._one = asyncio.Lock()
        self._last = ""

    @property
    def share(self) -> float:
        """Of the time, or of places, that bulk work may take now: from `least` to 1."""
        return min(self._share, self._ramp) if self._clock() < self._live_until else 1.0

    @property
    def share_of_one(self) -> float:
        """That any one tenant may take of what several would use now: from `least` to 1."""
        return self._share if self._clock() < self._several_until else 1.0

    def saw_live(self, tenants: Iterable[str] = ()) -> None:
        """Live work is under way, of these."""
        self._live_until = until = self._clock() + LIVE_SECONDS
        for tenant in tenants:
            if self._last and tenant != self._last:
                self._several_until = until
            self._last = tenant

    def saw_bulk(self) -> None:
        """Bulk work is under way."""
        now = self._clock()
        if now >= self._bulk_until:
            self._ramp = max(FIRST, self._least)
        self._bulk_until = now + LIVE_SECONDS

    def tick(self, late: float) -> None:
        """A timer was `late` seconds late."""
        self._late.append(late)
        if len(self._late) >= TICKS:
            typical = sorted(self._late)[-2]
            self._late.clear()
            self._ramp = min(1.0, self._ramp + _MORE)
            if typical > LATE_SECONDS:
                self._share = max(self._least, self._share * _LESS)
            else:
                self._share = min(1.0, self._share + _MORE)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around a piece of bulk work: afterwards it rests for as long as its share asks. Where it has to give way there is one piece
        at a time: between two steps of live work each of several would take a step of its own.
        """
        self.saw_bulk()
        async with self._one if self.share < 1.0 else nullcontext():
            began = self._clock()
            yield
            share = self.share
            if share < 1.0:
                await asyncio.sleep(min(LONGEST_REST_SECONDS, (self._clock() - began) * (1 - share) / share))

    async def run(self) -> None:
        """Measure, until cancelled."""
        while True:
            due = self._clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.tick(self._clock() - due)
