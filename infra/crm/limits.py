"""What a CRM lets an account's calls use, and what of that is left to others.

Law: says and counts, calls nobody. What a vendor's headers say goes before what settings assume. A share of the day belongs
to the customer's own integrations; bulk work stops earlier than live work.
Sources: HubSpot's "API usage guidelines" (X-HubSpot-RateLimit-*), Salesforce's REST API guide (Sforce-Limit-Info).
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from infra.settings import Settings

_BULK: ContextVar[bool] = ContextVar("crm_bulk", default=False)
Fill = Callable[[], float]
"""How full a call would be if it went now: 0 to 1."""
_FILL: ContextVar[Fill] = ContextVar("crm_fill", default=lambda: 1.0)
BELIEVED_SECONDS: Final = 300.0
SPENT_SECONDS: Final = 10.0
"""As in `lua/limits.lua`."""
SCARCE_FROM, SCARCE_TO = 0.5, 0.75
"""Used parts of a window between which calls become scarce."""
WORTH_PACES: Final = 8.0
"""A call that is saved where they are scarce is worth as long a wait as so many calls take by the limit: 0.7 s by HubSpot's 110 in 10 s."""
_USAGE: Final = re.compile(r"api-usage=(\d+)/(\d+)")


@contextmanager
def bulk_work(bulk: bool = True) -> Iterator[None]:
    """CRM calls made within, also by tasks that begin within, are bulk work: live work goes first, and they stop earlier."""
    token = _BULK.set(bulk)
    try:
        yield
    finally:
        _BULK.reset(token)


def is_bulk() -> bool:
    """Whether this task's calls are bulk work."""
    return _BULK.get()


@contextmanager
def filling(fill: Fill) -> Iterator[None]:
    """CRM calls made within take rows while they wait for their turn, and `fill()` says how many: where turns are scarce the fuller
    call goes first. What is called outside of it gains nothing by waiting, and counts as full.
    """
    token = _FILL.set(fill)
    try:
        yield
    finally:
        _FILL.reset(token)


def fill_of_task() -> Fill:
    """How full this task's calls are; asked in its event loop, whenever a turn is to be given."""
    return _FILL.get()


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer's headers tell; None: nothing."""

    limit: int | None = None
    """Calls per window."""
    left: int | None = None
    """Of those, the ones that are left now."""
    window_seconds: float | None = None
    day_limit: int | None = None
    day_used: int | None = None
    """By everybody, not us alone."""


def hubspot_said(headers: Mapping[str, str]) -> Said | None:
    """From X-HubSpot-RateLimit-{Max,Remaining,Interval-Milliseconds,Daily,Daily-Remaining}; the search endpoint sends none."""

    def number(name: str) -> int | None:
        text = headers.get(f"X-HubSpot-RateLimit-{name}") or ""
        return int(text) if text.isdigit() else None

    limit, interval, day, day_left = (
        number("Max"),
        number("Interval-Milliseconds"),
        number("Daily"),
        number("Daily-Remaining"),
    )
    if limit is None and day is None:
        return None
    return Said(
        limit=limit,
        left=number("Remaining"),
        window_seconds=interval / 1_000 if interval else None,
        day_limit=day,
        day_used=None if day is None or day_left is None else max(0, day - day_left),
    )


def salesforce_said(headers: Mapping[str, str]) -> Said | None:
    """From `Sforce-Limit-Info: api-usage=18/5000`: calls of 24 h by everybody, and how many there may be."""
    found = _USAGE.search(headers.get("Sforce-Limit-Info") or "")
    return Said(day_limit=int(found[2]), day_used=int(found[1])) if found else None


@dataclass(frozen=True, slots=True)
class Policy:
    """What we allow ourselves."""

    concurrency: int
    """Calls at once per account and process; bulk work has half of it, apart."""
    limit: int = 0
    """Calls per window until the vendor says; 0: none."""
    window_seconds: float = 10.0
    free_share: float = 0.2
    """Part of the vendor's day that is left to others."""
    bulk_free_share: float = 0.5
    """Part of the day that bulk work leaves."""
    day_calls: int = 0
    """Calls a UTC day that we allow ourselves, whatever the vendor allows; 0: no limit of our own."""
    share_alone: float = 0.25
    """Part of a limit that one process may use while Redis is away."""
    wait_seconds: float = 60.0
    """For so long a call waits for its turn; then its account's records are set aside."""
    lease_seconds: float = 60.0
    """A turn whose process died comes back after this and a window."""


def policy_of(settings: Settings, crm: str) -> Policy:
    """The settings' policy for a vendor."""
    # HubSpot's smallest limit is 100 calls per 10 s; the sandbox has none unless it says so.
    starts = 100 if crm == "hubspot" and settings.sandbox_url is None else 0
    return Policy(
        concurrency=settings.crm_concurrency,
        limit=starts,
        free_share=settings.crm_free_share,
        bulk_free_share=max(settings.crm_free_share, settings.crm_bulk_free_share),
        day_calls=settings.crm_daily_calls or 0,
        share_alone=settings.crm_share_without_redis,
        wait_seconds=settings.crm_wait_seconds,
        lease_seconds=settings.crm_timeout_seconds + 10.0,
    )


class Window:
    """The law of `lua/limits.lua` for one account in one process: what holds while Redis is away."""

    def __init__(self, policy: Policy, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._share = share
        self._clock = clock
        self._limit = policy.limit
        self._window = policy.window_seconds
        self._under_way = 0
        self._answered: deque[float] = deque()
        self._level: float | None = None
        self._at = clock()
        self._closed_until = 0.0
        self._day_limit = 0
        self._day_used = 0
        self._day_at = clock()
        self._used = 0.0
        self._used_at = float("-inf")

    def hear(self, said: Said) -> None:
        """Take over what the vendor says."""
        self._limit = said.limit or self._limit
        self._window = said.window_seconds or self._window
        if said.limit and said.left is not None:
            self._used, self._used_at = 1.0 - said.left / said.limit, self._clock()
        if said.day_limit is not None and said.day_used is not None:
            self._day_limit, self._day_used, self._day_at = said.day_limit, said.day_used, self._clock()

    def worth_waiting(self) -> float:
        """Seconds that rows may wait for more of their kind, so that calls are saved: 0 as long as the vendor said within a window
        that half of it is left, whoever uses the rest.
        """
        if not self._limit or self._clock() - self._used_at > self._window:
            return 0.0
        scarce = min(1.0, max(0.0, (self._used - SCARCE_FROM) / (SCARCE_TO - SCARCE_FROM)))
        return scarce * WORTH_PACES * self._window / self._limit

    def hold(self, seconds: float) -> None:
        """Nobody for so long; a longer hold is never cut short."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def day_is_spent(self, bulk: bool) -> bool:
        """Whether what may be used of the vendor's day is used, as far as was heard."""
        share = self._policy.bulk_free_share if bulk else self._policy.free_share
        if self._day_limit == 0 or self._day_used < self._day_limit * (1 - share):
            return False
        believed = SPENT_SECONDS if self._day_used >= self._day_limit else BELIEVED_SECONDS
        if self._clock() - self._day_at < believed:
            return True
        self._day_limit = 0  # old news: the next answers tell it anew
        return False

    def take(self) -> float:
        """0: taken, and to be given back; else seconds until it is worth asking again."""
        now = self._clock()
        if self._closed_until > now:
            return self._closed_until - now
        limit = max(1, int(self._limit * self._share)) if self._limit else 0
        if limit:
            while self._answered and self._answered[0] <= now - self._window:
                self._answered.popleft()
            rate = limit / self._window
            burst = max(1.0, limit / 4)
            level = burst if self._level is None else min(burst, self._level + (now - self._at) * rate)
            self._level, self._at = level, now
            over = len(self._answered) + self._under_way + 1 - limit
            if over > 0:
                free_at = self._answered[over - 1] if over <= len(self._answered) else now
                return max(0.002, free_at + self._window - now)
            if level < 1 - 1e-6:
                return max(0.002, (1 - level) / rate)
            self._level = level - 1
        self._under_way += 1
        self._day_used += 1
        return 0.0

    def give_back(self) -> None:
        """The call was answered now."""
        self._under_way = max(0, self._under_way - 1)
        if self._limit:
            self._answered.append(self._clock())
