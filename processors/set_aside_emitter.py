"""What was set aside is triggered again when its time has come.

Law: a row is given up only after its trigger is acknowledged; several emitters may run at once. It decides nothing else:
whether the record can go on now is for the stages to find out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from infra.set_aside import Due
from infra.telemetry import log
from infra.unavailable import as_unavailable
from processors.hydrator import CREATION_UNSEEN, DELETION_UNSEEN, READ_LAGGED
from processors.ports import Publishes
from schemas.change import Change
from schemas.topics import CHANGES_BULK

POLL_SECONDS = 1.0
PAGE = 500
FORGET_EVERY = 600
"""Looks between two clean-ups."""

_log = log("set_aside")
# A second look after the CRM contradicted itself is an ordinary change: no news, no snapshot. After a deletion, though, the
# CRM is believed whatever it says, and no known deletion may swallow the look. All others must pass.
_AS_CHANGE: dict[str, dict[str, str]] = {
    READ_LAGGED: {"kind": "updated", "reason": "webhook"},
    DELETION_UNSEEN: {"kind": "deleted", "reason": "reconcile"},
    CREATION_UNSEEN: {"kind": "created", "reason": "webhook"},
}
_AS_RETRY = {"kind": "updated", "reason": "set_aside"}


class DueRows(Protocol):
    """`infra.set_aside.SetAside`. Methods raise what the database raises; each is safe to call again."""

    async def due(self, limit: int = PAGE) -> list[Due]:
        """Lease rows whose time has come."""
        ...

    async def done(self, rows: Sequence[Due]) -> None:
        """Their triggers are acknowledged."""
        ...

    async def forget(self) -> int:
        """Delete what only remembers attempts of long ago."""
        ...


class Emitter:
    """Runs beside the hydrator."""

    def __init__(
        self, rows: DueRows, publisher: Publishes, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._rows = rows
        self._publisher = publisher
        self._sleep = sleep

    async def run(self) -> None:
        """Until cancelled. While Postgres or Kafka is away it waits: nothing is given up."""
        looks = 0
        while True:
            try:
                emitted = await self.emit()
                looks += 1
                if looks % FORGET_EVERY == 0:
                    await self._rows.forget()
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                _log.warning("set_aside_waits", part=away.part)
                emitted = 0
            if emitted < PAGE:
                await self._sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas, guards nothing

    async def emit(self) -> int:
        """Trigger one page of what is due; returns how many."""
        rows = await self._rows.due(PAGE)
        if rows:
            await self._publisher.publish(CHANGES_BULK, [trigger(row) for row in rows])
            await self._rows.done(rows)
            _log.info("set_aside_triggered", records=len(rows))
        return len(rows)


def trigger(row: Due) -> Change:
    """The change that a row becomes."""
    return Change.model_validate(
        {**row.ref._asdict(), "occurred_at": row.created_at, **_AS_CHANGE.get(row.cause, _AS_RETRY)}
    )
