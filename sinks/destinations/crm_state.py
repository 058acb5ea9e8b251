"""What a CRM destination last wrote, per record and analysis: versions, and HMACs instead of values.

Law: a write is noted as begun before the CRM is asked and as done after it answered, so that after a crash in between the
record itself is asked what it holds. A row's version never goes down.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import WITHOUT_FLUSH, Statements
from schemas.insight import Version
from schemas.record import RecordRef

RECORD = "*"
"""Stands for an analysis in the row of what all of them share: version, as-of, and whether a write was begun."""
DOUBTED = "?"
"""Stands for a claim that nobody has: two have written at once, and what the record shows is to be asked."""
NEVER = Version(0, -1, 0)
BEGINNING = datetime.fromtimestamp(0, UTC)

_REF = "tenant, account, object, record_id"
_VERSION = "epoch, snapshot_offset, generation"
# All parts of a statement see the table as it was before it: what is returned is from before the mark was set. The mark is for a
# process that dies. Should the server die within these milliseconds, the process knows what it has sent (crm_writer.py); should
# both, or should the record have gone to another process by then, the same values are written again.
_TAKE_UP = f"""
    WITH given AS (
      SELECT g.* FROM {WITHOUT_FLUSH} CROSS JOIN
        unnest(%(tenants)s::text[], %(accounts)s::text[], %(objects)s::text[], %(ids)s::text[],
               %(analyses)s::text[], %(epochs)s::int[], %(offsets)s::bigint[], %(generations)s::int[])
        AS g ({_REF}, analysis, {_VERSION})
    ), known AS MATERIALIZED (
      SELECT {_REF}, s.analysis, {_VERSION}, s.as_of, s.written, s.pending
      FROM (SELECT DISTINCT {_REF} FROM given) AS asked
      JOIN (SELECT * FROM destination_state WHERE destination = %(destination)s) AS s USING ({_REF})
    ), begun AS (
      INSERT INTO destination_state AS s (destination, {_REF}, analysis, {_VERSION}, as_of, written, pending, claim)
      SELECT DISTINCT %(destination)s, {_REF}, '{RECORD}', {NEVER.epoch}, {NEVER.offset}, {NEVER.generation}, to_timestamp(0), '{{}}'::jsonb,
             true, %(claim)s
      FROM given
      WHERE analysis IS NOT NULL AND NOT EXISTS (
        SELECT FROM known WHERE ({_REF}, analysis) = (given.tenant, given.account, given.object, given.record_id, given.analysis)
          AND ({_VERSION}) >= (given.epoch, given.snapshot_offset, given.generation))
      ORDER BY {_REF}
      ON CONFLICT (destination, {_REF}, analysis) DO UPDATE SET pending = true, claim = EXCLUDED.claim
    )
    SELECT {_REF}, analysis, {_VERSION}, as_of, written, pending FROM known
"""  # noqa: S608 - made of constants
_DONE = f"""
    INSERT INTO destination_state AS s (destination, tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation,
                                        as_of, written, pending)
    SELECT %(destination)s, w.tenant, w.account, w.object, w.record_id, w.analysis, w.epoch, w.snapshot_offset, w.generation,
           w.as_of, CAST(w.written AS jsonb), false
    FROM unnest(
      %(tenants)s::text[], %(accounts)s::text[], %(objects)s::text[], %(ids)s::text[], %(analyses)s::text[],
      %(epochs)s::int[], %(offsets)s::bigint[], %(generations)s::int[], %(as_ofs)s::timestamptz[],
      %(written)s::text[]
    ) AS w (tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, as_of, written)
    ORDER BY w.tenant, w.account, w.object, w.record_id, w.analysis
    ON CONFLICT (destination, tenant, account, object, record_id, analysis) DO UPDATE SET
      epoch = EXCLUDED.epoch, snapshot_offset = EXCLUDED.snapshot_offset, generation = EXCLUDED.generation,
      as_of = EXCLUDED.as_of, written = EXCLUDED.written, pending = false, written_at = now()
    WHERE (EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation) >= (s.epoch, s.snapshot_offset, s.generation)
      AND (s.analysis <> '{RECORD}' OR s.claim = %(claim)s)
    RETURNING tenant, account, object, record_id, analysis
"""  # noqa: S608 - made of constants
_DOUBT = f"""
    UPDATE destination_state s SET pending = true, claim = '{DOUBTED}'
    FROM unnest(%(tenants)s::text[], %(accounts)s::text[], %(objects)s::text[], %(ids)s::text[]) AS w ({_REF})
    WHERE s.destination = %(destination)s AND s.analysis = '{RECORD}'
      AND (s.tenant, s.account, s.object, s.record_id) = (w.tenant, w.account, w.object, w.record_id)
"""  # noqa: S608 - made of constants


_NONE: tuple[tuple[str | None, Version], ...] = ((None, NEVER),)


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
        self._statements = Statements(engine)
        self._destination = destination

    async def take_up(self, insights: Mapping[RecordRef, Mapping[str, Version]], claim: str) -> State:
        """What is known of these records: analysis → row; an empty mapping for a record that was never written. And a note with
        it: a record of which one of the given versions is newer than that analysis's row is about to be written, by whoever
        has this `claim`. What is returned is from before that note.
        """
        given: list[tuple[RecordRef, str | None, Version]] = [
            (ref, analysis, version)
            for ref, versions in insights.items()
            # Without a version the record is only looked at.
            for analysis, version in (versions.items() or _NONE)
        ]
        values = {
            "destination": self._destination,
            "claim": claim,
            **_columns(ref for ref, _, _ in given),
            "analyses": [analysis for _, analysis, _ in given],
            "epochs": [version.epoch for _, _, version in given],
            "offsets": [version.offset for _, _, version in given],
            "generations": [version.generation for _, _, version in given],
        }
        found: State = {ref: {} for ref in insights}
        for tenant, account, object_, record_id, analysis, *rest in await self._statements.run(_TAKE_UP, values):
            epoch, offset, generation, as_of, written, pending = rest
            ref = RecordRef(tenant, account, object_, record_id)
            found[ref][analysis] = Row(Version(epoch, offset, generation), as_of, written, pending)
        return found

    async def done(self, rows: Iterable[tuple[RecordRef, str, Row]], claim: str) -> set[RecordRef]:
        """Note what was written; returns the records that somebody else took up, or noted a newer version of, meanwhile."""
        given = list(rows)
        if not given:
            return set()
        values = {
            "destination": self._destination,
            "claim": claim,
            **_columns([ref for ref, _, _ in given]),
            "analyses": [analysis for _, analysis, _ in given],
            "epochs": [row.version.epoch for _, _, row in given],
            "offsets": [row.version.offset for _, _, row in given],
            "generations": [row.version.generation for _, _, row in given],
            "as_ofs": [row.as_of for _, _, row in given],
            "written": [orjson.dumps(dict(row.written)).decode() for _, _, row in given],
        }
        kept = set(await self._statements.run(_DONE, values))
        return {ref for ref, analysis, _ in given if (*ref, analysis) not in kept}

    async def doubt(self, refs: Collection[RecordRef]) -> None:
        """Note that nobody knows what these records show: whoever writes next asks them, and nobody's claim holds."""
        await self._statements.run(_DOUBT, {"destination": self._destination, **_columns(refs)})


def _columns(refs: Iterable[RecordRef]) -> dict[str, list[str]]:
    every = list(refs)
    return {
        "tenants": [ref.tenant for ref in every],
        "accounts": [ref.account for ref in every],
        "objects": [ref.object for ref in every],
        "ids": [ref.id for ref in every],
    }
