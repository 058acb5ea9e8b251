"""Guided set-ups that were begun: which steps are behind, and what was answered.

Law: answers hold secrets, so they are sealed; a set-up that is finished is forgotten, since the account has it all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts.registry import SecretSealer
from infra.database.tables import account_setups


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one is."""

    done: Sequence[str] = ()
    answers: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Setups:
    """The table of them: one per tenant and CRM. Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine, sealer: SecretSealer) -> None:
        self._engine = engine
        self._sealer = sealer

    async def load(self, tenant: str, crm: str) -> Progress:
        """What was begun; empty where nothing was."""
        asked = sa.select(account_setups).where(account_setups.c.tenant == tenant, account_setups.c.crm == crm)
        async with self._engine.connect() as connection:
            row = (await connection.execute(asked)).first()
        if row is None:
            return Progress()
        opened = self._sealer.open_secret(row.sealed_answers, purpose=_purpose(tenant, crm))
        return Progress(tuple(row.done), json.loads(opened))

    async def save(self, tenant: str, crm: str, progress: Progress) -> None:
        """Remember it."""
        sealed = self._sealer.seal_secret(json.dumps(dict(progress.answers)).encode(), purpose=_purpose(tenant, crm))
        statement = insert(account_setups).values(
            tenant=tenant, crm=crm, done=list(progress.done), sealed_answers=sealed
        )
        changed = {name: statement.excluded[name] for name in ("done", "sealed_answers")}
        async with self._engine.begin() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["tenant", "crm"], set_={**changed, "changed_at": sa.func.now()}
                )
            )

    async def forget(self, tenant: str, crm: str) -> None:
        """It is finished, or given up."""
        async with self._engine.begin() as connection:
            await connection.execute(
                account_setups.delete().where(account_setups.c.tenant == tenant, account_setups.c.crm == crm)
            )


def _purpose(tenant: str, crm: str) -> str:
    return f"account_setups.sealed_answers/{tenant}/{crm}"
