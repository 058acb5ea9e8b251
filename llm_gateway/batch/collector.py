"""The collector: from questions that wait to a batch at the provider, and from its files back to answers.

Law: one replica at a time, by a lock of Postgres; any of them may die between any two steps, and the next one goes on where it
was (see `steps`). A batch may hold questions of several tenants: one key of the provider's and one model, ids that say nothing, and
every answer is sealed and accounted for its own tenant. It waits for nobody, and nobody waits for it: a question that it cannot get
answered is asked alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import redis.asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.telemetry import log
from infra.unavailable import as_unavailable
from llm_gateway.batch.rows import Batch, Rows
from llm_gateway.batch.steps import Keys, Steps
from llm_gateway.core import Core
from llm_gateway.providers.provider import BatchProvider, ProviderFailure
from llm_gateway.question import Line
from schemas.record import RecordRef

LOOK_SECONDS = 15.0
UNSURE_SECONDS = 60.0
"""A batch whose making nobody saw the end of may still appear for so long; then it is made anew."""
OVERDUE_SECONDS = 48 * 3_600.0
"""A batch that is not over by then (the provider's window is a day) is given up."""
MOST_BYTES = 60 * 1024 * 1024
"""Of questions in one file, their lines not counted: Groq takes 100 MB (https://console.groq.com/docs/api-reference, files)."""
_MOST_BATCHES = 20
"""That are begun in one look."""
_RELEASE_EVERY = 20
_PRUNE_EVERY = 200
_LOCK = "hookline-llm-batches"
_MOST_WARNED = 1_000

_log = log("llm_batches")


Release = Callable[[], Awaitable[None]]
"""Has records whose questions no longer wait come again. Raises what the database raises; safe to call again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When questions become a batch."""

    on: bool
    """Off: questions that wait are sent back to be asked alone; batches under way are seen to their end."""
    seconds: float
    most: int


class Collector:
    """One per process; `run` beside everything else."""

    def __init__(
        self,
        engine: AsyncEngine,
        redis: redis.asyncio.Redis,
        keys: Keys,
        core: Core,
        *,
        providers: Sequence[BatchProvider],
        pace: Pace,
        release: Release,
        look_seconds: float = LOOK_SECONDS,
        unsure_seconds: float = UNSURE_SECONDS,
        overdue_seconds: float = OVERDUE_SECONDS,
    ) -> None:
        """`redis` returns bytes. `providers`: those whose batches this process can ask for."""
        self._engine = engine
        self._providers = {(each.name, each.key): each for each in providers}
        self._pace = pace
        self._release = release
        self._look_seconds = look_seconds
        self._unsure = unsure_seconds
        self._overdue = overdue_seconds
        self._looks = 0
        self._warned: set[tuple[str, str]] = set()
        self.rows = Rows(engine)
        self._steps = Steps(engine, redis, keys, core, rows=self.rows, unsure_seconds=unsure_seconds)

    async def run(self) -> None:
        """Until cancelled. While Postgres is away it waits: nothing is lost."""
        while True:
            try:
                await self.look()
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                _log.warning("batches_wait", part=away.part)
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> bool:
        """Go as far as it goes now; False when another replica does. Raises what the database raises."""
        async with self._alone() as mine:
            if not mine:
                return False
            ended = await self._go_on()
            if self._pace.on:
                ended |= await self._collect()
            else:
                ended |= bool(await self.withdraw())
            if ended or self._looks % _RELEASE_EVERY == 0:
                await self._release()
            if self._looks % _PRUNE_EVERY == 0:
                await self.rows.prune()
            self._looks += 1
            await self._show()
        return True

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        async with self._engine.connect() as connection:
            locked = await connection.scalar(
                sa.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 7))"), {"name": _LOCK}
            )
            # The lock is the session's: a transaction that stays open meanwhile would only be in everybody's way.
            await connection.commit()
            if not locked:
                yield False
                return
            try:
                yield True
            finally:
                # Given back to the pool with the lock on it, it would keep everybody out.
                await connection.invalidate()

    async def withdraw(self, *, refs: Collection[RecordRef] | None = None, asker: str | None = None) -> int:
        """Questions that were not sent yet are not asked (of these records, of this asker); how many. Raises what the database raises."""
        items = await self.rows.take_out(refs=refs, asker=asker)
        self._steps.give_back(items, Line("", ""))
        return len(items)

    async def _collect(self) -> bool:
        ended, claimed = False, 1
        for _ in range(_MOST_BATCHES):
            if not claimed:
                break
            claimed = 0
            for each in await self.rows.ready(self._pace.seconds, self._pace.most):
                if (each.provider, each.key) in self._providers:
                    claimed += await self.rows.claim(each, self._pace.most, MOST_BYTES)
            if claimed:
                ended |= await self._go_on()
        return ended

    async def _go_on(self) -> bool:
        """Take every batch as far as it goes; whether one ended."""
        ended = False
        for batch in await self.rows.open(self._unsure, self._overdue):
            provider = self._providers.get((batch.line.provider, batch.line.key))
            if provider is None:
                ended |= await self._steps.given_up(batch, "another key")
                continue
            try:
                ended |= await self._steps.through(batch, provider)
            except ProviderFailure as failure:
                self._warn(batch, f"{failure.cause}: {failure.detail}")
                ended |= await self._steps.given_up(batch, failure.cause)
        return ended

    def _warn(self, batch: Batch, why: str) -> None:
        if (batch.id, why) not in self._warned:
            if len(self._warned) > _MOST_WARNED:
                self._warned.clear()
            self._warned.add((batch.id, why))
            _log.warning("batch_waits", batch=batch.id, state=batch.state, model=batch.line.model, why=why)

    async def _show(self) -> None:
        asked, made = await self.rows.counts(), await self.rows.batches_by_state()
        for state in ("waiting", "sent"):
            metrics.MODEL_BATCH_QUESTIONS.labels(state).set(asked.get(state, 0))
        for state in ("claimed", "uploaded", "running"):
            metrics.MODEL_BATCHES_OPEN.labels(state).set(made.get(state, 0))
