"""Who works next, where there is room for so many at once: tenants in turn, whatever each of them has waiting.

Law: a place that becomes free goes to the tenant that has the fewest; among those, to whoever was served longest ago. A
tenant alone gets all of them but one, which stays free for the next to come.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """`places` at once. Belongs to one event loop."""

    def __init__(self, places: int) -> None:
        """`places`: at least 1."""
        self._places = places
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place and give it back; may be cancelled at any moment."""
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self._places - self._taken.total()

    def _may(self, tenant: str) -> bool:
        alone = self._places - 1 if self._places > 1 else 1
        return self.free > 0 and self._taken[tenant] < alone

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
