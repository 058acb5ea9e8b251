"""What ended batches took, told to quotas until Redis has heard of it.

Law: never waits and never fails where a batch is accounted; what was not heard is told again by the next look of any process, for
as long as batches are looked at. Telling twice counts once: Redis notes the batch with what it counts (`settle.lua`), and a Redis
that was rebuilt from the accounts is told which batches stand in them (`llm_gateway.held`). Should Redis lose that note alone, a
batch is counted twice: a crash may make a quota stricter, never wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import llm_provider_objects as objects
from infra.telemetry import log
from llm_gateway.core import Core
from llm_gateway.policy import nano
from llm_gateway.question import NANO, Grant, Line, Question, Usage, today

ANALYSIS = "batch"
AGAIN_SECONDS = 60.0
"""Whoever accounted it has told it by then, or is gone; and whoever counts a tenant anew, and began before, is done."""
GIVE_UP_DAYS = 8
_IN_NO_WINDOW = -1


class BatchSettling:
    """One per server."""

    def __init__(self, engine: AsyncEngine, core: Core, line: Line) -> None:
        """`line`: where batches stand; no limit per minute counts them."""
        self._engine = engine
        self._core = core
        self._line = line
        self._heard: list[str] = []

    def grant(self, row: sa.Row[Any]) -> Grant:
        """What quotas hold for a batch."""
        question = Question(
            row.tenant, row.user, ANALYSIS, self._line, 0, row.most_tokens, row.most_nano, lane="bulk", version=row.key_id,
            requests=row.requests,
        )  # fmt: skip
        # One for which nothing was held, or nobody knows what, is counted whole, today.
        day, month = (row.day, row.month) if row.grant_id else today()
        return Grant(question, row.grant_id, "", day, month, _IN_NO_WINDOW)

    def tell(self, id: str, grant: Grant, took: Mapping[str, int], *, again: bool = False) -> None:  # noqa: A002 -- the provider's name for it
        """What quotas held becomes what it took (see `took`). Never waits, never raises."""

        def heard(generation: str) -> None:
            # Redis may not know the tenant: whoever counts him now may have looked into the accounts before this batch stood there,
            # and holds for it. So once more, later; by then nobody can.
            if generation or again:
                self._heard.append(id)

        usage = Usage("", took["took_tokens"], cost_usd=took["took_nano"] / NANO)
        self._core.settle(grant, usage, answers=took["answers"], once=id, done=heard)

    async def look(self) -> None:
        """Note what was heard, tell again what was not. Raises SQLAlchemyError, OSError."""
        heard = self._heard[:]
        if heard:
            async with self._engine.begin() as connection:
                noted = objects.update().where(objects.c.id.in_(heard)).values(settled_at=sa.func.now())
                await connection.execute(noted)
            del self._heard[: len(heard)]
        if not self._core.shared:
            return
        async with self._engine.connect() as connection:
            rows = (
                await connection.execute(
                    sa.select(objects).where(
                        objects.c.kind == "batch",
                        objects.c.settled_at.is_(None),
                        objects.c.accounted_at < sa.func.now() - sa.text(f"interval '{AGAIN_SECONDS} seconds'"),
                        objects.c.created_at > sa.func.now() - sa.text(f"interval '{GIVE_UP_DAYS} days'"),
                    )
                )
            ).all()
        for row in rows:
            amounts = {"answers": row.answers, "took_tokens": row.took_tokens, "took_nano": row.took_nano}
            self.tell(row.id, self.grant(row), amounts, again=True)
            log("llm_gateway").warning("batch_settled_again", batch=row.id, tenant=row.tenant)


def took(answers: Sequence[Usage]) -> dict[str, int]:
    """What a batch took, by the columns that keep it for whoever must tell it again."""
    return {
        "answers": len(answers),
        "took_tokens": sum(each.input_tokens + each.output_tokens for each in answers),
        "took_nano": nano(sum(each.cost_usd for each in answers)),
    }
