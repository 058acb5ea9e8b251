"""What quotas hold for the server's batches, as Postgres knows it: for a Redis that has lost it.

Law: reads, and nothing else. A batch that is not in the accounts yet is held again under the name it was held by, so that its
end gives back exactly that; one that is in the accounts, and of which Redis may not have heard, is named, so that it is not
counted a second time. Both must be read in one snapshot with the accounts: see `llm_gateway.accounting`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.database.tables import llm_provider_objects as objects
from llm_gateway.question import pseudonym
from llm_gateway.settling import Held

_LEFT_MS = sa.cast(sa.func.extract("epoch", objects.c.held_until - sa.func.now()) * 1000, sa.BigInteger)


async def held_for(connection: AsyncConnection, tenant: str) -> tuple[Held, ...]:
    """A tenant's batches whose end nobody has accounted."""
    mine = sa.select(
        objects.c.grant_id, objects.c.user, objects.c.most_tokens, objects.c.most_nano, objects.c.day, objects.c.month,
        objects.c.requests, _LEFT_MS,
    ).where(
        objects.c.tenant == tenant, objects.c.kind == "batch", objects.c.accounted_at.is_(None), objects.c.grant_id != "",
        objects.c.held_until > sa.func.now(),
    )  # fmt: skip
    return tuple(
        Held(id_, pseudonym(tenant, user), *rest) for id_, user, *rest in (await connection.execute(mine)).all()
    )


async def untold(connection: AsyncConnection, tenant: str) -> tuple[str, ...]:
    """A tenant's batches that are in the accounts, and of which nobody noted that Redis has heard."""
    mine = sa.select(objects.c.id).where(
        objects.c.tenant == tenant,
        objects.c.kind == "batch",
        objects.c.accounted_at.is_not(None),
        objects.c.settled_at.is_(None),
    )
    return tuple(await connection.scalars(mine))
