"""The table `reconciliations`: up to when each kind of record of an account was compared, and the stretch under way.

Law: whoever reconciles an account holds its advisory lock, which dies with its connection. A position is noted only after what lies
before it is acknowledged by the broker, and only by whom it still belongs to: a hung owner that wakes up changes nothing.
Every method raises what the database raises and is safe to call again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.accounts import Account
from infra.database.tables import hydrator_state, reconciliations, set_aside
from ingress.reconcile.judging import Knowledge, Known
from schemas.record import RecordRef

_LOCK_SPACE = 0x484C_5243
_R = reconciliations.c


class LostError(Exception):
    """Somebody else has gone on with this kind of record meanwhile: leave it to them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one row, what comparing goes by."""

    account: str
    object: str
    since: datetime
    """Compared up to here, less the overlap."""
    until: datetime | None
    """End of the stretch under way; None: none is."""
    position: str | None
    compared: int
    """Records listed so far, again and again."""


class Reconciliations:
    """See the module."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._session: AsyncConnection | None = None
        self._held: set[str] = set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def owning(self, account: str) -> AsyncIterator[bool]:
        """Be the one who reconciles this account for the length of the block; False: somebody else is.

        All locks of a process are on one connection of the pool, which others need for the work under the lock.
        """
        async with self._turn:
            held = account not in self._held and bool(await self._on_session("pg_try_advisory_lock", account))
            if held:
                self._held.add(account)
            await self._leave_session()
        try:
            yield held
        finally:
            if held:
                async with self._turn:
                    self._held.discard(account)
                    if self._session is not None:
                        await self._on_session("pg_advisory_unlock", account)
                    await self._leave_session()

    async def _on_session(self, function: str, account: str) -> Any:
        place = {"space": _LOCK_SPACE, "id": zlib.crc32(account.encode()) - 2**31}
        if self._session is None:
            self._session = await self._engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        try:
            return await self._session.scalar(sa.text(f"SELECT {function}(:space, :id)"), place)
        except BaseException:
            # Its locks are gone with it, or will be; whoever goes on without one is stopped by `LostError` where it matters.
            session, self._session = self._session, None
            await session.invalidate()
            await session.close()
            raise

    async def _leave_session(self) -> None:
        if self._session is not None and not self._held:
            session, self._session = self._session, None
            await session.close()

    async def due(self, accounts: Collection[str], every: timedelta) -> list[str]:
        """Of these accounts, the ones that nobody has tried for so long, new ones among them; in the order given."""
        if not accounts:
            return []
        asked = (
            sa.select(_R.account, sa.func.max(_R.tried_at))
            .where(_R.account.in_(accounts))
            .group_by(_R.account)
            .having(sa.func.max(_R.tried_at) > sa.func.now() - every)
        )
        async with self._engine.connect() as connection:
            rested = {row[0] for row in await connection.execute(asked)}
        return [each for each in accounts if each not in rested]

    async def begin(self, account: Account, object_: str, *, first: timedelta, grace: timedelta) -> Standing:
        """Its row, with a stretch under way: the one that somebody left, or a new one up to `grace` ago.

        An account that is new here begins `first` before now: what lies before is a backfill's matter.
        """
        key = {"account": account.id, "object": object_}
        made = insert(reconciliations).values(**key, tenant=account.tenant, since=sa.func.now() - first)
        going = (
            reconciliations.update()
            .where(_R.account == account.id, _R.object == object_)
            .values(
                tried_at=sa.func.now(),
                until=sa.func.coalesce(_R.until, sa.func.greatest(_R.since, sa.func.now() - grace)),
            )
            .returning(*(_R[name] for name in Standing.__dataclass_fields__))
        )
        async with self._engine.begin() as connection:
            await connection.execute(made.on_conflict_do_nothing())
            row = (await connection.execute(going)).mappings().one()
        return Standing(**row)

    async def advance(self, one: Standing, position: str | None, *, compared: int, fed: int) -> Standing:
        """Everything before `position` is acknowledged. Raises LostError."""
        values = {"position": position, "compared": _R.compared + compared, "fed": _R.fed + fed}
        async with self._engine.begin() as connection:
            await self._change(connection, one, {**values, "tried_at": sa.func.now()})
        return replace(one, position=position, compared=one.compared + compared)

    async def finish(self, one: Standing, overlap: timedelta) -> None:
        """The stretch is through: the next begins `overlap` before its end. Raises LostError."""
        assert one.until is not None
        values = {
            "since": max(one.since, one.until - overlap),
            "until": None,
            "position": None,
            "ended_at": sa.func.now(),
            "waiting": "",
        }
        async with self._engine.begin() as connection:
            await self._change(connection, one, values)

    async def wait(self, account: str, object_: str, why: str) -> None:
        """It cannot go on now; it stands where it stands."""
        async with self._engine.begin() as connection:
            await connection.execute(
                reconciliations.update().where(_R.account == account, _R.object == object_).values(waiting=why[:200])
            )

    async def known(self, refs: Collection[RecordRef]) -> Knowledge:
        """What the hydrator knows of these records, and which of them wait to be read."""
        if not refs:
            return Knowledge({})
        key = sa.tuple_(*(hydrator_state.c[name] for name in RecordRef._fields[:3]), hydrator_state.c.record_id)
        aside = sa.tuple_(*(set_aside.c[name] for name in RecordRef._fields[:3]), set_aside.c.record_id)
        wanted = [tuple(ref) for ref in refs]
        h = hydrator_state.c
        states = sa.select(h.tenant, h.account, h.object, h.record_id, h.modified_at, h.read_at, h.deleted)
        held = sa.select(*aside.clauses).where(aside.in_(wanted), set_aside.c.emitted_at.is_(None))
        async with self._engine.connect() as connection:
            rows = (await connection.execute(states.where(key.in_(wanted)))).all()
            waiting = (await connection.execute(held)).all()
        return Knowledge(
            {RecordRef(*row[:4]): Known(row[4], row[5], row[6]) for row in rows},
            frozenset(RecordRef(*row) for row in waiting),
        )

    @staticmethod
    async def _change(connection: AsyncConnection, one: Standing, values: Mapping[str, object]) -> None:
        mine = sa.and_(
            _R.account == one.account,
            _R.object == one.object,
            _R.until == one.until,
            _R.position.is_not_distinct_from(one.position),
        )
        done = await connection.execute(reconciliations.update().where(mine).values(**values))
        if done.rowcount != 1:
            raise LostError
