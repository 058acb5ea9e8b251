"""One statement a batch, in one round trip: how the hot paths ask PostgreSQL.

Law: one statement is one transaction by the server's own rules, so no BEGIN and no COMMIT travel with it. It goes to the
driver directly, and over connections that stay in autocommit and out of SQLAlchemy's pool between two statements: handing
one over costs more CPU than the statement does. What is kept counts against the pool, is at most half of it, and is given
up when the engine is disposed of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.util import greenlet_spawn

from infra import refused
from infra.database.arrays import read, written
from infra.database.engine import RECYCLE_SECONDS, hung_up
from infra.unavailable import Unavailable

WITHOUT_FLUSH = "(SELECT set_config('synchronous_commit', 'off', true)) AS without_flush"
"""In a statement's FROM: its commit is not waited for to be on the disk. Nothing that was committed in this way is lost while
PostgreSQL stands, and whatever is flushed later takes it along; a server that crashes first may lose the last 0.6 s of it.
For what is made good by whoever did not get to the end, never for what another party was told.
Source: https://www.postgresql.org/docs/current/wal-async-commit.html
"""


class _Kept:
    """Connections of one engine that are ready for the next statement; belongs to one event loop."""

    def __init__(self, engine: Engine) -> None:
        pool = engine.pool
        self._room = pool.size() // 2 if isinstance(pool, QueuePool) else 0
        self._idle: list[tuple[PoolProxiedConnection, float]] = []
        event.listen(engine, "engine_disposed", self._disposed)

    def take(self) -> tuple[PoolProxiedConnection, float] | None:
        """The one that was used last, whose statements the server has at hand; None when none is there."""
        return self._idle.pop() if self._idle else None

    def keep(self, connection: PoolProxiedConnection, since: float) -> bool:
        """False when there are enough, or when it is old: then it is the pool's again. `since`: by the monotonic clock."""
        if len(self._idle) >= self._room or time.monotonic() - since > RECYCLE_SECONDS:
            return False
        self._idle.append((connection, since))
        return True

    def _disposed(self, _engine: Engine) -> None:
        # The pool that they came from is no more: back there, nobody would ever close them.
        while self._idle:
            connection, _ = self._idle.pop()
            connection.invalidate()


_KEPT: WeakKeyDictionary[Engine, _Kept] = WeakKeyDictionary()


class Statements:
    """Runs single statements on an engine's pool. Safe for any number of tasks of one event loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        sync = engine.sync_engine
        self._kept = _KEPT.get(sync) or _KEPT.setdefault(sync, _Kept(sync))

    async def run(self, statement: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of `statement` with `%(name)s` placeholders; none if it returns none.

        The driver prepares it once it has come a few times. Raises Unavailable when the server is away; running it again is
        as safe as the statement is.
        """
        connection, since = await self._connection()
        driver = _driver(connection)
        try:
            text, arrays = read(statement)
            cursor = await driver.execute(text, written(given, arrays) if arrays else given)
            # By the answer itself: `description` would make an object of each of its columns.
            found = cursor.pgresult
            return await cursor.fetchall() if found is not None and found.status == ExecStatus.TUPLES_OK else []
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if isinstance(error.__cause__, TimeoutError):
                # Whatever made this connection fall silent did so to its neighbours: each of them would cost the same wait.
                await self._engine.dispose()
            raise Unavailable("postgres", why=type(error).__name__) from error
        finally:
            if driver.closed or driver.info.transaction_status != TransactionStatus.IDLE:
                # Dead, which the pool saw nothing of, or cut short in the middle of an answer.
                await greenlet_spawn(connection.invalidate)
                await greenlet_spawn(connection.close)
            elif not self._kept.keep(connection, since):
                await driver.set_autocommit(False)
                await greenlet_spawn(connection.close)

    async def _connection(self) -> tuple[PoolProxiedConnection, float]:
        while (found := self._kept.take()) is not None:
            if not hung_up(_driver(found[0])):
                return found
            await greenlet_spawn(found[0].invalidate)
        try:
            connection = await self._engine.raw_connection()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # The pool hands the driver's own error on where it cannot connect.
            raise Unavailable("postgres", why=type(error).__name__, remedy=refused.postgres(error)) from error
        try:
            await _driver(connection).set_autocommit(True)
        except psycopg.Error as error:
            await greenlet_spawn(connection.invalidate)
            raise Unavailable("postgres", why=type(error).__name__) from error
        return connection, time.monotonic()


def _driver(connection: PoolProxiedConnection) -> psycopg.AsyncConnection[Any]:
    driver: DBAPIConnection | None = connection.driver_connection
    return driver  # type: ignore[return-value]  # SQLAlchemy types it for any driver
