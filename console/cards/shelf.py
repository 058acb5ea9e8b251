"""What the card shows and what it takes: insights from Postgres, feedback into the record's own properties.

Law: reads and writes one record of one account. Feedback goes to the CRM and is kept nowhere else, so that it is where a rep's
words belong and is erased with the record.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from console.cards.refusals import Refused
from console.insights import from_row
from infra.accounts import Account
from infra.crm.client import AccountUnavailable, Busy, CrmClient, CrmUnavailable, Gone, Written
from infra.database.tables import insights

Vote = Literal["up", "down"]


class Shelf(Protocol):
    """Both methods may wait, and may raise Refused and what a server that is away raises. Repeating them is safe."""

    async def insights(self, account: Account, object_: str, record: str) -> dict[str, Any]:
        """The newest insights about a record by analysis, as JSON; retracted ones are absent."""
        ...

    async def feedback(self, account: Account, object_: str, record: str, vote: Vote, note: str) -> None:
        """Write the rep's words into the record's own properties."""
        ...


class CrmShelf:
    """Postgres and the CRM itself."""

    def __init__(self, engine: AsyncEngine, crm: CrmClient) -> None:
        self._engine = engine
        self._crm = crm

    async def insights(self, account: Account, object_: str, record: str) -> dict[str, Any]:
        """See Shelf."""
        wanted = sa.select(insights).where(
            insights.c.tenant == account.tenant,
            insights.c.account == account.id,
            insights.c.object == object_,
            insights.c.record_id == record,
        )
        async with self._engine.connect() as connection:
            rows = [dict(row) for row in (await connection.execute(wanted)).mappings()]
        return {row["analysis"]: shown(row) for row in rows if not row["retracted"] and row["payload"] is not None}

    async def feedback(self, account: Account, object_: str, record: str, vote: Vote, note: str) -> None:
        """See Shelf."""
        try:
            answer = await self._crm.write(account, object_, {record: {"feedback": vote, "feedback_note": note}})
        except AccountUnavailable:
            raise Refused("ACCOUNT_UNAVAILABLE") from None
        except CrmUnavailable:
            raise Refused("TRY_LATER") from None
        outcome = answer[record]
        if isinstance(outcome, Written):
            return
        if isinstance(outcome, Gone):
            raise Refused("RECORD_GONE")
        raise Refused("TRY_LATER" if isinstance(outcome, Busy) else "NOT_WRITTEN")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """An insight's row as the card gets it."""
    insight = from_row(row)
    given = insight.model_dump(mode="json", include={"analyzed_at", "as_of", "model", "payload"})
    return {**given, "version": str(insight.version)}
