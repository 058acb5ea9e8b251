"""What the registry says, in memory, for those who may not wait for Postgres.

Law: a lookup never blocks and never fails; while Postgres is away the last view stays, and says how old it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType

from infra.accounts.identity import Account, Endpoint
from infra.accounts.registry import Registry

POLL_SECONDS = 1.0
STALE_SECONDS = 30.0
FULL_EVERY_SECONDS = 300.0
"""A full read now and then, whatever the stamp says."""


class Directory:
    """A view of all endpoints and accounts that follows changes within a second or two.

    It polls one cheap query instead of listening: a listener needs a connection of its own, which poolers in
    transaction mode do not give, and a missed notification would be a view that stays wrong.
    """

    def __init__(self, registry: Registry, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._endpoints: Mapping[str, Endpoint] = MappingProxyType({})
        self._accounts: Mapping[str, Account] = MappingProxyType({})
        self._stamp = ""
        self._confirmed = float("-inf")
        self._read = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.last_error = ""

    async def start(self) -> None:
        """Read everything once, then keep following. Raises what the database raises: without a view no role can work."""
        await self.refresh()
        self._task = asyncio.create_task(self._follow(), name="directory")

    async def stop(self) -> None:
        """Stop following; the view stays. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def endpoint(self, id: str) -> Endpoint | None:  # noqa: A002 - the contract's name
        """The endpoint, or None where there is none."""
        return self._endpoints.get(id)

    def account(self, id: str) -> Account | None:  # noqa: A002 - the contract's name
        """The account, or None where there is none."""
        return self._accounts.get(id)

    def endpoints(self) -> Mapping[str, Endpoint]:
        """All of them by id; a view that is never changed, only replaced."""
        return self._endpoints

    def accounts(self) -> Mapping[str, Account]:
        """All of them by id; a view that is never changed, only replaced."""
        return self._accounts

    def age(self) -> float:
        """Seconds since Postgres last confirmed this view."""
        return time.monotonic() - self._confirmed

    async def readiness(self) -> str | None:
        """None while the view is fresh; else how old it is and why."""
        age = self.age()
        if age <= STALE_SECONDS:
            return None
        return f"directory of endpoints and accounts is {age:.0f} s old ({self.last_error or 'not read yet'}): is PostgreSQL reachable?"

    async def refresh(self) -> bool:
        """Look for changes now; True when the view was replaced. Raises what the database raises."""
        now = time.monotonic()
        if self._stamp and now - self._read < FULL_EVERY_SECONDS and await self._registry.stamp() == self._stamp:
            self._confirmed = time.monotonic()
            return False
        stamp, endpoints, accounts = await self._registry.everything()
        self._endpoints = MappingProxyType({found.id: found for found in endpoints})
        self._accounts = MappingProxyType({found.id: found for found in accounts})
        self._stamp = stamp
        self._confirmed = self._read = time.monotonic()
        return True

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                async with asyncio.timeout(10):
                    await self.refresh()
                self.last_error = ""
            except Exception as error:  # noqa: BLE001 - whatever Postgres does, the view stays and readiness says so
                self.last_error = type(error).__name__
