"""What the processors remember between messages: how each record was last published, and what each analysis last read.

Law: one round trip a batch, whatever its size. A row never goes back: the hydrator's is guarded by the time of reading,
the analyst's by version, so that an owner who was too late changes nothing. No content in the clear: hashes and sealed bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from schemas.insight import Version
from schemas.record import RecordRef


@dataclass(frozen=True, slots=True)
class Standing:
    """A record as it was last published to `crm.records`."""

    content: bytes
    """Keyed hash of everything foreign in it; `snapshots.DELETED` for a record that is gone."""
    marks: str
    """JSON: part → [short keyed hash, since when in epoch milliseconds]. Parsed only where something differs."""
    deleted: bool
    modified_at: datetime
    read_at: datetime
    """By the database's clock, from before the read began: comparable between processes."""


@dataclass(frozen=True, slots=True)
class Published:
    """What to keep, and what it was compared with."""

    standing: Standing
    loaded: Standing | None


class HydratorState(Protocol):
    """Every method may wait for the database and raises what it raises; each is safe to call again."""

    async def load(self, refs: Collection[RecordRef]) -> tuple[datetime, dict[RecordRef, Standing]]:
        """The database's clock, and what is known of these records; absent ones were never published."""
        ...

    async def save(self, rows: Mapping[RecordRef, Published]) -> set[RecordRef]:
        """Keep what was published, unless a later read is kept already.

        Returns the contested ones: those for which somebody else has kept something since they were loaded, whosever
        stays. Two owners published at once then, and nobody knows whose snapshot came last.
        """
        ...

    async def looked(self, rows: Mapping[RecordRef, tuple[datetime, datetime]]) -> None:
        """Keep that these were read again and are as they were: (read_at as it was loaded, read_at now). What somebody else has
        kept meanwhile stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What one analysis last read of one record, and what it said."""

    input: bytes
    """Keyed hash of its inputs, its version and the generation; empty for a retracted insight."""
    read_at: datetime
    """`RecordSnapshot.read_at` of the snapshot that it read."""
    version: Version
    sealed: bytes
    """Its sealed insight."""


class AnalystState(Protocol):
    """Every method may wait for the database and raises what it raises; each is safe to call again."""

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """What is known of these records, by the analysis's name."""
        ...

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """Keep them, unless a newer version is there."""
        ...


_REFS = "%(tenants)b::text[], %(accounts)b::text[], %(objects)b::text[], %(ids)b::text[]"
_KEY = "tenant, account, object, record_id"

_LOAD_HYDRATOR = f"""
    SELECT clock_timestamp(), k.ord, s.content, s.fields::text, s.deleted, s.modified_at, s.read_at
    FROM unnest({_REFS}) WITH ORDINALITY AS k ({_KEY}, ord)
    LEFT JOIN hydrator_state s USING ({_KEY})
"""  # noqa: S608 -- made of constants
# Rows are sorted, so that two batches that share a record (both lanes, say) lock in the same order. `before` locks what is
# there and tells who kept it; a row that appeared only then shows as one that conflicted (`xmax`) and was not there before.
_SAVE_HYDRATOR = f"""
    WITH given AS (
      SELECT * FROM unnest({_REFS}, %(content)b::bytea[], %(fields)b::text[], %(deleted)b::bool[],
                           %(modified)b::timestamptz[], %(read)b::timestamptz[], %(expected)b::timestamptz[])
        AS g ({_KEY}, content, fields, deleted, modified_at, read_at, expected)
      ORDER BY {_KEY}
    ), before AS (
      SELECT {_KEY}, s.read_at AS kept_at FROM hydrator_state s JOIN given USING ({_KEY}) ORDER BY {_KEY} FOR UPDATE OF s
    ), saved AS (
      INSERT INTO hydrator_state AS s ({_KEY}, content, fields, deleted, modified_at, read_at)
      SELECT {_KEY}, content, fields::jsonb, deleted, modified_at, read_at
      FROM given LEFT JOIN before USING ({_KEY}) ORDER BY {_KEY}
      ON CONFLICT ({_KEY}) DO UPDATE SET
        content = EXCLUDED.content, fields = EXCLUDED.fields, deleted = EXCLUDED.deleted,
        modified_at = EXCLUDED.modified_at, read_at = EXCLUDED.read_at
        WHERE s.read_at <= EXCLUDED.read_at
      RETURNING {_KEY}, xmax = 0 AS made
    )
    SELECT {_KEY} FROM given LEFT JOIN before USING ({_KEY}) LEFT JOIN saved USING ({_KEY})
    WHERE made IS NULL OR kept_at IS DISTINCT FROM expected OR (kept_at IS NULL AND NOT made)
"""  # noqa: S608 -- made of constants
_LOOKED_HYDRATOR = f"""
    WITH given AS (
      SELECT * FROM unnest({_REFS}, %(before)b::timestamptz[], %(now)b::timestamptz[]) AS g ({_KEY}, before, now)
    ), locked AS (
      SELECT {_KEY}, g.now FROM hydrator_state s JOIN given g USING ({_KEY})
      WHERE s.read_at = g.before AND g.now > g.before ORDER BY {_KEY} FOR UPDATE OF s
    )
    UPDATE hydrator_state s SET read_at = locked.now FROM locked
    WHERE (s.tenant, s.account, s.object, s.record_id) = (locked.tenant, locked.account, locked.object, locked.record_id)
"""  # noqa: S608 -- made of constants
_LOAD_ANALYST = f"""
    SELECT k.ord, s.analysis, s.input, s.epoch, s.snapshot_offset, s.generation, s.sealed_insight
    FROM unnest({_REFS}) WITH ORDINALITY AS k ({_KEY}, ord)
    JOIN analyst_state s USING ({_KEY})
"""  # noqa: S608 -- made of constants
_SAVE_ANALYST = f"""
    INSERT INTO analyst_state AS s ({_KEY}, analysis, input, epoch, snapshot_offset, generation, sealed_insight)
    SELECT * FROM unnest({_REFS}, %(analyses)b::text[], %(inputs)b::bytea[], %(epochs)b::int[], %(offsets)b::bigint[],
                         %(generations)b::int[], %(sealed)b::bytea[])
      AS k ({_KEY}, analysis, input, epoch, snapshot_offset, generation, sealed)
    ORDER BY {_KEY}, analysis
    ON CONFLICT ({_KEY}, analysis) DO UPDATE SET
      input = EXCLUDED.input, epoch = EXCLUDED.epoch, snapshot_offset = EXCLUDED.snapshot_offset,
      generation = EXCLUDED.generation, sealed_insight = EXCLUDED.sealed_insight
      WHERE (s.epoch, s.snapshot_offset, s.generation) < (EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation)
"""  # noqa: S608 -- made of constants


class PostgresHydratorState:
    """`hydrator_state`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statements = Statements(engine)

    async def load(self, refs: Collection[RecordRef]) -> tuple[datetime, dict[RecordRef, Standing]]:
        """See HydratorState."""
        asked = list(refs) or [RecordRef("", "", "", "")]  # the clock is wanted even where no record is
        rows = await self._statements.run(_LOAD_HYDRATOR, _refs(asked))
        found = {asked[row[1] - 1]: Standing(bytes(row[2]), *row[3:7]) for row in rows if row[2] is not None}
        clock: datetime = rows[0][0]
        return clock.astimezone(UTC), found

    async def save(self, rows: Mapping[RecordRef, Published]) -> set[RecordRef]:
        """See HydratorState."""
        if not rows:
            return set()
        kept = [row.standing for row in rows.values()]
        given = {
            **_refs(list(rows)),
            "content": [row.content for row in kept],
            "fields": [row.marks for row in kept],
            "deleted": [row.deleted for row in kept],
            "modified": [row.modified_at for row in kept],
            "read": [row.read_at for row in kept],
            "expected": [row.loaded.read_at if row.loaded else None for row in rows.values()],
        }
        return {RecordRef(*row) for row in await self._statements.run(_SAVE_HYDRATOR, given)}

    async def looked(self, rows: Mapping[RecordRef, tuple[datetime, datetime]]) -> None:
        """See HydratorState."""
        if rows:
            times = list(rows.values())
            given = {**_refs(list(rows)), "before": [before for before, _ in times], "now": [now for _, now in times]}
            await self._statements.run(_LOOKED_HYDRATOR, given)


class PostgresAnalystState:
    """`analyst_state`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statements = Statements(engine)

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """See AnalystState."""
        asked = list(refs)
        found: dict[RecordRef, dict[str, Kept]] = {}
        if not asked:
            return found
        for row in await self._statements.run(_LOAD_ANALYST, _refs(asked)):
            kept = Kept(*unpack(bytes(row[2])), Version(row[3], row[4], row[5]), bytes(row[6]))
            found.setdefault(asked[row[0] - 1], {})[row[1]] = kept
        return found

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """See AnalystState."""
        if not rows:
            return
        kept = list(rows.values())
        given = {
            **_refs([ref for ref, _ in rows]),
            "analyses": [analysis for _, analysis in rows],
            "inputs": [pack(row) for row in kept],
            "epochs": [row.version.epoch for row in kept],
            "offsets": [row.version.offset for row in kept],
            "generations": [row.version.generation for row in kept],
            "sealed": [row.sealed for row in kept],
        }
        await self._statements.run(_SAVE_ANALYST, given)


def pack(row: Kept) -> bytes:
    """The column `input`: when its snapshot was read, in epoch milliseconds, then the hash."""
    return round(row.read_at.timestamp() * 1000).to_bytes(8, "big") + row.input


def unpack(packed: bytes) -> tuple[bytes, datetime]:
    """What `pack` wrote: the hash, and when its snapshot was read."""
    return packed[8:], datetime.fromtimestamp(int.from_bytes(packed[:8], "big") / 1000, UTC)


def _refs(refs: list[RecordRef]) -> dict[str, Any]:
    return {
        "tenants": [ref.tenant for ref in refs],
        "accounts": [ref.account for ref in refs],
        "objects": [ref.object for ref in refs],
        "ids": [ref.id for ref in refs],
    }
