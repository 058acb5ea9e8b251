"""One statement a batch, in one round trip: how the hot paths ask PostgreSQL.

Law: one statement is one transaction by the server's own rules, so no BEGIN and no COMMIT travel with it. It goes to the
driver directly, because SQLAlchemy's way of executing costs twice the CPU, which a batch of one record feels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from infra.unavailable import Unavailable


class Statements:
    """Runs single statements on an engine's pool. Safe for any number of tasks of one event loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(self, statement: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of `statement` with `%(name)s` placeholders; none if it returns none.

        The driver prepares it once it has come a few times. Raises Unavailable when the server is away; running it again is
        as safe as the statement is.
        """
        connection = await self._engine.raw_connection()
        driver: psycopg.AsyncConnection[Any] = connection.driver_connection  # type: ignore[assignment]  # SQLAlchemy types it for any driver
        try:
            await driver.set_autocommit(True)
            cursor = await driver.execute(statement, given)
            return await cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable("postgres", why=type(error).__name__) from error
        finally:
            if driver.closed or driver.info.transaction_status != TransactionStatus.IDLE:
                # Dead, which the pool saw nothing of, or cut short in the middle of an answer.
                await greenlet_spawn(connection.invalidate)
            else:
                await driver.set_autocommit(False)
            await greenlet_spawn(connection.close)
