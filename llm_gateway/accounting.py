"""Who asked what, and what it cost: counted in memory, added to Postgres by day in batches, shown as metrics.

Law: counting never makes a question wait or fail. What could not be written is kept and written later, but for a row that Postgres
refuses: it is named in the log. A process that dies loses at most the last second's rows. Rows are sums, so any number of replicas may add to one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra import metrics
from infra.database.tables import llm_usage
from infra.telemetry import log
from llm_gateway.held import held_for, untold
from llm_gateway.policy import nano
from llm_gateway.prompt import ModelUnavailable
from llm_gateway.question import Question, Usage
from llm_gateway.settling import Amount, Counted

FLUSH_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
_EPOCH = date(1970, 1, 1)
_LAST_TRIES = 3

_Counted = Mapping[tuple[str, str, date], Mapping[str, Amount]]
Confirm = Callable[[_Counted], Awaitable[None]]
"""Tells the limits what Postgres now holds: by (tenant, generation, day), amounts by user."""


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
    cached_input_tokens: int = 0
    attempts: int = 0
    model_seconds: float = 0.0
    cache_saved_usd: float = 0.0
    prompt_cache_saved_usd: float = 0.0
    packed: int = 0
    packed_saved_usd: float = 0.0
    batched: int = 0
    batch_saved_usd: float = 0.0

    def add(self, other: _Sums) -> None:
        # Written out: with every answer, twice.
        self.calls += other.calls
        self.cache_hits += other.cache_hits
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd
        self.cached_input_tokens += other.cached_input_tokens
        self.attempts += other.attempts
        self.model_seconds += other.model_seconds
        self.cache_saved_usd += other.cache_saved_usd
        self.prompt_cache_saved_usd += other.prompt_cache_saved_usd
        self.packed += other.packed
        self.packed_saved_usd += other.packed_saved_usd
        self.batched += other.batched
        self.batch_saved_usd += other.batch_saved_usd


_SUMS = tuple(each.name for each in fields(_Sums))


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
    cache_saved_usd: float = 0.0
    prompt_cache_saved_usd: float = 0.0
    packed: int = 0
    """Answers that shared a call with another."""
    packed_saved_usd: float = 0.0


class Ledger:
    """One per gateway."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._confirm: Confirm = _nobody
        self._rows: defaultdict[_Row, _Sums] = defaultdict(_Sums)
        self._unconfirmed: dict[tuple[str, str, date], dict[str, Amount]] = {}
        self._confirmable: dict[tuple[str, str, date], dict[str, Amount]] = {}
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

    def call(self, question: Question, usage: Usage, *, day: str, repair: bool = False) -> None:
        """One answer of a provider, or what was sent and not heard of; `day` (since 1970; '' for today) is that of its reservation."""
        self._add(_row(question, usage, day), _sums(usage))
        self._by_analysis[question.analysis] += usage.calls
        self._repairs += repair
        show(question.line.provider, usage)

    def settled(self, question: Question, usage: Usage, *, day: str, generation: str) -> None:
        """Redis has counted that answer, in this generation of its state; it is confirmed when Postgres holds it."""
        amount = (usage.calls, usage.input_tokens + usage.output_tokens, nano(usage.cost_usd))
        _count(self._unconfirmed.setdefault((question.tenant, generation, _on(day)), {}), question.user, amount)

    def hit(self, question: Question, model: str, saved_usd: float = 0.0) -> None:
        """One answer that cost nothing; `saved_usd`: what it had cost when it was asked."""
        self._add(
            _Row(datetime.now(UTC).date(), question.tenant, question.user, question.analysis, model, question.version),
            _Sums(cache_hits=1, cache_saved_usd=saved_usd),
        )
        _hits().inc()
        if saved_usd:
            metrics.MODEL_SAVED.labels("cache").inc(saved_usd)

    def took(self, analysis: str, usage: Usage) -> None:
        """An answer that a batch brought: in Postgres already, so in this process' own count alone."""
        self._total.add(_sums(usage))
        self._by_analysis[analysis] += 1

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
            total.cache_saved_usd,
            total.prompt_cache_saved_usd,
            total.packed,
            total.packed_saved_usd,
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

    async def counted(self, tenant: str) -> Counted:
        """The tenant's day and month (UTC, by Postgres' clock), and what is held for its batches; raises ModelUnavailable."""
        today = sa.select(sa.cast(sa.func.timezone("utc", sa.func.now()), sa.Date)).scalar_subquery()
        amounts = (
            sa.func.sum(llm_usage.c.calls),
            sa.func.sum(llm_usage.c.input_tokens + llm_usage.c.output_tokens),
            sa.func.sum(llm_usage.c.cost_usd),
        )
        mine = llm_usage.c.tenant == tenant
        by_user = sa.select(llm_usage.c.user, *amounts).where(mine, llm_usage.c.day == today).group_by(llm_usage.c.user)
        of_month = sa.select(*amounts).where(mine, llm_usage.c.day >= sa.func.date_trunc("month", today))
        try:
            async with self._writing:
                await self._write()
            # One snapshot: what is accounted meanwhile is held or counted, never neither.
            snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ")
            async with snapshot.connect() as connection:
                held, named = await held_for(connection, tenant), await untold(connection, tenant)
                users = (await connection.execute(by_user)).all()
                [month] = (await connection.execute(of_month)).all()
                day = (await connection.execute(sa.select(today))).scalar_one()
        except (SQLAlchemyError, OSError) as error:
            raise ModelUnavailable(
                "DATABASE_AWAY",
                f"quotas cannot be rebuilt without Postgres ({type(error).__name__}). Look at DATABASE_URL",
                2.0,
            ) from error
        return Counted(day, {row[0]: _amount(row[1:]) for row in users}, _amount(month), held, named)

    def _add(self, row: _Row, sums: _Sums) -> None:
        self._rows[row].add(sums)
        self._total.add(sums)

    async def _write(self) -> None:
        if not self._rows and not self._unconfirmed:
            return
        rows, self._rows = self._rows, defaultdict(_Sums)
        counted, self._unconfirmed = self._unconfirmed, {}
        if not rows:
            self._confirmable = _merged(self._confirmable, counted)
            return
        try:
            await self._add_all(_values(rows))
        except BaseException:
            for row, sums in rows.items():
                self._rows[row].add(sums)
            self._unconfirmed = _merged(counted, self._unconfirmed)
            raise
        self._confirmable = _merged(self._confirmable, counted)

    async def _add_all(self, rows: list[dict[str, Any]]) -> None:
        """In one transaction; a row that Postgres refuses is named in the log and left out, for it would be refused for ever."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(_ADD, rows)
        except DBAPIError as error:
            if not _refuses_a_row(error):
                raise
        else:
            return
        async with self._engine.begin() as connection:
            for row in rows:
                try:
                    async with connection.begin_nested():
                        await connection.execute(_ADD, [row])
                except DBAPIError as error:
                    if not _refuses_a_row(error):
                        raise
                    told = {name: row[name] for name in ("tenant", "analysis", "calls", "cost_usd")}
                    log("llm_gateway").error("usage_refused", error=type(error.orig).__name__, **told)

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


async def add(connection: AsyncConnection, answers: Sequence[tuple[Question, Usage, str]]) -> None:
    """Answers (question, what it took, day of its reservation) into Postgres at once, in the caller's transaction: what is written
    beside them there is accounted exactly once. Raises SQLAlchemyError.
    """
    rows: defaultdict[_Row, _Sums] = defaultdict(_Sums)
    for question, usage, day in answers:
        rows[_row(question, usage, day)].add(_sums(usage))
    if rows:
        await connection.execute(_ADD, _values(rows))


def show(provider: str, usage: Usage) -> None:
    """One answer in the metrics."""
    shown = _shown(provider, usage.model)
    shown.miss.inc(usage.calls)
    shown.input.inc(usage.input_tokens)
    shown.output.inc(usage.output_tokens)
    shown.cost.inc(usage.cost_usd)
    if usage.cached_input_tokens:
        shown.cached.inc(usage.cached_input_tokens)
        metrics.MODEL_SAVED.labels("prompt_cache").inc(usage.saved_usd)
    if usage.packed:
        metrics.MODEL_SAVED.labels("packing").inc(usage.packed_saved_usd)
    if usage.batched:
        metrics.MODEL_SAVED.labels("batch").inc(usage.batch_saved_usd)


async def _nobody(counted: _Counted) -> None:
    """Nobody is told."""


def _refuses_a_row(error: DBAPIError) -> bool:
    """Whether it is about a value (SQLSTATE classes 22 and 54, or psycopg's own check), and not about the server or the connection."""
    return isinstance(error, DataError) or (getattr(error.orig, "sqlstate", None) or "")[:2] in ("22", "54")


def _upsert() -> sa.sql.dml.Insert:
    statement = insert(llm_usage)
    return statement.on_conflict_do_update(
        index_elements=list(llm_usage.primary_key.columns),
        set_={name: llm_usage.c[name] + statement.excluded[name] for name in _SUMS},
    )


_ADD = _upsert()


def _row(question: Question, usage: Usage, day: str) -> _Row:
    return _Row(_on(day), question.tenant, question.user, question.analysis, usage.model, question.version)


def _sums(usage: Usage) -> _Sums:
    return _Sums(
        usage.calls, 0, usage.input_tokens, usage.output_tokens, usage.cost_usd, usage.cached_input_tokens, usage.attempts,
        usage.seconds, 0.0, usage.saved_usd, usage.packed, usage.packed_saved_usd, usage.batched, usage.batch_saved_usd,
    )  # fmt: skip


def _values(rows: Mapping[_Row, _Sums]) -> list[dict[str, Any]]:
    # Sorted, so that two replicas that add to the same rows do not lock each other out.
    return [
        {**row._asdict(), **{name: getattr(sums, name) for name in _SUMS}}
        for row, sums in sorted(rows.items(), key=lambda item: item[0])
    ]


def _on(day: str) -> date:
    return _EPOCH + timedelta(days=int(day)) if day else datetime.now(UTC).date()


def _amount(row: Sequence[Any]) -> Amount:
    return int(row[0] or 0), int(row[1] or 0), nano(float(row[2] or 0))


def _count(users: dict[str, Amount], user: str, amount: Amount) -> None:
    had = users.get(user, (0, 0, 0))
    users[user] = (had[0] + amount[0], had[1] + amount[1], had[2] + amount[2])


def _merged(one: _Counted, other: _Counted) -> dict[tuple[str, str, date], dict[str, Amount]]:
    merged = {key: dict(users) for key, users in one.items()}
    for key, users in other.items():
        for user, amount in users.items():
            _count(merged.setdefault(key, {}), user, amount)
    return merged


class _Shown(NamedTuple):
    """One model's metrics: looking labels up costs more than counting."""

    miss: Counter
    input: Counter
    output: Counter
    cost: Counter
    cached: Counter


@lru_cache(maxsize=256)
def _shown(provider: str, model: str) -> _Shown:
    return _Shown(
        metrics.MODEL_CACHE.labels("miss"),
        metrics.MODEL_TOKENS.labels(provider, model, "input"),
        metrics.MODEL_TOKENS.labels(provider, model, "output"),
        metrics.MODEL_COST.labels(provider, model),
        metrics.MODEL_CACHED_TOKENS.labels(provider, model),
    )


@lru_cache(maxsize=1)
def _hits() -> Counter:
    shown: Counter = metrics.MODEL_CACHE.labels("hit")
    return shown
