"""A deadline for many tasks at once, by one timer.

Law: a task that is overdue is cancelled inside the block that it entered, and learns that it was the clock; it costs
nobody who is in time more than two dictionary operations (a timer a request costs some microseconds).
"""

from __future__ import annotations

import asyncio
from typing import Any

_COARSE_SECONDS = 0.25


class Deadlines:
    """All deadlines are of the same length; one per process and purpose. They are kept to within a quarter of a second."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._every = min(_COARSE_SECONDS, seconds / 2)
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._cut: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> asyncio.Task[Any]:
        """The clock of the current task runs from now on; hand what is returned to `leave`, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._waiting[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self._every, self._sweep, loop)
        return task

    def is_cut(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was this clock that cancelled the task."""
        return task in self._cut

    def leave(self, task: asyncio.Task[Any]) -> None:
        """The clock stops; if it has cancelled the task, that is undone."""
        self._waiting.pop(task, None)
        if task in self._cut:
            self._cut.discard(task)
            task.uncancel()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, due in list(self._waiting.items()):
            if due > now:
                break
            del self._waiting[task]
            self._cut.add(task)
            task.cancel()
        if self._waiting:
            self._timer = loop.call_later(self._every, self._sweep, loop)
