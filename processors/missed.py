"""Counting changes that no webhook told: records that a reconciliation found to differ from what was published.

Law: counts, and decides nothing. At most one update a batch; a count may be one too few after a crash, never a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import reconciliations


class Missed(Protocol):
    """May wait for the database and raises what it raises."""

    async def note(self, found: Mapping[tuple[str, str], int]) -> None:
        """(account, object) → how many more."""
        ...


class PostgresMissed:
    """`reconciliations.missed`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def note(self, found: Mapping[tuple[str, str], int]) -> None:
        """See Missed."""
        if not found:
            return
        c = reconciliations.c
        async with self._engine.begin() as connection:
            for (account, object_), number in sorted(found.items()):
                mine = sa.and_(c.account == account, c.object == object_)
                values = {"missed": c.missed + number, "missed_at": sa.func.now()}
                await connection.execute(reconciliations.update().where(mine).values(**values))
