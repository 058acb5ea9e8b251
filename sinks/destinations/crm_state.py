"""What a CRM destination last wrote, per record and analysis: versions, and HMACs instead of values.

Law: a write is noted as begun before the CRM is asked and as done after it answered, so that after a crash in between the
record itself is asked what it holds. A row's version never goes down.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.insight import Version
from schemas.record import RecordRef

RECORD = "*"
"""Stands for an analysis in the row of what all of them share: version, as-of, and whether a write was begun."""
NEVER = Version(0, -1, 0)
BEGINNING = datetime.fromtimestamp(0, UTC)

_RECORDS = """unnest(CAST(:tenants AS text[]), CAST(:accounts AS text[]), CAST(:objects AS text[]), CAST(:ids AS text[]))
    AS w (tenant, account, object, record_id)"""
_LOAD = text(
    f"""
    SELECT s.tenant, s.account, s.object, s.record_id, s.analysis, s.epoch, s.snapshot_offset, s.generation, s.as_of, s.written, s.pending
    FROM {_RECORDS}
    JOIN destination_state s ON s.destination = :destination
     AND (s.tenant, s.account, s.object, s.record_id) = (w.tenant, w.account, w.object, w.record_id)
    """  # noqa: S608 - made of constants
)
_BEGIN = text(
    f"""
    INSERT INTO destination_state AS s (destination, tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation,
                                        as_of, written, pending)
    SELECT :destination, w.tenant, w.account, w.object, w.record_id, '{RECORD}', {NEVER.epoch}, {NEVER.offset}, {NEVER.generation},
           to_timestamp(0), '{{}}', true
    FROM {_RECORDS}
    ORDER BY w.tenant, w.account, w.object, w.record_id
    ON CONFLICT (destination, tenant, account, object, record_id, analysis) DO UPDATE SET pending = true
    """  # noqa: S608 - made of constants
)
_DONE = text(
    """
    INSERT INTO destination_state AS s (destination, tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation,
                                        as_of, written, pending)
    SELECT :destination, w.tenant, w.account, w.object, w.record_id, w.analysis, w.epoch, w.snapshot_offset, w.generation,
           w.as_of, CAST(w.written AS jsonb), false
    FROM unnest(
      CAST(:tenants AS text[]), CAST(:accounts AS text[]), CAST(:objects AS text[]), CAST(:ids AS text[]), CAST(:analyses AS text[]),
      CAST(:epochs AS int[]), CAST(:offsets AS bigint[]), CAST(:generations AS int[]), CAST(:as_ofs AS timestamptz[]),
      CAST(:written AS text[])
    ) AS w (tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, as_of, written)
    ORDER BY w.tenant, w.account, w.object, w.record_id, w.analysis
    ON CONFLICT (destination, tenant, account, object, record_id, analysis) DO UPDATE SET
      epoch = EXCLUDED.epoch, snapshot_offset = EXCLUDED.snapshot_offset, generation = EXCLUDED.generation,
      as_of = EXCLUDED.as_of, written = EXCLUDED.written, pending = false, written_at = now()
    WHERE (EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation) >= (s.epoch, s.snapshot_offset, s.generation)
    RETURNING tenant, account, object, record_id, analysis
    """
)


@dataclass(frozen=True, slots=True)
class Row:
    """The state of one analysis on one record, or with `RECORD` of what they share."""

    version: Version = NEVER
    as_of: datetime = BEGINNING
    written: Mapping[str, str] = field(default_factory=dict)
    """Field → HMAC of the value last written."""
    pending: bool = False


State = dict[RecordRef, dict[str, Row]]


class CrmState:
    """The table `destination_state`, for one destination. Each method is one statement."""

    def __init__(self, engine: AsyncEngine, destination: str) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._destination = destination

    async def load(self, refs: Collection[RecordRef]) -> State:
        """What is known of these records: analysis → row; an empty mapping for a record that was never written."""
        found: State = {ref: {} for ref in refs}
        async with self._engine.connect() as connection:
            rows = await connection.execute(_LOAD, {"destination": self._destination, **_columns(refs)})
            for row in rows:
                found[RecordRef(row.tenant, row.account, row.object, row.record_id)][row.analysis] = Row(
                    Version(row.epoch, row.snapshot_offset, row.generation), row.as_of, row.written, row.pending
                )
        return found

    async def begin(self, refs: Collection[RecordRef]) -> None:
        """Note that these records are about to be written."""
        async with self._engine.connect() as connection:
            await connection.execute(_BEGIN, {"destination": self._destination, **_columns(refs)})

    async def done(self, rows: Iterable[tuple[RecordRef, str, Row]]) -> set[RecordRef]:
        """Note what was written; returns the records of which somebody else noted a newer version meanwhile."""
        given = list(rows)
        if not given:
            return set()
        values = {
            "destination": self._destination,
            **_columns([ref for ref, _, _ in given]),
            "analyses": [analysis for _, analysis, _ in given],
            "epochs": [row.version.epoch for _, _, row in given],
            "offsets": [row.version.offset for _, _, row in given],
            "generations": [row.version.generation for _, _, row in given],
            "as_ofs": [row.as_of for _, _, row in given],
            "written": [orjson.dumps(dict(row.written)).decode() for _, _, row in given],
        }
        async with self._engine.connect() as connection:
            kept = {tuple(row) for row in await connection.execute(_DONE, values)}
        return {ref for ref, analysis, _ in given if (*ref, analysis) not in kept}


def _columns(refs: Iterable[RecordRef]) -> dict[str, list[str]]:
    every = list(refs)
    return {
        "tenants": [ref.tenant for ref in every],
        "accounts": [ref.account for ref in every],
        "objects": [ref.object for ref in every],
        "ids": [ref.id for ref in every],
    }
