"""What of a person lies in our tables, and what is done with it.

Law: every table whose rows belong to a CRM record is here, found by its columns, so that a new one is covered by being
there: of the person all rows go, of a record that mentions the person those that may hold the person's values. A test
holds that each table of the second kind was thought about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import metadata
from schemas.record import RecordRef

Fate = Literal["delete", "keep", "empty"]

OF_MENTIONING: Final[Mapping[str, Fate]] = {
    "analyst_state": "delete",
    "insights": "delete",
    "insight_history": "empty",
    "llm_batch_requests": "delete",
    "match_index": "delete",
    "privacy_identifiers": "delete",
    "replay_results": "delete",
    # HMACs, references and causes.
    "dead_letters": "keep",
    "destination_state": "keep",
    "erased_values": "keep",
    "hydrator_state": "keep",
    "key_people": "keep",
    "set_aside": "keep",
}
"""Of a record that mentions the person. `empty`: its scores and times stay, what it said goes. A table that is not named here
loses its rows: whatever it holds is made again when the record is read again."""
_KEY = ("tenant", "account", "object", "record_id")
_PAGE = 1_000


def record_tables() -> list[sa.Table]:
    """All tables whose rows belong to a CRM record."""
    return [table for table in metadata.sorted_tables if set(_KEY) <= set(table.columns.keys())]


def _these(table: sa.Table, refs: Collection[RecordRef]) -> sa.ColumnElement[bool]:
    return sa.tuple_(*(table.c[name] for name in _KEY)).in_([tuple(ref) for ref in refs])


async def wipe(engine: AsyncEngine, person: RecordRef, mentioning: Collection[RecordRef]) -> dict[str, int]:
    """Delete and empty; returns rows by table, those without any left out. Safe to call again. Raises SQLAlchemyError."""
    counts: dict[str, int] = {}
    others = sorted(mentioning)
    pages = [others[start : start + _PAGE] for start in range(0, len(others), _PAGE)]
    for table in record_tables():
        async with engine.begin() as connection:
            done = (await connection.execute(table.delete().where(_these(table, [person])))).rowcount
            fate = OF_MENTIONING.get(table.name, "delete")
            for page in pages if fate != "keep" else []:
                these = _these(table, page)
                if fate == "delete":
                    done += (await connection.execute(table.delete().where(these))).rowcount
                else:
                    full = table.update().where(these, table.c.payload.is_not(None)).values(payload=sa.null())
                    done += (await connection.execute(full)).rowcount
        if done:
            counts[str(table.name)] = done
    return counts


async def rows_of(engine: AsyncEngine, ref: RecordRef) -> dict[str, int]:
    """How many rows each table holds of one record, for a plan. Raises SQLAlchemyError."""
    counts = {}
    async with engine.connect() as connection:
        for table in record_tables():
            query = sa.select(sa.func.count()).select_from(table).where(_these(table, [ref]))
            if found := await connection.scalar(query):
                counts[str(table.name)] = int(found)
    return counts


async def held_on(engine: AsyncEngine, ref: RecordRef) -> dict[str, list[dict[str, object]]]:
    """All rows of one record, by table, as they are stored. Raises SQLAlchemyError."""
    found = {}
    async with engine.connect() as connection:
        for table in record_tables():
            rows = await connection.execute(table.select().where(_these(table, [ref])))
            if held := [dict(row) for row in rows.mappings()]:
                found[str(table.name)] = held
    return found
