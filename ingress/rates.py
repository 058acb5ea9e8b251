"""How often each endpoint may deliver: a token bucket per endpoint, in memory.

Law: only genuine requests spend tokens, or a stranger who knows an address could spend its owner's. Never blocks and asks
nobody: each process has its share of the rate, for a round trip to Redis would cost more than the request itself (see
docs/ingress.md). The number of buckets is bounded by the number of endpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.accounts import Endpoint

MAX_WAIT_SECONDS = 3_600


@dataclass(slots=True)
class _Bucket:
    endpoint: Endpoint
    """As it was when the bucket was made: another object means that its configuration may have changed."""
    rate: float
    burst: float
    tokens: float
    at: float


class Rates:
    """One per process."""

    def __init__(self, per_second: float, burst: float, *, processes: int = 1) -> None:
        """`per_second` 0: no limit, unless an endpoint has its own. Both are for all `processes` together."""
        self._rate = per_second
        self._burst = burst
        self._processes = processes
        self._buckets: dict[str, _Bucket] = {}

    def take(self, endpoint: Endpoint, now: float) -> int:
        """Spend one token; 0 when there was one, else the whole seconds until there will be. `now` is a monotonic clock."""
        bucket = self._buckets.get(endpoint.id)
        if bucket is None or bucket.endpoint is not endpoint:
            bucket = self._renewed(endpoint, bucket, now)
        if bucket.rate == math.inf:
            return 0
        tokens = min(bucket.burst, bucket.tokens + (now - bucket.at) * bucket.rate)
        bucket.at = now
        if tokens >= 1.0:
            bucket.tokens = tokens - 1.0
            return 0
        bucket.tokens = tokens
        return min(MAX_WAIT_SECONDS, max(1, math.ceil((1.0 - tokens) / bucket.rate)))

    def _renewed(self, endpoint: Endpoint, before: _Bucket | None, now: float) -> _Bucket:
        rate = _number(endpoint.config.get("rate_per_second"), self._rate) / self._processes or math.inf
        burst = max(1.0, _number(endpoint.config.get("rate_burst"), self._burst) / self._processes)
        # What was spent stays spent: a change elsewhere in the configuration is no gift of a full bucket.
        tokens = burst if before is None else min(burst, before.tokens)
        at = now if before is None else before.at
        made = self._buckets[endpoint.id] = _Bucket(endpoint, rate, burst, tokens, at)
        return made


def _number(given: Any, otherwise: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return otherwise
    try:
        found = float(given)
    except ValueError:
        return otherwise
    return found if math.isfinite(found) and found >= 0 else otherwise
