"""Equal questions at the same time become one: the first asks, the others wait for its answer.

Law: whoever gives up leaves; when all have left, the question is dropped. A failure that is the first one's own affair
(its deadline was shorter) is not passed on: the next one asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class _Flight(Generic[R]):
    def __init__(self, task: asyncio.Task[R]) -> None:
        self.task = task
        self.waiting = 0


class SingleFlight(Generic[R]):
    """Questions under way in this process, by digest."""

    def __init__(self, personal: Callable[[BaseException], bool]) -> None:
        self._personal = personal
        self._flights: dict[bytes, _Flight[R]] = {}

    async def join(self, digest: bytes, start: Callable[[], Coroutine[Any, Any, R]]) -> tuple[R, bool]:
        """The result, and whether somebody else had asked. Raises what `start` raises."""
        while True:
            flight = self._flights.get(digest)
            first = flight is None
            if flight is None:
                flight = self._flights[digest] = self._depart(digest, start)
            flight.waiting += 1
            try:
                return await asyncio.shield(flight.task), not first
            except Exception as error:
                if first or not self._personal(error):
                    raise
            finally:
                flight.waiting -= 1
                if flight.waiting == 0 and not flight.task.done():
                    self._land(digest, flight)
                    flight.task.cancel()

    async def close(self) -> None:
        """Drop what is under way."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _depart(self, digest: bytes, start: Callable[[], Coroutine[Any, Any, R]]) -> _Flight[R]:
        flight = _Flight(asyncio.create_task(start()))

        def landed(task: asyncio.Task[R]) -> None:
            self._land(digest, flight)
            if not task.cancelled():
                task.exception()  # seen here, so that one whose waiters all left is not reported as forgotten

        flight.task.add_done_callback(landed)
        return flight

    def _land(self, digest: bytes, flight: _Flight[R]) -> None:
        if self._flights.get(digest) is flight:
            del self._flights[digest]
