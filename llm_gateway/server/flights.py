"""Equal requests of this process at once: the first asks, the others wait for its answer.

Law: as `llm_gateway.single_flight`, but who comes first looks into the cache in his own task, because a task of its own
costs more than a cached answer. From the moment that the provider is asked a task of its own carries the flight: it is
dropped when all have left, and not when the first one has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

_UNWATCHED_SECONDS = 0.05


@dataclass(slots=True)
class Answered:
    """An answer, as the provider gave it."""

    body: bytes = field(repr=False)
    how: str
    """hit, miss or joined."""
    warnings: tuple[str, ...] = ()
    model: str = ""
    cost_usd: float = 0.0
    streamed: bool = False
    """The client that asked has it already."""


class Gone(Exception):  # noqa: N818 -- reads as what happened
    """The client hung up; there is nobody to answer."""


class Flight:
    """One question under way."""

    __slots__ = ("_task", "_waiters", "landed", "over")

    def __init__(self, landed: Callable[[], None]) -> None:
        """`landed` is told once, when it is answered or has failed."""
        self.landed = landed
        self.over = False
        self._waiters: list[asyncio.Future[Answered]] = []
        self._task: asyncio.Task[None] | None = None

    async def wait(self, gone: Callable[[], Awaitable[object]] | None, deadline: float | None) -> Answered:
        """Its end; raises what it failed with, Gone when the client hangs up, TimeoutError after `deadline`. Whoever is last to
        leave drops it.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answered] = loop.create_future()
        self._waiters.append(waiter)
        # Only who waits for long is watched: a watcher costs a task.
        watchers: list[asyncio.Task[None]] = []
        timer = loop.call_later(
            _UNWATCHED_SECONDS, lambda: watchers.append(loop.create_task(_watched(waiter, gone, deadline)))
        )
        try:
            return await waiter
        finally:
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()
            if not self.over:
                self._waiters.remove(waiter)
                if not self._waiters and self._task is not None:
                    self._task.cancel()

    def land(self, answered: Answered) -> None:
        """It is answered."""
        if not self.over:
            self._end()
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(answered)

    def fail(self, error: BaseException) -> None:
        """It is not."""
        if not self.over:
            self._end()
            for waiter in self._waiters:
                if waiter.done():
                    continue
                if isinstance(error, Exception):
                    waiter.set_exception(error)
                else:
                    waiter.set_exception(Dropped())

    def _end(self) -> None:
        self.over = True
        self.landed()

    def carry(self, work: Coroutine[Any, Any, Answered]) -> None:
        """From now on a task of its own flies."""
        self._task = asyncio.create_task(self._flown(work))

    async def ended(self) -> None:
        """For whoever stops: drop it, and wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _flown(self, work: Coroutine[Any, Any, Answered]) -> None:
        try:
            self.land(await work)
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise


class Dropped(Exception):  # noqa: N818 -- as above
    """Who flew was stopped; another may ask."""


async def _watched(
    waiter: asyncio.Future[Answered], gone: Callable[[], Awaitable[object]] | None, deadline: float | None
) -> None:
    error: Exception = Gone()
    try:
        async with asyncio.timeout_at(deadline):
            if gone is None:
                await asyncio.get_running_loop().create_future()
            else:
                await gone()
    except TimeoutError as late:
        error = late
    if not waiter.done():
        waiter.set_exception(error)
