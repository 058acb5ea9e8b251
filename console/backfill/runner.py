"""Running a backfill: page by page, at its rate and within the account's calls of a day, until it is done or told to stop.

Law: a record is announced on the bulk lane by its id alone (the hydrator reads it); the position is noted after the broker's
acknowledgement, so whoever goes on after a crash repeats one page at most, which is harmless. Its calls are bulk work: live ones
go first, and they end where the day's share for others begins. What is away, spent or disconnected is waited for. The calls
that the hydrator will make for a page count when the page is announced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from console.backfill.planner import calls_of
from console.backfill.store import END, Backfill, Backfills
from infra.accounts import Account
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable, Page
from infra.crm.limits import bulk_work
from infra.telemetry import log
from infra.unavailable import as_unavailable
from schemas.change import Change

CHUNK = 100
"""Announced at once; at lower rates a second's worth."""
CONTROL_SECONDS = 1.0
"""How often the table is asked for another rate or a cancellation."""
AGAIN_SECONDS = 15.0
"""Until what was away is asked again."""

_log = log("backfill")


class Accounts(Protocol):
    """What we need of the registry."""

    async def account(self, account: str) -> Account:
        """The account as it is now, credentials included."""
        ...


class _Stop(Exception):  # noqa: N818 - no error: somebody asked for it
    pass


class Runner:
    """One run of one backfill; its lock is the caller's."""

    def __init__(
        self,
        backfill: Backfill,
        backfills: Backfills,
        client: CrmClient,
        accounts: Accounts,
        publish: Callable[[Sequence[Change]], Awaitable[Any]],
        *,
        stop: asyncio.Event,
        progress: Callable[[Backfill], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        look_every: float = CONTROL_SECONDS,
    ) -> None:
        """`publish` returns after the broker's acknowledgement; `look_every`: seconds between signs of life."""
        self._now_is = backfill
        self._backfills = backfills
        self._client = client
        self._accounts = accounts
        self._publish = publish
        self._stop = stop
        self._progress = progress
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._look_every = look_every
        self._due = 0.0
        self._next_look = 0.0

    async def run(self) -> Backfill:
        """Go on from where it stands; returns it as it is afterwards: done, cancelled, paused (stopped) or failed."""
        one = self._now_is
        if one.state == "cancelling":
            # Its runner died before it could say so.
            await self._note(state="cancelled", ended_at=sa.func.now(), waiting="")
            return self._now_is
        await self._note(state="running", started_at=one.started_at or sa.func.now(), error="", waiting="")
        self._due = self._clock()
        try:
            for object_ in one.objects:
                await self._kind(object_)
        except _Stop:
            cancelled = (await self._backfills.get(one.id)).state == "cancelling"
            await self._note(
                state="cancelled" if cancelled else "paused",
                waiting="",
                **({"ended_at": sa.func.now()} if cancelled else {}),
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("backfill_failed", backfill=one.id, account=one.account)
            await self._note(state="failed", error=type(error).__name__, waiting="")
            raise
        else:
            await self._note(state="done", ended_at=sa.func.now(), waiting="")
        return self._now_is

    async def _kind(self, object_: str) -> None:
        while (position := self._now_is.position.get(object_, "")) != END:
            await self._look(force=False)
            await self._afford(calls_of(self._now_is.account.partition(":")[0], object_, CHUNK))
            page: Page = await self._patiently(partial(self._page, object_, position))
            chunk = max(1, min(CHUNK, round(self._now_is.rate)))
            for start in range(0, len(page.records), chunk):
                some = page.records[start : start + chunk]
                await self._pace(len(some))
                await self._patiently(partial(self._announce, object_, some))
            one = self._now_is
            spent = max(1, calls_of(one.account.partition(":")[0], object_, len(page.records)))
            await self._note(
                position={**one.position, object_: page.next or END},
                done={**one.done, object_: one.done.get(object_, 0) + len(page.records)},
                calls_day=self._today(),
                calls_used=(one.calls_used if one.calls_day == self._today() else 0) + spent,
                waiting="",
            )

    async def _page(self, object_: str, after: str) -> Page:
        account = await self._accounts.account(self._now_is.account)
        if account.state == "disconnected":
            raise AccountUnavailable(account.id, "TOKEN_REVOKED", "it is disconnected: `hookline account connect`")
        with bulk_work():
            return await self._client.page(account, object_, after or None)

    async def _announce(self, object_: Any, records: Sequence[tuple[str, datetime]]) -> None:
        one = self._now_is
        await self._publish(
            [
                Change(
                    tenant=one.tenant,
                    account=one.account,
                    object=object_,
                    id=identity,
                    kind="updated",
                    occurred_at=modified_at,
                    reason="backfill",
                )
                for identity, modified_at in records
            ]
        )

    async def _patiently(self, act: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await act()
            except (AccountUnavailable, CrmUnavailable) as error:
                why = error.cause if isinstance(error, AccountUnavailable) else str(error)
                await self._rest(max(error.retry_after or 0.0, AGAIN_SECONDS), why)
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                await self._rest(away.retry_after or AGAIN_SECONDS, f"{away.part} is away")

    async def _afford(self, calls: int) -> None:
        """Wait for the next day (UTC) when this one's calls are spent."""
        while True:
            one = self._now_is
            used = one.calls_used if one.calls_day == self._today() else 0
            # A page of its own always fits: a budget smaller than one page must not mean never.
            if not used or used + calls <= one.calls_per_day:
                return
            now = self._now()
            tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
            await self._rest((tomorrow - now).total_seconds() + 1, f"its {one.calls_per_day} calls of today are spent")

    async def _pace(self, number: int) -> None:
        while (left := self._due - self._clock()) > 0:
            await self._sleep(min(left, self._look_every))
            await self._look(force=False)
        await self._look(force=False)
        self._due = max(self._due, self._clock() - 1.0) + number / self._now_is.rate

    async def _rest(self, seconds: float, why: str) -> None:
        until = self._clock() + seconds
        _log.info("backfill_waits", backfill=self._now_is.id, account=self._now_is.account, why=why)
        while (left := until - self._clock()) > 0:
            await self._look(force=True, waiting=why)
            await self._sleep(min(left, self._look_every))

    async def _look(self, *, force: bool, **values: Any) -> None:
        """Give a sign of life and hear another rate, a cancellation or a stop. While Postgres is away, nobody can want any."""
        if self._stop.is_set():
            raise _Stop
        if not force and self._clock() < self._next_look:
            return
        self._next_look = self._clock() + self._look_every
        try:
            await self._note(**values)
        except Exception as error:
            if as_unavailable(error) is None:
                raise
        if self._now_is.state == "cancelling":
            raise _Stop

    async def _note(self, **values: Any) -> None:
        await self._backfills.update(self._now_is.id, seen_at=sa.func.now(), **values)
        self._now_is = await self._backfills.get(self._now_is.id)
        self._progress(self._now_is)

    def _today(self) -> date:
        return self._now().date()
