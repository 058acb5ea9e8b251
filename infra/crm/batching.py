"""Rows that wait for the same call go together in it.

Law: a batch is whatever waits when the previous call returns: a call takes its rows in the moment in which its turn has
come, and while one is under way another begins only when it is full, or when the first takes long. So batches are full where
the account's limit is the narrow place, and where it is not no row waits for longer than a call. While it waits for its turn
a batch says how full it is (`limits.filling`), for who gives turns to prefer the fuller. Where calls are scarce without
anybody standing in line, rows wait for others as long as a saved call is worth (`worth_waiting`). Rows go in the order in
which they came; one id is in a batch once, its next row in a later one. A batch's failure is told to its own rows alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from infra.crm.limits import filling

P = TypeVar("P")
V = TypeVar("V")

Take = Callable[[], dict[str, P]]
"""The batch's rows by id: the same each time, chosen the first time. May be called in any thread."""
Run = Callable[[Take[P]], Awaitable[Mapping[str, V]]]
"""Makes the call; the answer need not name every id. Calls `Take` once its turn has come."""


Key = tuple[Any, ...]
PATIENCE_SECONDS = 1.0
"""What waits for longer is no longer held back by the call before it."""
CLOCK_SECONDS = 0.002
"""A loop's timers may come early by its clock's grain."""


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
    came: float
    """By the loop's clock."""


@dataclass(slots=True)
class _Queue(Generic[P, V]):
    rows: deque[_Row[P, V]] = field(default_factory=deque)
    coming: list[object] = field(default_factory=list)
    """Batches that have not taken their rows yet, first come first."""
    under_way: int = 0
    """Batches that have."""
    timer: asyncio.TimerHandle | None = None

    def wake(self, at: float, act: Callable[[], None]) -> None:
        """`act` at that time of the loop's, or before: who is woken looks again."""
        if self.timer is None or at < self.timer.when():
            self.rest()
            self.timer = asyncio.get_running_loop().call_at(at, act)

    def rest(self) -> None:
        """Nobody is woken."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Batches(Generic[P, V]):
    """Rows of one kind of call, by a key whose first part is the account, and that says which call (lane, path, columns)."""

    def __init__(self, size: int, *, worth_waiting: Callable[[Key], float] = lambda _key: 0.0) -> None:
        """`worth_waiting`: for so many seconds rows may wait for others to fill their call; asked often, and never blocks."""
        self._size = size
        self._worth_waiting = worth_waiting
        self._queues: dict[Key, _Queue[P, V]] = {}
        self._lock = threading.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, key: Key, rows: Mapping[str, P], run: Run[P, V]) -> dict[str, V]:
        """Each row's part of the answer, as far as there is one. Raises what the call of any of these rows raised."""
        if not rows:
            return {}
        loop = asyncio.get_running_loop()
        asked: _Asked[V] = _Asked(len(rows), loop.create_future())
        now = loop.time()
        mine: list[_Row[P, V]] = [_Row(one, payload, asked, now) for one, payload in rows.items()]
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            queue.rows.extend(mine)
        self._start(key, queue, run)
        await asked.done
        if asked.failed is not None:
            raise asked.failed
        return {one: asked.answer[one] for one in rows if one in asked.answer}

    def _start(self, key: Key, queue: _Queue[P, V], run: Run[P, V]) -> None:
        """As many batches as what waits fills; one that is not full, if it has waited for as long as it has to."""
        now = asyncio.get_running_loop().time()
        with self._lock:
            full, rest = divmod(len(queue.rows), self._size)
            due = 0.0
            coming = len(queue.coming)
            if rest and full + 1 > coming:
                patience = PATIENCE_SECONDS if queue.under_way else 0.0
                due = queue.rows[0].came + max(patience, self._worth_waiting(key))
            missing = [object() for _ in range(full + (1 if rest and due <= now + CLOCK_SECONDS else 0) - coming)]
            queue.coming.extend(missing)
            # Those who come later begin a batch of their own or fill this one; nobody else would wake what is too little for it now.
            waits = bool(rest) and len(queue.coming) <= full
        if waits:

            def late() -> None:
                queue.timer = None
                self._start(key, queue, run)

            queue.wake(due, late)
        for place in missing:
            task = asyncio.create_task(self._batch(key, queue, run, place))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _batch(self, key: Key, queue: _Queue[P, V], run: Run[P, V], place: object) -> None:
        rows: list[_Row[P, V]] = []
        taken = False

        def take() -> dict[str, P]:
            nonlocal taken
            with self._lock:
                if not taken:
                    taken = True
                    queue.coming.remove(place)
                    queue.under_way += 1
                    rows.extend(self._taken(queue))
                return {row.id: row.payload for row in rows}

        def fill() -> float:
            with self._lock:
                if taken:
                    return 1.0
                before = queue.coming.index(place) * self._size
                return min(1.0, max(0, len(queue.rows) - before) / self._size)

        answer: Mapping[str, V] = {}
        failed: BaseException | None = None
        try:
            with filling(fill):
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
            queue.rest()
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
            queue.rest()
            with self._lock:
                waiting, queue.rows = list(queue.rows), deque()
            for row in waiting:
                row.asked.done.cancel()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
