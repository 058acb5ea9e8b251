"""What an account may use, and the faults that a test plants.

Law: counts and decides; the vendors' error shapes are not known here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

FaultKind = Literal["401", "403", "423", "429", "500", "502", "503", "207", "timeout", "latency"]
WINDOW_S = 10.0


@dataclass(slots=True)
class Tally:
    """What was asked since it was last set to nothing; for benchmarks."""

    calls: Counter[str] = field(default_factory=Counter)
    """By operation, refused ones apart."""
    rows: Counter[str] = field(default_factory=Counter)
    """Inputs of batch calls, by operation."""
    refused: list[int] = field(default_factory=list)
    """When calls were refused as too many (epoch ms)."""
    at: list[int] = field(default_factory=list)
    """When `calls` came (epoch ms)."""

    def count(self, operation: str, rows: int) -> None:
        """One call that was let in, with so many inputs."""
        self.at.append(int(time.time() * 1000))
        self.calls[operation] += 1
        self.rows[operation] += rows

    def refuse(self) -> None:
        """One that was one too many."""
        self.refused.append(int(time.time() * 1000))


@dataclass(slots=True)
class Limits:
    """Settable limits of one account. None: unlimited."""

    per_ten_seconds: int | None = None
    """HubSpot: calls per rolling window and app: 110 for OAuth apps, 190 for private ones."""
    window_ms: int = int(WINDOW_S * 1000)
    """HubSpot's ten seconds; another length scales time."""
    search_per_second: int | None = None
    """HubSpot: search calls per second."""
    daily: int | None = None
    """HubSpot: calls a day, shown in headers; beyond it 429 DAILY. Salesforce: calls per rolling 24 h."""
    used_today: int = 0
    windows: dict[int | None, deque[float]] = field(default_factory=dict)
    searches: deque[float] = field(default_factory=deque)
    tally: Tally = field(default_factory=Tally)

    def take(self, app: int | None = None) -> int | None:
        """Count one call; returns how many are left in the window (-1 when this one is too many)."""
        if self.per_ten_seconds is None:
            self.used_today += 1
            return None
        now = time.monotonic()
        window = self.windows.setdefault(app, deque())
        while window and window[0] <= now - self.window_ms / 1000:
            window.popleft()
        if len(window) >= self.per_ten_seconds:
            return -1
        window.append(now)
        self.used_today += 1
        return self.per_ten_seconds - len(window)

    def take_search(self) -> bool:
        """Count one search; False when it is one too many."""
        if self.search_per_second is None:
            return True
        now = time.monotonic()
        while self.searches and self.searches[0] <= now - 1.0:
            self.searches.popleft()
        if len(self.searches) >= self.search_per_second:
            return False
        self.searches.append(now)
        return True

    def take_daily(self) -> bool:
        """Count one call against the daily budget alone; False when that is spent."""
        if self.daily is not None and self.used_today >= self.daily:
            return False
        self.used_today += 1
        return True


@dataclass(slots=True)
class Fault:
    """What the next `count` calls of an operation meet."""

    account: str
    operation: str
    """A pattern such as `objects.batch_update`, `objects.*` or `*`."""
    kind: FaultKind
    count: int = 1
    ms: int = 0
    """For `latency` and `timeout`: how long."""
    rows: int = 1
    """For `207`: how many of the first rows fail (Salesforce: of a collections call)."""


class Faults:
    """Planted faults, met in the order in which they were planted."""

    def __init__(self) -> None:
        self._planted: list[Fault] = []

    def plant(self, fault: Fault) -> None:
        """Let the next calls meet it."""
        self._planted.append(fault)

    def clear(self) -> None:
        """Take all of them back."""
        self._planted.clear()

    def take(self, account: str, operation: str) -> Fault | None:
        """The fault that this call meets, if any; counts it."""
        if not self._planted:
            return None
        for fault in self._planted:
            if fault.account in {account, "*"} and fnmatchcase(operation, fault.operation):
                fault.count -= 1
                if fault.count <= 0:
                    self._planted.remove(fault)
                return fault
        return None
