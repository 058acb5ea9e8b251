"""How many changes a tenant may send on the live lane: the settings' rate, or its own from the table `tenants`.

Law: a lookup is memory alone and never fails; while Postgres is away the last view stays. Asking for one tenant more than
all others get is an operator's decision, so it is kept where operators' decisions are, and not in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import RegistryError
from infra.database.tables import tenants
from infra.settings import Settings
from infra.telemetry import log

POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """A token bucket's measures."""

    per_second: int
    burst: int


class Allowances:
    """Every tenant's allowance. Belongs to one event loop."""

    def __init__(self, engine: AsyncEngine, settings: Settings, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._engine = engine
        self._default = Allowance(settings.tenant_changes_per_second, settings.tenant_changes_burst)
        self._own: Mapping[str, Allowance] = {}
        self._poll_seconds = poll_seconds

    def of(self, tenant: str) -> Allowance:
        """The tenant's own allowance, or the settings'; never blocks."""
        return self._own.get(tenant, self._default)

    async def refresh(self) -> None:
        """Read them now; raises what the database raises."""
        self._own = {name: found for name, (found, own) in (await self.all()).items() if own}

    async def follow(self) -> None:
        """Keep the view fresh until cancelled."""
        logger = log("translator")
        while True:
            try:
                async with asyncio.timeout(10):
                    await self.refresh()
            except Exception as error:  # noqa: BLE001 -- whatever Postgres does, the view stays
                logger.warning("allowances_not_read", error=type(error).__name__)
            await asyncio.sleep(self._poll_seconds)

    async def all(self) -> dict[str, tuple[Allowance, bool]]:
        """Every tenant's allowance, and whether any of it is its own; raises what the database raises."""
        columns = (tenants.c.id, tenants.c.changes_per_second, tenants.c.changes_burst)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(sa.select(*columns).order_by(tenants.c.id))).all()
        return {
            name: (
                Allowance(per_second or self._default.per_second, burst or self._default.burst),
                per_second is not None or burst is not None,
            )
            for name, per_second, burst in rows
        }

    async def one(self, tenant: str) -> tuple[Allowance, bool]:
        """One tenant's, as `all`; raises RegistryError for an unknown tenant."""
        found = (await self.all()).get(tenant)
        if found is None:
            raise _unknown(tenant)
        return found

    async def set(self, tenant: str, per_second: int | None, burst: int | None) -> None:
        """Give a tenant its own allowance; None: the settings'. In force everywhere within POLL_SECONDS.

        Raises RegistryError for an unknown tenant, and for a number below 1.
        """
        if any(number is not None and number < 1 for number in (per_second, burst)):
            raise RegistryError("a rate or burst below 1 would stop the tenant: disable its endpoints for that")
        change = (
            tenants.update().where(tenants.c.id == tenant).values(changes_per_second=per_second, changes_burst=burst)
        )
        async with self._engine.begin() as connection:
            if not (await connection.execute(change)).rowcount:
                raise _unknown(tenant)


def _unknown(tenant: str) -> RegistryError:
    return RegistryError(f"tenant {tenant!r} is not known: add it with `hookline tenant add {tenant}`")
