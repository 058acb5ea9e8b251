"""Who works next, where there is room for so many at once: tenants in turn, whatever each of them has waiting.

Law: a place that becomes free goes to the tenant that has the fewest; among those, to whoever was served longest ago. A
tenant alone gets all of them but one, which stays free for the next to come. What is of the bulk lane takes no more than
the share that it is given at the moment, two places always; so does each tenant, half of them always, for most of the time a
place waits for a model. As two of them keep one CPU busy, who has to give way keeps its place for a while after its work is done:
the bulk lane, and a tenant with more waiting than there are places.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LEAST = 2
"""Places that the bulk lane has all the same."""
LONGEST_REST_SECONDS = 0.5
"""Of a place whose work is done: with two of them some four pieces a second get on whatever the share."""


class Room:
    """`places` at once. Belongs to one event loop."""

    def __init__(
        self,
        places: int,
        *,
        bulk_share: Callable[[], float] = lambda: 1.0,
        share_of_one: Callable[[], float] = lambda: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places`: at least 1. `bulk_share()`, above 0: of them and of the time, for what is of the bulk lane; `share_of_one()`: for any
        one tenant; asked anew for each that comes or goes.
        """
        self._places = places
        self._bulk_share = bulk_share
        self._share_of_one = share_of_one
        self._clock = clock
        self._bulk = 0
        self._bulk_left = asyncio.Event()
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, tenant: str, *, bulk: bool = False) -> AsyncIterator[None]:
        """Wait for a place and give it back, at once or after a rest; may be cancelled at any moment."""
        if bulk:
            while self._bulk >= max(LEAST, int(self._places * self._bulk_share())):
                self._bulk_left.clear()
                await self._bulk_left.wait()
            self._bulk += 1
        try:
            await self._enter(tenant)
        except BaseException:
            self._leave_bulk(bulk)
            raise
        began, rest = self._clock(), 0.0
        try:
            yield
            rest = self._rest(tenant, self._clock() - began, bulk=bulk)
        finally:
            if rest:
                asyncio.get_running_loop().call_later(rest, self._give_back, tenant, bulk)
            else:
                self._give_back(tenant, bulk)

    def _rest(self, tenant: str, worked: float, *, bulk: bool) -> float:
        share = 1.0
        if bulk:
            share = self._bulk_share()
        elif len(self._waiting.get(tenant, ())) > self._places:
            share = self._share_of_one()
        return min(LONGEST_REST_SECONDS, worked * (1.0 - share) / share)

    def _give_back(self, tenant: str, bulk: bool) -> None:
        self._leave(tenant)
        self._leave_bulk(bulk)

    def _leave_bulk(self, bulk: bool) -> None:
        if bulk:
            self._bulk -= 1
            self._bulk_left.set()

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self._places - self._taken.total()

    def _may(self, tenant: str) -> bool:
        alone = self._places - 1 if self._places > 1 else 1
        most = min(alone, max(LEAST, self._places // 2, int(self._places * self._share_of_one())))
        return self.free > 0 and self._taken[tenant] < most

    async def _enter(self, tenant: str) -> None:
        if tenant not in self._waiting and self._may(tenant):
            self._taken[tenant] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(tenant)  # it was given the place at the same moment
            raise

    def _leave(self, tenant: str) -> None:
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
        while (owner := self._next()) is not None:
            turn = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            else:
                self._waiting.move_to_end(owner)
            if not turn.done():
                self._taken[owner] += 1
                turn.set_result(None)

    def _next(self) -> str | None:
        """Whose turn it is; None when there is no place for anybody who waits."""
        allowed = [owner for owner in self._waiting if self._may(owner)]
        return min(allowed, key=lambda owner: self._taken[owner], default=None)
