"""The table `backfills`: what was planned, where each kind of record stands, what it used today.

Law: a position is noted only after what lies before it is acknowledged by the broker. Whoever runs a backfill holds its
advisory lock; a runner that died leaves none behind.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from console.runtime import ConsoleError
from infra.database.tables import backfills

State = Literal["planned", "queued", "running", "paused", "cancelling", "cancelled", "done", "failed"]
RESUMABLE: tuple[State, ...] = ("planned", "queued", "running", "paused", "failed")
END = "end"
"""Position of a kind that is through."""
_LOCK_SPACE = 0x484C_4246


@dataclass(frozen=True, slots=True)
class Backfill:
    """One row."""

    id: str
    tenant: str
    account: str
    state: State
    objects: Sequence[str]
    planned: Mapping[str, Mapping[str, int]]
    position: Mapping[str, str]
    done: Mapping[str, int]
    rate: float
    calls_per_day: int
    calls_day: date | None
    calls_used: int
    created_by: str
    created_at: datetime
    started_at: datetime | None
    seen_at: datetime | None
    ended_at: datetime | None
    waiting: str
    error: str

    @property
    def records(self) -> int:
        """As many as were counted when it was planned."""
        return sum(kind.get("records", 0) for kind in self.planned.values())

    @property
    def calls(self) -> int:
        """Calls of the CRM's API that all of it takes, at most: listing, and reading what changed."""
        return sum(kind.get("calls", 0) for kind in self.planned.values())

    @property
    def records_done(self) -> int:
        """Records on the bulk lane so far."""
        return sum(self.done.values())

    @property
    def days(self) -> float:
        """How long it takes at least, by its rate and by the account's calls."""
        by_calls = max(0, self.calls - 1) // self.calls_per_day if self.calls_per_day else 0
        return max(by_calls, self.records / self.rate / 86_400)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = (
            "id",
            "tenant",
            "account",
            "state",
            "rate",
            "calls_per_day",
            "calls_used",
            "created_by",
            "waiting",
            "error",
        )
        times = ("created_at", "started_at", "seen_at", "ended_at")
        return {
            **{name: getattr(self, name) for name in names},
            "objects": list(self.objects),
            "planned": {name: dict(kind) for name, kind in self.planned.items()},
            "done": dict(self.done),
            "records": self.records,
            "records_done": self.records_done,
            "calls": self.calls,
            **{name: at.isoformat() if (at := getattr(self, name)) else None for name in times},
        }


class Backfills:
    """Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(self, **values: Any) -> Backfill:
        """A new one, in the state `planned`."""
        values = {"id": f"b{secrets.token_hex(4)}", "state": "planned", **values}
        async with self._engine.begin() as connection:
            row = (await connection.execute(backfills.insert().values(values).returning(backfills))).mappings().one()
        return Backfill(**row)

    async def get(self, id: str, tenant: str = "") -> Backfill:  # noqa: A002 - the column's name
        """Raises ConsoleError for one that the tenant does not have."""
        asked = sa.select(backfills).where(backfills.c.id == id)
        if tenant:
            asked = asked.where(backfills.c.tenant == tenant)
        async with self._engine.connect() as connection:
            row = (await connection.execute(asked)).mappings().first()
        if row is None:
            raise ConsoleError(f"there is no backfill {id!r}: `hookline backfill list` shows those that exist")
        return Backfill(**row)

    async def all(self, tenant: str = "", account: str = "") -> list[Backfill]:
        """Newest first."""
        asked = sa.select(backfills).order_by(backfills.c.created_at.desc(), backfills.c.id)
        for value, column in ((tenant, backfills.c.tenant), (account, backfills.c.account)):
            if value:
                asked = asked.where(column == value)
        async with self._engine.connect() as connection:
            return [Backfill(**row) for row in (await connection.execute(asked)).mappings()]

    async def orphans(self, quiet_seconds: float) -> list[Backfill]:
        """Those that should run and whose runner gave no sign of life for so long, or that nobody has begun."""
        quiet = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, quiet_seconds)
        begun = sa.and_(
            backfills.c.state.in_(("running", "cancelling")),
            sa.or_(backfills.c.seen_at.is_(None), backfills.c.seen_at < quiet),
        )
        asked = sa.select(backfills).where(sa.or_(backfills.c.state == "queued", begun)).order_by("created_at")
        async with self._engine.connect() as connection:
            return [Backfill(**row) for row in (await connection.execute(asked)).mappings()]

    async def update(self, id: str, *, only_from: Sequence[State] = (), **values: Any) -> bool:  # noqa: A002 - the column's name
        """Change columns; with `only_from` only in these states. Returns whether it did."""
        statement = backfills.update().where(backfills.c.id == id).values(**values)
        if only_from:
            statement = statement.where(backfills.c.state.in_(only_from))
        async with self._engine.begin() as connection:
            return bool((await connection.execute(statement)).rowcount)

    async def cancel(self, one: Backfill) -> State:
        """End it after the page under way; returns the state that it is in then."""
        if await self.update(
            one.id, only_from=("planned", "queued", "paused", "failed"), state="cancelled", ended_at=sa.func.now()
        ):
            return "cancelled"
        if await self.update(one.id, only_from=("running", "cancelling"), state="cancelling"):
            return "cancelling"
        return (await self.get(one.id)).state

    @asynccontextmanager
    async def running(self, id: str) -> AsyncIterator[bool]:  # noqa: A002 - the column's name
        """Hold its lock for the length of the block; False: somebody else does."""
        async with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            place = {"space": _LOCK_SPACE, "id": zlib.crc32(id.encode()) - 2**31}
            held = bool(await connection.scalar(sa.text("SELECT pg_try_advisory_lock(:space, :id)"), place))
            try:
                yield held
            finally:
                if held:
                    await connection.execute(sa.text("SELECT pg_advisory_unlock(:space, :id)"), place)
