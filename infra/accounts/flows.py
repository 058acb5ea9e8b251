"""Authorizations under way: an admin was sent to the CRM and has not come back yet.

Law: a state is known by its hash alone, counts once, and ends by itself; the verifier beside it is sealed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts.registry import SecretSealer
from infra.database.tables import oauth_flows

LASTS_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Flow:
    """What was begun."""

    account: str
    redirect_uri: str
    verifier: str = field(repr=False)


class Flows:
    """The table of them. Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine, sealer: SecretSealer) -> None:
        self._engine = engine
        self._sealer = sealer

    async def begin(self, state: str, flow: Flow) -> None:
        """Remember it for ten minutes; forgets those that ended."""
        key = _hash(state)
        ends = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, LASTS_SECONDS)
        async with self._engine.begin() as connection:
            await connection.execute(oauth_flows.delete().where(oauth_flows.c.expires_at < sa.func.now()))
            await connection.execute(
                oauth_flows.insert().values(
                    state_hash=key,
                    account=flow.account,
                    redirect_uri=flow.redirect_uri,
                    sealed_verifier=self._sealer.seal_secret(flow.verifier.encode(), purpose=_purpose(key)),
                    expires_at=ends,
                )
            )

    async def take(self, state: str) -> Flow | None:
        """What was begun with this state, once; None for a state that is unknown, used or too old."""
        key = _hash(state)
        async with self._engine.begin() as connection:
            row = (
                await connection.execute(
                    oauth_flows.delete()
                    .where(oauth_flows.c.state_hash == key)
                    .returning(oauth_flows, (oauth_flows.c.expires_at > sa.func.now()).label("counts"))
                )
            ).first()
        if row is None or not row.counts:
            return None
        verifier = self._sealer.open_secret(row.sealed_verifier, purpose=_purpose(key)).decode()
        return Flow(row.account, row.redirect_uri, verifier)


def _hash(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def _purpose(key: bytes) -> str:
    return f"oauth_flows.sealed_verifier/{key.hex()}"
