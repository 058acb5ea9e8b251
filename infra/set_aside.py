"""Records that cannot go on now, each with the time at which it is tried again.

Law: a row is the promise of one trigger. It is given up only after that trigger is on Kafka, and what is left then only
remembers how often it failed, so that the next delay is longer. It knows no stage: who sets aside names itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.record import RecordRef

FIRST_DELAY_SECONDS = 30.0
LONGEST_DELAY_SECONDS = 3_600.0
LEASE_SECONDS = 60.0
"""Who took due rows has this long to get their triggers acknowledged; then others take them."""
MEMORY_SECONDS = 7_200.0
"""How long an emitted row remembers its attempts: longer than the longest delay, or delays would never grow to it."""


@dataclass(frozen=True, slots=True)
class Aside:
    """One record that a stage cannot handle now."""

    ref: RecordRef
    stage: str
    """`hydrator`, `analyst`, `sink:hubspot`, ..."""
    cause: str
    """A name, such as `TOKEN_REVOKED`; never content."""
    retry_after: float | None = None
    """Seconds until the other side said that trying makes sense; without it the delay grows with each attempt."""
    counts: bool = True
    """Whether it is an attempt that failed; waiting for what is under way is none."""

    @classmethod
    def until(cls, ref: RecordRef, stage: str, cause: str, at: datetime, *, counts: bool = True) -> Aside:
        """Set aside until a moment, such as a quota's reset."""
        return cls(ref, stage, cause, max(1.0, (at - datetime.now(UTC)).total_seconds()), counts)


@dataclass(frozen=True, slots=True)
class Due:
    """A row whose time has come, leased to who asked."""

    ref: RecordRef
    stage: str
    cause: str
    attempts: int
    created_at: datetime
    lease: datetime


class SetAsideStore(Protocol):
    """What stages need of it. Methods raise what the database raises; each is safe to call again."""

    async def put(self, rows: Sequence[Aside]) -> None:
        """Set aside, or put off again what is already there; the newest cause stays. One round trip."""
        ...


# `random()` is volatile, so each row of the statement draws its own. A given time is kept to from below alone: nobody asks
# before a quota is back, and not everybody in the same second.
_PUT = text(
    f"""
    INSERT INTO set_aside AS s (tenant, account, object, record_id, stage, cause, attempts, due_at)
    SELECT w.tenant, w.account, w.object, w.record_id, w.stage, w.cause, w.counts + coalesce(o.attempts, 0),
           now() + make_interval(secs => CASE
             WHEN w.given IS NOT NULL THEN w.given + least(60.0, 0.1 * w.given) * random()
             ELSE least({LONGEST_DELAY_SECONDS}, {FIRST_DELAY_SECONDS} * power(2.0, least(coalesce(o.attempts, 0), 20)))
                  * (0.8 + 0.4 * random())
           END)
    FROM unnest(
      CAST(:tenants AS text[]), CAST(:accounts AS text[]), CAST(:objects AS text[]), CAST(:ids AS text[]),
      CAST(:stages AS text[]), CAST(:causes AS text[]), CAST(:delays AS float8[]), CAST(:counts AS int[])
    ) AS w (tenant, account, object, record_id, stage, cause, given, counts)
    LEFT JOIN set_aside o USING (tenant, account, object, record_id, stage)
    ORDER BY w.tenant, w.account, w.object, w.record_id, w.stage
    ON CONFLICT (tenant, account, object, record_id, stage) DO UPDATE SET
      cause = EXCLUDED.cause, due_at = EXCLUDED.due_at, attempts = EXCLUDED.attempts, emitted_at = NULL
    """  # noqa: S608 -- made of constants
)
_DUE = text(
    f"""
    UPDATE set_aside s SET due_at = now() + make_interval(secs => {LEASE_SECONDS})
    FROM (
      SELECT d.tenant, d.account, d.object, d.record_id, d.stage FROM set_aside d
      WHERE d.due_at <= now() AND d.emitted_at IS NULL
        AND NOT EXISTS (SELECT FROM accounts a WHERE a.id = d.account AND a.state = 'disconnected')
      ORDER BY d.due_at LIMIT :limit
      FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE (s.tenant, s.account, s.object, s.record_id, s.stage) = (d.tenant, d.account, d.object, d.record_id, d.stage)
    RETURNING s.tenant, s.account, s.object, s.record_id, s.stage, s.cause, s.attempts, s.created_at, s.due_at
    """  # noqa: S608 -- made of constants
)
_DONE = text(
    """
    UPDATE set_aside s SET emitted_at = now()
    FROM unnest(
      CAST(:tenants AS text[]), CAST(:accounts AS text[]), CAST(:objects AS text[]), CAST(:ids AS text[]),
      CAST(:stages AS text[]), CAST(:leases AS timestamptz[])
    ) AS w (tenant, account, object, record_id, stage, lease)
    WHERE (s.tenant, s.account, s.object, s.record_id, s.stage, s.due_at)
        = (w.tenant, w.account, w.object, w.record_id, w.stage, w.lease)
    """
)
_FORGET = text(
    f"DELETE FROM set_aside WHERE emitted_at < now() - make_interval(secs => {MEMORY_SECONDS})"  # noqa: S608 -- a constant
)


class SetAside:
    """The table `set_aside`. Every method is one statement; several processes may use it at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        # One statement each, so the server's own atomicity suffices and BEGIN and COMMIT are saved.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def put(self, rows: Sequence[Aside]) -> None:
        """Set aside, or put off again what is already there. One round trip; see `SetAsideStore.put`."""
        unique = {(row.ref, row.stage): row for row in rows}
        if not unique:
            return
        wanted = list(unique.values())
        async with self._engine.connect() as connection:
            await connection.execute(
                _PUT,
                {
                    **_refs([row.ref for row in wanted]),
                    "stages": [row.stage for row in wanted],
                    "causes": [row.cause for row in wanted],
                    "delays": [row.retry_after for row in wanted],
                    "counts": [int(row.counts) for row in wanted],
                },
            )

    async def due(self, limit: int = 500) -> list[Due]:
        """Lease up to `limit` rows whose time has come, longest due first; rows of disconnected accounts wait on."""
        async with self._engine.connect() as connection:
            found = (await connection.execute(_DUE, {"limit": limit})).all()
        return [
            Due(
                RecordRef(row.tenant, row.account, row.object, row.record_id),
                row.stage,
                row.cause,
                row.attempts,
                row.created_at,
                row.due_at,
            )
            for row in found
        ]

    async def done(self, rows: Sequence[Due]) -> None:
        """Their triggers are acknowledged. A row that was put off again meanwhile keeps its new time."""
        if not rows:
            return
        async with self._engine.connect() as connection:
            await connection.execute(
                _DONE,
                {
                    **_refs([row.ref for row in rows]),
                    "stages": [row.stage for row in rows],
                    "leases": [row.lease for row in rows],
                },
            )

    async def forget(self) -> int:
        """Delete rows that were emitted long ago, with the attempts that they remember; returns how many."""
        async with self._engine.connect() as connection:
            return (await connection.execute(_FORGET)).rowcount


def _refs(refs: Sequence[RecordRef]) -> dict[str, list[str]]:
    return {
        "tenants": [ref.tenant for ref in refs],
        "accounts": [ref.account for ref in refs],
        "objects": [ref.object for ref in refs],
        "ids": [ref.id for ref in refs],
    }
