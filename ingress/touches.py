"""When each account was last heard of, noted at a bounded rate.

Law: never in a delivery's way: noting is memory alone, writing happens beside it, and a failure costs only the time shown.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Protocol

from infra.telemetry import log

EVERY_SECONDS = 2.0


class AccountTimes(Protocol):
    """The registry's side of it."""

    async def touch(self, account: str, *, last_delivery_at: datetime | None = None) -> None:
        """Note the moment; never moves it back."""
        ...


class Touches:
    """One write per account and two seconds, however many deliveries come."""

    def __init__(self, registry: AccountTimes, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._registry = registry
        self._every = every_seconds
        self._latest: dict[str, datetime] = {}
        self._task: asyncio.Task[None] | None = None
        self._log = log("translator")

    def note(self, account: str, at: datetime) -> None:
        """Remember it; never blocks."""
        if at > self._latest.get(account, at.min.replace(tzinfo=at.tzinfo)):
            self._latest[account] = at

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="touches")

    async def stop(self) -> None:
        """Write what waits, once, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; what fails is dropped, for the next delivery brings a newer time."""
        waiting, self._latest = self._latest, {}
        try:
            async with asyncio.timeout(5):
                for account, at in waiting.items():
                    await self._registry.touch(account, last_delivery_at=at)
        except Exception as error:  # noqa: BLE001 - a time to show is worth no pause, whatever Postgres says
            self._log.warning("account_times_not_written", error=type(error).__name__, accounts=len(waiting))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.flush()
