"""Which lane a tenant's changes take: a token bucket per tenant, the same for all replicas.

Law: decides a lane and nothing else: no change is refused or held up by it. What is over the rate is owed, up to another
burst: who floods is on the bulk lane altogether, until it was under its rate for as long as that takes to fill. Which changes
of a flood go first would be chance, and all others would pay for it. Buckets lie in Redis, and what is lost with Redis is a
bucket that is full again. While Redis is away each replica keeps buckets of its own, with its share of the rate.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from infra.kafka.giving_way import GivingWay
from infra.kafka.raw import Raw
from infra.kafka.schedule import Owner, owner_of
from infra.redis_wire import RedisAway, Script, Wire
from infra.telemetry import log
from ingress.allowances import Allowance
from ingress.translator import Rates

MOST_LOCAL = 10_000
"""Tenants with a bucket in memory; the one that was asked longest ago goes first, and begins full again."""

# KEYS 1 bucket   ARGV 1 rate a second  2 burst  3 changes that want the live lane   Returns how many get it.
TAKE = Script(b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local at = tonumber(bucket[2] or now)
local tokens = math.min(burst, tonumber(bucket[1] or burst) + math.max(0, now - at) * rate / 1000)
local wanted = tonumber(ARGV[3])
local granted = math.max(0, math.min(wanted, math.floor(tokens)))
redis.call('HSET', KEYS[1], 'tokens', math.max(-burst, tokens - wanted), 'at', math.max(now, at))
redis.call('PEXPIRE', KEYS[1], math.ceil(2 * burst * 1000 / rate) + 1000)
return granted
""")


class Limits(Protocol):
    """`ingress.allowances.Allowances`."""

    def of(self, tenant: str) -> Allowance:
        """Never blocks."""
        ...


class LocalBuckets:
    """Buckets of this process alone, with `share` of each rate and burst."""

    def __init__(
        self, limits: Limits, share: Callable[[], float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`share()`: from 0 to 1, this replica's; over all replicas no more than 1. `clock()` in seconds."""
        self._limits = limits
        self._share = share
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def take(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """See `ingress.translator.Rates`."""
        now, share = self._clock(), self._share()
        granted = {}
        for tenant, number in wanted.items():
            limit = self._limits.of(tenant)
            burst = limit.burst * share
            tokens, at = self._buckets.pop(tenant, (burst, now))
            tokens = min(burst, tokens + (now - at) * limit.per_second * share)
            granted[tenant] = max(0, min(number, int(tokens)))
            self._buckets[tenant] = max(-burst, tokens - number), now
        while len(self._buckets) > MOST_LOCAL:
            self._buckets.popitem(last=False)
        return granted


class SharedBuckets:
    """Buckets in Redis; `local` decides while it is away."""

    def __init__(self, wire: Wire, limits: Limits, local: LocalBuckets) -> None:
        """`wire` knows the script TAKE; it stays its owner's."""
        self._wire = wire
        self._limits = limits
        self._local = local
        self._away = False
        self._log = log("translator")

    async def take(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """See `ingress.translator.Rates`."""
        if not wanted:
            return {}
        asked = []
        for tenant, number in wanted.items():
            limit = self._limits.of(tenant)
            asked.append(("EVALSHA", TAKE.digest, 1, f"hl:rate:{tenant}", limit.per_second, limit.burst, number))
        try:
            granted = [int(answer) for answer in await self._wire.run(*asked)]
        except RedisAway as away:
            if not self._away:
                self._log.warning("rates_are_local", error=str(away))
            self._away = True
            return await self._local.take(wanted)
        self._away = False
        return dict(zip(wanted, granted, strict=True))


class Slower:
    """Has deliveries of who is over its rate give way to those of others: a flood is as much work here as everywhere."""

    def __init__(self, rates: Rates, way: GivingWay) -> None:
        """`way`: what they give way by; somebody else runs it."""
        self._rates = rates
        self._way = way
        self._over: set[Owner] = set()

    async def take(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """See `ingress.translator.Rates`; remembers who is over."""
        granted = await self._rates.take(wanted)
        for tenant, number in wanted.items():
            if granted.get(tenant, 0) < number:
                if len(self._over) < MOST_LOCAL:
                    self._over.add(tenant.encode())
            else:
                self._over.discard(tenant.encode())
                self._way.saw_live()
        return granted

    def slowed(self, handle: Callable[[Sequence[Raw]], Awaitable[None]]) -> Callable[[Sequence[Raw]], Awaitable[None]]:
        """The same handler, which rests after deliveries of nobody but who was over its rate when it was last asked."""

        async def handler(raws: Sequence[Raw]) -> None:
            if not all(owner_of(raw) in self._over for raw in raws):
                await handle(raws)
                return
            async with self._way.turn():
                await handle(raws)

        return handler
