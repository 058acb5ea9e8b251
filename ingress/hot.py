"""Which records and tenants change most: the heavy hitters, in memory that does not grow.

Law: never in a delivery's way: noting is memory alone, and what cannot be written to Redis is dropped, for the next minute
brings it again. Counts are the Space-Saving algorithm's (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent
and Top-k Elements in Data Streams", 2005): never too low, and too high by at most the stream's length / capacity. What is kept
are ids, no content.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from infra.telemetry import log
from schemas.change import Change

CAPACITY = 512
WRITE_SECONDS = 5.0
WINDOW_MINUTES = 5
"""What `read` looks back on."""
KEPT = 100
"""Of each kind and minute, in Redis."""

K = TypeVar("K")


class HeavyHitters(Generic[K]):
    """Space-Saving: the `capacity` most frequent keys of a stream, constant time a note."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[K, int] = {}
        # Count → keys that have it, oldest first: the next to be replaced is the first of the lowest.
        self._keys: dict[int, dict[K, None]] = {}
        self._lowest = 1

    def note(self, key: K, times: int = 1) -> None:
        """One more of `key`; a new one takes the place, and the count, of the least frequent when all are taken."""
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= self._capacity:
                count = self._rise()
                gone = next(iter(self._keys[count]))
                self._leave(gone, count)
                del self._counts[gone]
            else:
                count = 0
                self._lowest = min(self._lowest, times)
        else:
            self._leave(key, count)
        count += times
        self._counts[key] = count
        self._keys.setdefault(count, {})[key] = None

    def take(self, most: int) -> list[tuple[K, int]]:
        """The most frequent with their counts, most frequent first; begins anew."""
        found = sorted(self._counts.items(), key=lambda each: each[1], reverse=True)[:most]
        self._counts, self._keys, self._lowest = {}, {}, 1
        return found

    def __len__(self) -> int:
        return len(self._counts)

    def _leave(self, key: K, count: int) -> None:
        keys = self._keys[count]
        del keys[key]
        if not keys:
            del self._keys[count]

    def _rise(self) -> int:
        if self._lowest not in self._keys:
            self._lowest = min(self._keys)
        return self._lowest


@dataclass(frozen=True, slots=True)
class Hot:
    """What `hookline status` shows; counts are of the last WINDOW_MINUTES minutes, the running one included."""

    records: Sequence[tuple[str, int]]
    """`tenant/account/object/id` and its changes."""
    tenants: Sequence[tuple[str, int, int]]
    """Tenant, its changes, and how many of them were over its rate."""


class HotSpots:
    """Counts on behalf of one translator; all replicas' counts add up in Redis."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._clock = clock
        self._records: HeavyHitters[str] = HeavyHitters()
        self._tenants: HeavyHitters[str] = HeavyHitters()
        self._over: HeavyHitters[str] = HeavyHitters()
        self._log = log("translator")

    def note(self, changes: Sequence[Change], over: dict[str, int]) -> None:
        """Changes that were published, and how many of each tenant's were over its rate. Never blocks."""
        for change in changes:
            self._records.note(str(change.ref))
        for tenant, number in Counter(change.tenant for change in changes).items():
            self._tenants.note(tenant, number)
        for tenant, number in over.items():
            self._over.note(tenant, number)

    async def run(self) -> None:
        """Write what was noted every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted; it is dropped where Redis is away."""
        minute = int(self._clock() // 60)
        taken = {
            "records": self._records.take(KEPT),
            "tenants": self._tenants.take(KEPT),
            "over": self._over.take(KEPT),
        }
        if not any(taken.values()):
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for kind, found in taken.items():
                    key = _key(kind, minute)
                    for name, count in found:
                        pipeline.zincrby(key, count, name)
                    if found:
                        pipeline.zremrangebyrank(key, 0, -KEPT - 1)
                        pipeline.expire(key, (WINDOW_MINUTES + 1) * 60)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            self._log.warning("hot_spots_not_written", error=type(error).__name__)


async def read(redis: Redis, *, now: float, most: int = 5) -> Hot:
    """The hottest of the last minutes; raises RedisError."""
    last = int(now // 60)
    minutes = range(last - WINDOW_MINUTES + 1, last + 1)
    async with redis.pipeline(transaction=False) as pipeline:
        for kind in ("records", "tenants", "over"):
            pipeline.zunion([_key(kind, minute) for minute in minutes], withscores=True)
        records, tenants, over = (
            {_text(name): int(count) for name, count in answer} for answer in await pipeline.execute()
        )

    def top(counts: dict[str, int]) -> list[tuple[str, int]]:
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most]

    return Hot(top(records), [(name, count, over.get(name, 0)) for name, count in top(tenants)])


def _key(kind: str, minute: int) -> str:
    # The braces keep what one command unites on one node of a Redis cluster.
    return f"hl:{{hot}}:{kind}:{minute}"


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
