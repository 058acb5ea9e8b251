"""Rows that wait for the same call go together in it.

Law: a batch is whatever waits when the previous call returns: a call takes its rows in the moment in which its turn has
come, and while one is under way another begins only when it is full, or when the first takes long. So batches are full where
the account's limit is the narrow place, and where it is not no row waits for longer than a call. Rows go in the order in
which they came; one id is in a batch once, its next row in a later one. A batch's failure is told to its own rows alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")
V = TypeVar("V")

Take = Callable[[], dict[str, P]]
"""The batch's rows by id: the same each time, chosen the first time. May be called in any thread."""
Run = Callable[[Take[P]], Awaitable[Mapping[str, V]]]
"""Makes the call; the answer need not name every id. Calls `Take` once its turn has come."""


PATIENCE_SECONDS = 1.0
"""A call that takes longer no longer holds back what came after it."""


@dataclass(slots=True, eq=False)
class _Asked(Generic[V]):
    """What one caller waits for: one future for all of its rows."""

    left: int
    done: asyncio.Future[None]
    answer: dict[str, V] = field(default_factory=dict)
    failed: BaseException | None = None

    def tell(self, one: str, answer: Mapping[str, V], failed: BaseException | None) -> None:
        """A row's call has returned."""
        if failed is not None:
            self.failed = self.failed or failed
        elif (found := answer.get(one)) is not None:
            self.answer[one] = found
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True, eq=False)
class _Row(Generic[P, V]):
    id: str
    payload: P
    asked: _Asked[V]


@dataclass(slots=True)
class _Queue(Generic[P, V]):
    rows: deque[_Row[P, V]] = field(default_factory=deque)
    coming: int = 0
    """Batches that have not taken their rows yet."""
    under_way: int = 0
    """Batches that have."""
    timer: asyncio.TimerHandle | None = None


class Batches(Generic[P, V]):
    """Rows of one kind of call, by a key that says which call (account, lane, path, columns)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queues: dict[Hashable, _Queue[P, V]] = {}
        self._lock = threading.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, key: Hashable, rows: Mapping[str, P], run: Run[P, V]) -> dict[str, V]:
        """Each row's part of the answer, as far as there is one. Raises what the call of any of these rows raised."""
        if not rows:
            return {}
        asked: _Asked[V] = _Asked(len(rows), asyncio.get_running_loop().create_future())
        mine: list[_Row[P, V]] = [_Row(one, payload, asked) for one, payload in rows.items()]
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            queue.rows.extend(mine)
        self._start(key, queue, run)
        await asked.done
        if asked.failed is not None:
            raise asked.failed
        return {one: asked.answer[one] for one in rows if one in asked.answer}

    def _start(self, key: Hashable, queue: _Queue[P, V], run: Run[P, V], *, patience_is_over: bool = False) -> None:
        """As many batches as what waits fills; one that is not full, if none is under way."""
        with self._lock:
            full, rest = divmod(len(queue.rows), self._size)
            alone = queue.under_way == 0 or patience_is_over
            missing = max(0, full + (1 if rest and alone else 0) - queue.coming)
            queue.coming += missing
            waits = bool(queue.rows) and not queue.coming
        if waits and queue.timer is None:

            def late() -> None:
                queue.timer = None
                self._start(key, queue, run, patience_is_over=True)

            queue.timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, late)
        for _ in range(missing):
            task = asyncio.create_task(self._batch(key, queue, run))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _batch(self, key: Hashable, queue: _Queue[P, V], run: Run[P, V]) -> None:
        rows: list[_Row[P, V]] = []
        taken = False

        def take() -> dict[str, P]:
            nonlocal taken
            with self._lock:
                if not taken:
                    taken = True
                    queue.coming -= 1
                    queue.under_way += 1
                    rows.extend(self._taken(queue))
                return {row.id: row.payload for row in rows}

        answer: Mapping[str, V] = {}
        failed: BaseException | None = None
        try:
            answer = await run(take)
        except BaseException as error:  # noqa: BLE001 - told to the rows, whatever it is
            failed = error
        take()
        for row in rows:
            row.asked.tell(row.id, answer, failed)
        with self._lock:
            queue.under_way -= 1
        if queue.rows:
            self._start(key, queue, run)
        elif not queue.coming and not queue.under_way:
            if queue.timer is not None:
                queue.timer.cancel()
            self._queues.pop(key, None)

    def _taken(self, queue: _Queue[P, V]) -> list[_Row[P, V]]:
        taken: dict[str, _Row[P, V]] = {}
        later: list[_Row[P, V]] = []
        while queue.rows and len(taken) < self._size:
            row = queue.rows.popleft()
            if row.asked.done.cancelled():
                continue
            if row.id in taken:
                later.append(row)
            else:
                taken[row.id] = row
        queue.rows.extendleft(reversed(later))
        return list(taken.values())

    async def close(self) -> None:
        """Give up what is under way; may be called twice."""
        for queue in self._queues.values():
            if queue.timer is not None:
                queue.timer.cancel()
            with self._lock:
                waiting, queue.rows = list(queue.rows), deque()
            for row in waiting:
                row.asked.done.cancel()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
