"""What was compared with an account's CRM and what no webhook had told, for `hookline account show` and `status`.

Law: reads the table `reconciliations` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import reconciliations

RECENT = timedelta(days=1)
REMEDY = (
    "Its deliveries do not all reach us: look at `hookline requests list` and at the CRM's own delivery log; "
    "what was missed has been read."
)
_R = reconciliations.c


async def comparisons(engine: AsyncEngine, account: str) -> list[dict[str, Any]]:
    """The account's rows, by object. Raises what the database raises."""
    asked = sa.select(_R.object, _R.ended_at, _R.compared, _R.fed, _R.missed, _R.missed_at, _R.waiting)
    async with engine.connect() as connection:
        found = await connection.execute(asked.where(_R.account == account).order_by(_R.object))
        return [dict(row) for row in found.mappings()]


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people."""
    if not rows:
        return ["not compared yet: `hookline serve reconciler` (part of `up` and `serve all`)"]
    ends = [row["ended_at"] for row in rows if row["ended_at"]]
    last = max((row["missed_at"] for row in rows if row["missed_at"]), default=None)
    missed = sum(row["missed"] for row in rows)
    lines = [
        f"compared up to {min(ends):%Y-%m-%d %H:%M} UTC, {sum(row['compared'] for row in rows)} changes listed, "
        f"{sum(row['fed'] for row in rows)} looked at"
        if ends
        else "the first comparison is under way",
        f"{missed} changes that no webhook told" + (f", the last found {last:%Y-%m-%d %H:%M} UTC" if last else ""),
    ]
    lines += [f"{row['object']} waits: {row['waiting']}" for row in rows if row["waiting"]]
    return lines


async def recently_missed(engine: AsyncEngine, account: str = "") -> dict[str, int]:
    """Account → changes missed so far, of accounts where one was found within RECENT. Raises what the database raises."""
    asked = (
        sa.select(_R.account, sa.func.sum(_R.missed))
        .group_by(_R.account)
        .having(sa.func.max(_R.missed_at) > datetime.now(UTC) - RECENT)
    )
    if account:
        asked = asked.where(_R.account == account)
    async with engine.connect() as connection:
        return {row[0]: int(row[1]) for row in await connection.execute(asked)}
