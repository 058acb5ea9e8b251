"""What is set aside, because of what, when it is tried again, and what to do.

Law: counts and names; a record's id is asked for with `hookline dead-letters` or in the CRM, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from rich.console import RenderableType
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.status_section import Section, Sight
from infra.database.tables import accounts, set_aside

RECONNECT = "Connect the account again: `hookline account add` with new credentials. All of it is due at once then."
BY_ITSELF = "Nothing: it is tried again by itself."
REMEDIES: dict[str, str] = {
    "TOKEN_REVOKED": RECONNECT,
    "DISCONNECTED": RECONNECT,
    "FORBIDDEN": "The CRM forbids it: give the app or the integration user what it lacks (scopes, API access), then wait for the next try.",
    "QUOTA_SPENT": "Nothing: it goes on when the quota is back. To have it sooner, raise the quota at the CRM or the model's provider.",
    "WAITS_FOR_BATCH": "Nothing: its questions wait for the provider's batches, at half the price, until then at most. If that is too late, "
    "set HOOKLINE_MODEL_BATCH=false and restart the analysts: what was not sent is asked at once.",
    "CRM_UNAVAILABLE": BY_ITSELF,
    "READ_LAGGED": BY_ITSELF,
    "DELETION_UNSEEN": BY_ITSELF,
    "CREATION_UNSEEN": BY_ITSELF,
    "OVERTAKEN": BY_ITSELF,
}
"""By cause; any other is a CRM's own word for `not now`, which is tried again by itself."""


def remedy(cause: str) -> str:
    """What to do about it."""
    return REMEDIES.get(cause, BY_ITSELF)


async def waiting(engine: AsyncEngine, account: str = "") -> list[dict[str, Any]]:
    """What is set aside (of one account): tenant, account, stage, cause, records, since, next try, most attempts, what to do."""
    columns = (set_aside.c.tenant, set_aside.c.account, set_aside.c.stage, set_aside.c.cause)
    held = sa.func.bool_or(sa.func.coalesce(accounts.c.state == "disconnected", sa.false()))
    wanted: list[sa.ColumnElement[bool]] = [set_aside.c.emitted_at.is_(None)]
    if account:
        wanted.append(set_aside.c.account == account)
    async with engine.connect() as connection:
        rows = await connection.execute(
            sa.select(
                *columns,
                sa.func.count(),
                sa.func.min(set_aside.c.created_at),
                sa.func.min(set_aside.c.due_at),
                sa.func.max(set_aside.c.attempts),
                held,
            )
            .select_from(set_aside.outerjoin(accounts, accounts.c.id == set_aside.c.account))
            .where(*wanted)
            .group_by(*columns)
            .order_by(*columns)
        )
        return [
            {
                "tenant": tenant,
                "account": of,
                "stage": stage,
                "cause": cause,
                "records": count,
                "since": _iso(since),
                "next": _iso(due),
                "attempts": attempts,
                "held": disconnected,
                "remedy": RECONNECT if disconnected else remedy(cause),
            }
            for tenant, of, stage, cause, count, since, due, attempts, disconnected in rows
        ]


def _iso(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _look(sight: Sight) -> list[dict[str, Any]]:
    return await waiting(sight.engine)


def _show(found: Any) -> Sequence[RenderableType]:
    if not found:
        return []
    table = Table("tenant", "account", "stage", "set aside because", "records", "next try", "what to do")
    for row in found:
        due = "when it is connected" if row["held"] else row["next"][11:19]
        tried = f" (tried {row['attempts']} times)" if row["attempts"] > 1 else ""
        table.add_row(
            row["tenant"], row["account"], row["stage"], row["cause"] + tried, str(row["records"]), due, row["remedy"]
        )
    return [table]


SECTION = Section("set_aside", _look, _show)
