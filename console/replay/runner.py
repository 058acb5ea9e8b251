"""Running a replay: page by page, at its rate, until it is done, cancelled or asked to stop.

Law: offsets are committed, and progress noted, only after a page's effects are acknowledged; so whoever starts it again
repeats at most what was in work. A part that is away makes it wait, as long as it takes. What fails alone is passed over,
counted and named; when too much fails it stops, for then it is not the records' fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from console.replay.index import PAGE, Item, windows
from console.replay.snapshots import Fetched
from console.replay.store import Replay, Replays
from infra.telemetry import log
from infra.unavailable import Unavailable, as_unavailable

CONTROL_SECONDS = 1.0
"""How often the table is asked for another rate or a cancellation."""
LAST_WORD_SECONDS = 3.0
"""A live insight that was on its way when ours was published is known by then."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
MOST_FAILED = 20
"""So many failures, or a tenth of what was done, whichever is more."""

_log = log("replay")


class Work(Protocol):
    """What is done with a page of records."""

    grouped: bool
    """Whether a page is of one account and kind of record."""

    @property
    def wrote(self) -> bool:
        """Whether `settle` has something to look at."""
        ...

    async def fetch(self, items: Sequence[Item]) -> Fetched:
        """The messages, in order; each page is fetched once. Raises KafkaError."""
        ...

    async def handle(self, fetched: Fetched) -> None:
        """Return when every effect is acknowledged. Raises Unavailable; calling it again is harmless, with a part of it too."""
        ...

    async def settle(self) -> None:
        """Called every LAST_WORD_SECONDS while there is something to look at; may be called at any time, and again."""
        ...


@dataclass(slots=True)
class Progress:
    """How far it is; the same object throughout, for whoever shows it."""

    total: int
    done: int = 0
    rate: float = 0.0
    waiting: str = ""
    """For what, in words; empty while it works."""
    failed: list[str] = field(default_factory=list)
    """Records that failed alone, the first twenty."""
    failures: int = 0


class TooManyFailedError(RuntimeError):
    """Records failed that should not: a bug, or a release that does not fit its data."""


class Cancelled(Exception):  # noqa: N818 -- no error: somebody asked for it
    """`hookline replay cancel` was given."""


class Runner:
    """One run of one replay; its lock is the caller's."""

    def __init__(
        self,
        replay: Replay,
        replays: Replays,
        work: Work,
        *,
        commit: Callable[[Mapping[int, int]], Awaitable[None]],
        used: Callable[[], Mapping[str, Any]],
        stop: asyncio.Event,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`commit` takes the next offset by partition; `used` says what was used until now, earlier runs included."""
        self._replay = replay
        self._replays = replays
        self._work = work
        self._commit = commit
        self._used = used
        self._stop = stop
        self._sleep = sleep
        self._clock = clock
        self._rate = replay.rate
        self._next_look = 0.0
        self._due = 0.0
        self._settle_at = 0.0

    async def run(self, items: Sequence[Item], progress: Progress) -> bool:
        """Handle them; True when all are done, False when it was asked to stop before. Raises Cancelled, TooManyFailedError."""
        progress.rate = self._rate
        self._due = self._clock()
        for pages, finished in windows(items, grouped=self._work.grouped, size=self._size):
            for page in pages:
                if not await self._pace(len(page), progress):
                    return False
                fetched = await self._patiently(partial(self._work.fetch, page), progress)
                await self._whole(fetched, progress)
                progress.done += len(page)
                await self._look(progress)
            await self._patiently(partial(self._commit, _next(finished)), progress)
            await self._note(progress)
        while self._work.wrote:
            await self._patiently(self._work.settle, progress)
            if self._work.wrote:
                await self._sleep(LAST_WORD_SECONDS)
        await self._note(progress)
        return True

    def _size(self) -> int:
        """A second's worth: at a low rate, pages that do not come in bursts."""
        return max(1, min(PAGE, round(self._rate)))

    async def _whole(self, fetched: Fetched, progress: Progress) -> None:
        try:
            await self._patiently(lambda: self._work.handle(fetched), progress)
        except (asyncio.CancelledError, Cancelled, TooManyFailedError):
            raise
        except Exception as error:
            if len(fetched) > 1:
                middle = len(fetched) // 2
                await self._whole(fetched[:middle], progress)
                await self._whole(fetched[middle:], progress)
                return
            ref = fetched[0][0].ref
            progress.failures += 1
            if len(progress.failed) < MOST_FAILED:
                progress.failed.append(f"{ref}: {type(error).__name__}")
            _log.error("record_failed", record=str(ref), error=type(error).__name__)
            if progress.failures > max(MOST_FAILED, progress.done // 10):
                raise TooManyFailedError(
                    f"{progress.failures} records failed ({type(error).__name__} last): nothing of them was written"
                ) from error

    async def _patiently(self, act: Callable[[], Awaitable[Any]], progress: Progress) -> Any:
        wait = FIRST_WAIT
        try:
            while True:
                try:
                    return await act()
                except Exception as error:
                    away = as_unavailable(error)
                    if away is None:
                        raise
                    progress.waiting = _why(away)
                    _log.warning("replay_waits", part=away.part, why=str(away))
                    await self._rest(max(wait, away.retry_after or 0.0), progress)
                    wait = min(2 * wait, LONGEST_WAIT)
        finally:
            progress.waiting = ""

    async def _rest(self, seconds: float, progress: Progress) -> None:
        """Wait, but hear a cancellation or a stop."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            if self._stop.is_set():
                raise asyncio.CancelledError
            await self._sleep(min(left, CONTROL_SECONDS))
            await self._look(progress)

    async def _pace(self, number: int, progress: Progress) -> bool:
        """Wait for the page's turn; False when it is asked to stop."""
        while (left := self._due - self._clock()) > 0:
            if self._stop.is_set():
                return False
            before = self._rate
            await self._sleep(min(left, CONTROL_SECONDS))
            await self._look(progress)
            if self._rate != before:
                self._due = min(self._due, self._clock() + number / self._rate)
        if self._stop.is_set():
            return False
        self._due = max(self._due, self._clock() - 1.0) + number / self._rate
        return True

    async def _look(self, progress: Progress) -> None:
        """Whether another rate or the end is wanted. While Postgres is away, nobody can want either."""
        if self._clock() < self._next_look:
            return
        self._next_look = self._clock() + CONTROL_SECONDS
        try:
            now = await self._replays.get(self._replay.id)
            await self._note(progress)
        except Exception as error:
            if as_unavailable(error) is None:
                raise
            return
        self._rate = progress.rate = now.rate
        if self._work.wrote and self._clock() >= self._settle_at:
            self._settle_at = self._clock() + LAST_WORD_SECONDS
            await self._patiently(self._work.settle, progress)
        if now.state == "cancelling":
            raise Cancelled

    async def _note(self, progress: Progress) -> None:
        await self._replays.alive(self._replay.id, records_done=progress.done, used=dict(self._used()))


def _next(finished: Sequence[Item]) -> dict[int, int]:
    found: dict[int, int] = {}
    for item in finished:
        found[item.partition] = max(found.get(item.partition, 0), item.offset + 1)
    return found


def _why(away: Unavailable) -> str:
    return f"{away.part} is away" if away.part != "model" else str(away)


def committing(consumer: AIOKafkaConsumer, topic: str) -> Callable[[Mapping[int, int]], Awaitable[None]]:
    """Commits to a group whose only member commits by hand. The consumer must be assigned."""

    async def commit(offsets: Mapping[int, int]) -> None:
        await consumer.commit({TopicPartition(topic, number): offset for number, offset in offsets.items()})

    return commit
