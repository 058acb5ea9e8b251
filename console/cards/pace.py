"""How often the cards of one account may ask: a token bucket per account, in memory.

Law: only genuine calls spend tokens; never blocks. One process's share: HubSpot itself lets an app have 20 calls at once.
"""

from __future__ import annotations

import math


class Pace:
    """Buckets by account; there are no more of them than accounts."""

    def __init__(self, per_second: float, burst: float) -> None:
        """Both greater than 0."""
        self._per_second = per_second
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, account: str, now: float) -> int:
        """Spend one; 0 when there was one, else the whole seconds until there will be. `now` is a monotonic clock, in seconds."""
        tokens, at = self._buckets.get(account, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        if tokens >= 1.0:
            self._buckets[account] = (tokens - 1.0, now)
            return 0
        self._buckets[account] = (tokens, now)
        return max(1, math.ceil((1.0 - tokens) / self._per_second))
