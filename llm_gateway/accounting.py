"""Who asked what, and what it cost: counted in memory, added to Postgres by day in batches, shown as metrics.

Law: counting never makes a question wait or fail. What could not be written is kept and written later; a process that
dies loses at most the last second's rows. Rows are sums, so any number of replicas may add to one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.database.tables import llm_usage
from infra.telemetry import log
from llm_gateway.prompt import Caller, ModelUnavailable
from llm_gateway.providers.provider import Completed

FLUSH_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
_EPOCH = date(1970, 1, 1)
_LAST_TRIES = 3

Confirm = Callable[[Mapping[tuple[str, str, date], Mapping[str, int]]], Awaitable[None]]
"""Tells the limits what Postgres now holds: by (tenant, generation, day), requests by user."""


class _Row(NamedTuple):
    day: date
    tenant: str
    user: str
    analysis: str
    model: str
    prompt_version: str


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    cache_hits: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: _Sums) -> None:
        self.calls += other.calls
        self.cache_hits += other.cache_hits
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd


@dataclass(frozen=True, slots=True)
class Stats:
    """Since the gateway started, in this process."""

    calls: int
    """Answers that a provider gave."""
    cache_hits: int
    """Answers that were there already, or that somebody else was just asking for."""
    input_tokens: int
    output_tokens: int
    cost_usd: float
    repairs: int
    """Of the calls, second questions after an answer that was of no use."""
    by_analysis: Mapping[str, int] = field(default_factory=dict)
    """Calls by analysis."""


class Ledger:
    """One per gateway."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._confirm: Confirm = _nobody
        self._rows: defaultdict[_Row, _Sums] = defaultdict(_Sums)
        self._counted: defaultdict[tuple[str, str, date], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._confirmable: dict[tuple[str, str, date], dict[str, int]] = {}
        self._total = _Sums()
        self._repairs = 0
        self._by_analysis: defaultdict[str, int] = defaultdict(int)
        self._writing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    def confirm_with(self, confirm: Confirm) -> None:
        """Whom to tell after each write; limits and ledger need one another."""
        self._confirm = confirm

    def start(self) -> None:
        """Write every second from now on."""
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left, three tries; what then remains is named in the log."""
        if self._loop is not None:
            # Not in the middle of a commit, whose rows would then be written twice.
            async with self._writing:
                self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None
        for attempt in range(_LAST_TRIES):
            # Without Redis the limits cannot be told; they find the rows in Postgres when they need them.
            if await self._flush_quietly() or not self._rows:
                return
            await asyncio.sleep(0.2 * (attempt + 1))
        log("llm_gateway").error(
            "usage_lost", rows=len(self._rows), calls=sum(sums.calls for sums in self._rows.values())
        )

    def call(
        self,
        caller: Caller,
        provider: str,
        version: str,
        completed: Completed,
        cost: float,
        *,
        day: int,
        generation: str,
        repair: bool,
    ) -> None:
        """One answer of a provider; `day` and `generation` are those of its settlement."""
        sums = _Sums(1, 0, completed.input_tokens, completed.output_tokens, cost)
        on = _EPOCH + timedelta(days=day)
        self._add(_Row(on, caller.tenant, caller.user, caller.analysis, completed.model, version), sums)
        self._counted[caller.tenant, generation, on][caller.user] += 1
        self._by_analysis[caller.analysis] += 1
        self._repairs += repair
        metrics.MODEL_CACHE.labels("miss").inc()
        metrics.MODEL_TOKENS.labels(provider, completed.model, "input").inc(completed.input_tokens)
        metrics.MODEL_TOKENS.labels(provider, completed.model, "output").inc(completed.output_tokens)
        metrics.MODEL_COST.labels(provider, completed.model).inc(cost)

    def hit(self, caller: Caller, model: str, version: str) -> None:
        """One answer that cost nothing."""
        self._add(
            _Row(datetime.now(UTC).date(), caller.tenant, caller.user, caller.analysis, model, version),
            _Sums(cache_hits=1),
        )
        metrics.MODEL_CACHE.labels("hit").inc()

    def stats(self) -> Stats:
        """What was counted since the start."""
        total = self._total
        return Stats(
            total.calls,
            total.cache_hits,
            total.input_tokens,
            total.output_tokens,
            total.cost_usd,
            self._repairs,
            dict(self._by_analysis),
        )

    async def flush(self) -> None:
        """Add what was counted to Postgres, then tell the limits; raises SQLAlchemyError and ModelUnavailable, losing nothing.

        A connection that breaks while it commits may have the rows written twice: too many, never too few.
        """
        async with self._writing:
            await self._write()
            if self._confirmable:
                confirmable, self._confirmable = self._confirmable, {}
                try:
                    await self._confirm(confirmable)
                except BaseException:
                    self._confirmable = _merged(confirmable, self._confirmable)
                    raise
            else:
                await self._confirm({})

    async def counted(self, tenant: str) -> tuple[date, Mapping[str, int]]:
        """The tenant's requests of today (UTC, by Postgres' clock), by user; raises ModelUnavailable."""
        today = sa.select(sa.cast(sa.func.timezone("utc", sa.func.now()), sa.Date)).scalar_subquery()
        asked = (
            sa.select(llm_usage.c.day, llm_usage.c.user, sa.func.sum(llm_usage.c.calls))
            .where(llm_usage.c.tenant == tenant, llm_usage.c.day == today)
            .group_by(llm_usage.c.day, llm_usage.c.user)
        )
        try:
            async with self._writing:
                await self._write()
            async with self._engine.connect() as connection:
                rows = (await connection.execute(asked)).all()
                day = rows[0][0] if rows else (await connection.execute(sa.select(today))).scalar_one()
        except (SQLAlchemyError, OSError) as error:
            raise ModelUnavailable(
                "DATABASE_AWAY",
                f"quotas cannot be rebuilt without Postgres ({type(error).__name__}). Look at DATABASE_URL",
                2.0,
            ) from error
        return day, {user: int(calls) for _, user, calls in rows}

    def _add(self, row: _Row, sums: _Sums) -> None:
        self._rows[row].add(sums)
        self._total.add(sums)

    async def _write(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, defaultdict(_Sums)
        counted, self._counted = self._counted, defaultdict(lambda: defaultdict(int))
        try:
            async with self._engine.begin() as connection:
                # Sorted, so that two replicas that add to the same rows do not lock each other out.
                await connection.execute(
                    _ADD,
                    [
                        {
                            **row._asdict(),
                            "calls": sums.calls,
                            "cache_hits": sums.cache_hits,
                            "input_tokens": sums.input_tokens,
                            "output_tokens": sums.output_tokens,
                            "cost_usd": sums.cost_usd,
                        }
                        for row, sums in sorted(rows.items(), key=lambda item: item[0])
                    ],
                )
        except BaseException:
            for row, sums in rows.items():
                self._rows[row].add(sums)
            for day, users in counted.items():
                for user, count in users.items():
                    self._counted[day][user] += count
            raise
        self._confirmable = _merged(self._confirmable, counted)

    async def _run(self) -> None:
        pause = FLUSH_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = FLUSH_SECONDS if await self._flush_quietly() else min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _flush_quietly(self) -> bool:
        try:
            await self.flush()
        except (SQLAlchemyError, OSError, ModelUnavailable) as error:
            log("llm_gateway").warning("usage_kept_for_later", error=type(error).__name__, rows=len(self._rows))
            return False
        return True


async def _nobody(counted: Mapping[tuple[str, str, date], Mapping[str, int]]) -> None:
    """Nobody is told."""


def _upsert() -> sa.sql.dml.Insert:
    statement = insert(llm_usage)
    sums = ("calls", "cache_hits", "input_tokens", "output_tokens", "cost_usd")
    return statement.on_conflict_do_update(
        index_elements=list(llm_usage.primary_key.columns),
        set_={name: llm_usage.c[name] + statement.excluded[name] for name in sums},
    )


_ADD = _upsert()


def _merged(
    one: Mapping[tuple[str, str, date], Mapping[str, int]], other: Mapping[tuple[str, str, date], Mapping[str, int]]
) -> dict[tuple[str, str, date], dict[str, int]]:
    merged = {key: dict(users) for key, users in one.items()}
    for key, users in other.items():
        into = merged.setdefault(key, {})
        for user, count in users.items():
            into[user] = into.get(user, 0) + count
    return merged
