"""What was refused, for the admin to read: table `refusals`, written beside the requests and never in their way.

Law: noting a refusal never blocks and never fails. One row per endpoint, cause and second, and one for every request
that is kept for a retry (`ingress/refused.py` says how many); what cannot be written
while Postgres is away waits in a bounded buffer, the oldest goes first, and what is lost is counted. A flood of requests to
addresses that do not exist is one row per second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.database.tables import refusals
from infra.telemetry import log
from schemas.delivery import Refusal

MAX_ROWS = 10_000
MAX_SEALED_BYTES = 32 * 1024 * 1024
"""Bodies that wait to be written; while Postgres is away for long, the rows stay and the bodies go."""
KEEP = timedelta(days=30)
_PAGE = 500
_SEALED_PAGE_BYTES = 4 * 1024 * 1024
_PURGE_SECONDS = 3_600.0

Write = Callable[[Sequence[dict[str, Any]]], Awaitable[None]]


@dataclass(slots=True)
class Refused:
    """One row: the first refusal of its endpoint, cause and second, and how many more there were."""

    request_id: str
    at: datetime
    endpoint: str
    """The whole id where it is no secret; else its first six characters."""
    tenant: str
    cause: Refusal
    status: int
    detail: str
    size: int
    repeats: int = 1
    sealed: bytes | None = None
    """The request itself, for a retry; such a row is not put together with others."""

    def row(self) -> dict[str, Any]:
        """As the table has it."""
        return {
            "request_id": self.request_id,
            "at": self.at,
            "endpoint": self.endpoint[:64],
            "tenant": self.tenant,
            "cause": self.cause.value,
            "status": self.status,
            "detail": self.detail[:200],
            "size": self.size,
            "repeats": self.repeats,
            "sealed_request": self.sealed,
        }


class Ledger:
    """Gathers refusals and writes them about once a second; one per process."""

    def __init__(
        self, write: Write, *, max_rows: int = MAX_ROWS, every_seconds: float = 1.0, keeps_requests: bool = True
    ) -> None:
        """`keeps_requests`: whether callers should hand over the requests themselves, sealed."""
        self.keeps_requests = keeps_requests
        self._sealed_bytes = 0
        self._write = write
        self._max_rows = max_rows
        self._every = every_seconds
        self._rows: dict[tuple[str, Refusal, int, str], Refused] = {}
        self._task: asyncio.Task[None] | None = None
        self._log = log("ingress")
        self.dropped = 0

    def note(self, refused: Refused) -> None:
        """Count it in; never blocks."""
        endpoint = "" if refused.cause is Refusal.UNKNOWN_ENDPOINT else refused.endpoint
        if refused.sealed is not None and self._sealed_bytes + len(refused.sealed) > MAX_SEALED_BYTES:
            refused.sealed = None
        key = (
            endpoint,
            refused.cause,
            int(refused.at.timestamp()),
            "" if refused.sealed is None else refused.request_id,
        )
        known = self._rows.get(key)
        if known is not None:
            known.repeats += 1
            return
        if len(self._rows) >= self._max_rows:
            lost = self._rows.pop(next(iter(self._rows)))
            self._sealed_bytes -= len(lost.sealed or b"")
            self.dropped += lost.repeats
            metrics.REFUSALS_UNRECORDED.inc(lost.repeats)
        self._rows[key] = refused
        self._sealed_bytes += len(refused.sealed or b"")
        # One line per row: a storm of refusals must not become a storm of log lines.
        self._log.warning(
            "delivery_refused",
            request_id=refused.request_id,
            endpoint=refused.endpoint,
            tenant=refused.tenant,
            cause=refused.cause.value,
            status=refused.status,
            detail=refused.detail,
            size=refused.size,
        )

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="refusals")

    async def stop(self) -> None:
        """Write what there is, if Postgres is there; wait five seconds at most."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        try:
            async with asyncio.timeout(5):
                await self.flush(everything=True)
        except Exception as error:  # noqa: BLE001 - a role stops, whatever Postgres says
            self._log.warning("refusals_not_written", error=type(error).__name__, rows=len(self._rows))

    async def flush(self, *, everything: bool = False) -> int:
        """Write the rows of other seconds than this one; raises what the database raises, and keeps them then."""
        now = int(time.time())
        # Not only of earlier ones: after a clock was set back they would stay in memory for as long as it was ahead.
        ready = [key for key in self._rows if everything or key[2] != now]
        start = 0
        while start < len(ready):
            page: list[tuple[tuple[str, Refusal, int, str], Refused]] = []
            size = 0
            while start < len(ready) and len(page) < _PAGE and size < _SEALED_PAGE_BYTES:
                found = self._rows.get(ready[start])
                if found is not None:
                    page.append((ready[start], found))
                    size += len(found.sealed or b"")
                start += 1
            await self._write([refused.row() for _, refused in page])
            for key, refused in page:
                if self._rows.get(key) is refused:
                    del self._rows[key]
                    self._sealed_bytes -= len(refused.sealed or b"")
        return len(ready)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - whatever Postgres does, the rows stay and are tried again
                self._log.warning("refusals_not_written", error=type(error).__name__, rows=len(self._rows))


class PostgresRefusals:
    """Writes pages of rows; once an hour drops those older than `KEEP`, and kept requests older than `keep_requests`."""

    def __init__(self, engine: AsyncEngine, keep_requests: timedelta = timedelta(hours=24)) -> None:
        self._engine = engine
        self._keep_requests = keep_requests
        self._purged = float("-inf")

    async def __call__(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert them; the same ones again change nothing. Raises what the database raises."""
        async with self._engine.begin() as connection:
            if rows:
                await connection.execute(insert(refusals).on_conflict_do_nothing(), list(rows))
            if time.monotonic() - self._purged > _PURGE_SECONDS:
                await connection.execute(sa.delete(refusals).where(refusals.c.at < datetime.now(UTC) - KEEP))
                await connection.execute(
                    sa.update(refusals)
                    .where(refusals.c.sealed_request.is_not(None))
                    .where(refusals.c.at < datetime.now(UTC) - self._keep_requests)
                    .values(sealed_request=None)
                )
                self._purged = time.monotonic()
