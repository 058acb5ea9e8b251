"""Token buckets: what a tenant may have on the live lane, here and with Redis away."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.kafka.giving_way import GivingWay
from infra.kafka.raw import RawMessage
from infra.redis_wire import RedisAway
from ingress.allowances import Allowance
from ingress.lanes import MOST_LOCAL, LocalBuckets, SharedBuckets, Slower


class Limits:
    def __init__(self, per_second=10, burst=50, **own) -> None:
        self.default, self.own = Allowance(per_second, burst), own

    def of(self, tenant):
        return self.own.get(tenant, self.default)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class AwayWire:
    """A connection whose server does not answer until `back`; then it grants what is wanted."""

    back = False

    async def run(self, *commands):
        if not self.back:
            raise RedisAway("Redis does not answer")
        return [command[-1] for command in commands]


def raw(key):
    return RawMessage("crm.deliveries", 0, 0, key.encode(), b"")


def buckets(share=1.0, **limits):
    clock = Clock()
    return LocalBuckets(Limits(**limits), lambda: share, clock=clock), clock


async def test_a_burst_passes_then_the_rate_and_a_tenant_under_its_rate_is_back():
    bucket, clock = buckets()
    assert await bucket.take({"a": 50}) == {"a": 50}
    clock.now += 2
    assert await bucket.take({"a": 20}) == {"a": 20}
    assert await bucket.take({"a": 1}) == {"a": 0}
    clock.now += 60
    assert await bucket.take({"a": 8}) == {"a": 8}


async def test_who_floods_is_on_the_bulk_lane_altogether_until_it_was_under_its_rate_for_a_while():
    """INVARIANT: a flood takes one burst of the live lane, not its rate all along. If it fails, others pay for changes that are
    live by chance."""
    bucket, clock = buckets()
    assert await bucket.take({"a": 1_000}) == {"a": 50}
    for _ in range(40):
        clock.now += 0.5
        assert await bucket.take({"a": 1_000}) == {"a": 0}
    clock.now += 4.9
    assert await bucket.take({"a": 1}) == {"a": 0}, "a burst is owed at most, which five seconds of the rate pay"
    clock.now += 0.3
    assert await bucket.take({"a": 1}) == {"a": 1}


async def test_deliveries_of_who_is_over_its_rate_rest_while_others_have_live_work():
    rested: list[str] = []

    class Way(GivingWay):
        @asynccontextmanager
        async def turn(self):
            yield
            rested.append("rests")

    class Rates:
        async def take(self, wanted):
            return {tenant: min(number, 10) for tenant, number in wanted.items()}

    way = Way()
    rates = Slower(Rates(), way)
    handled: list[list[bytes]] = []

    async def handle(raws):
        handled.append([raw.key for raw in raws])
        await rates.take(Counter(raw.key.partition(b"/")[0].decode() for raw in raws))

    slowed = rates.slowed(handle)
    flood, quiet = [raw(f"noisy/{number}") for number in range(20)], [raw("quiet/1")]
    await slowed(flood)
    assert not rested, "nobody knew yet"
    await slowed(flood)
    assert rested == ["rests"]
    await slowed(quiet)
    await slowed([*flood, *quiet])
    assert rested == ["rests"], "whoever shares a call with them waits for nothing"
    await slowed(flood[:5])
    await slowed(flood[:5])
    assert rested == ["rests", "rests"], "and it rests no more once it is under its rate"
    assert sum(map(len, handled)) == 20 + 20 + 1 + 21 + 5 + 5


async def test_one_tenants_flood_takes_nothing_from_another():
    bucket, _ = buckets()
    assert await bucket.take({"a": 100_000, "b": 3}) == {"a": 50, "b": 3}
    assert await bucket.take({"a": 1, "b": 3}) == {"a": 0, "b": 3}


async def test_a_tenants_own_rate_counts_for_it_alone():
    clock = Clock()
    bucket = LocalBuckets(Limits(b=Allowance(1, 5)), lambda: 1.0, clock=clock)
    assert await bucket.take({"a": 20, "b": 20}) == {"a": 20, "b": 5}


async def test_who_is_over_its_rate_waits_for_a_turn_and_nobody_else_does():
    turns: list[str] = []

    class Way(GivingWay):
        @asynccontextmanager
        async def turn(self):
            turns.append("began")
            yield
            turns.append("rested")

    class Rates:
        async def take(self, wanted):
            return {tenant: 0 if tenant == "noisy" else number for tenant, number in wanted.items()}

    handled: list[list[bytes | None]] = []

    async def handle(raws):
        handled.append([each.key for each in raws])

    rates = Slower(Rates(), Way())
    slowed = rates.slowed(handle)
    await slowed([raw("noisy/1")])
    assert not turns, "nobody knows yet"
    await rates.take({"noisy": 1, "quiet": 1})
    await slowed([raw("quiet/1")])
    await slowed([raw("noisy/1"), raw("quiet/1")])
    assert not turns, "who is within its rate need not wait for who goes along"
    await slowed([raw("noisy/1")])
    assert turns == ["began", "rested"]
    assert len(handled) == 4


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 60)), max_size=30),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
)
async def test_all_replicas_together_never_grant_more_than_the_rate(asks, weights):
    """INVARIANT: with Redis away the shares of all replicas add up to one bucket at most. If it fails, losing Redis lifts limits."""
    clock = Clock()
    shares = [weight / sum(weights) for weight in weights]
    replicas = [LocalBuckets(Limits(), lambda share=share: share, clock=clock) for share in shares]
    granted, began = 0, clock.now
    for place, (seconds, number) in enumerate(asks):
        clock.now += seconds
        granted += (await replicas[place % len(replicas)].take({"a": number}))["a"]
        assert granted <= 50 + 10 * (clock.now - began) + 1e-6


async def test_redis_away_means_a_share_and_redis_back_means_the_shared_bucket():
    wire = AwayWire()
    local, _ = buckets(share=0.5)
    shared = SharedBuckets(wire, Limits(), local)
    assert await shared.take({"a": 80}) == {"a": 25}
    wire.back = True
    assert await shared.take({"a": 80}) == {"a": 80}


async def test_memory_is_bounded_however_many_tenants_there_are():
    bucket, _ = buckets()
    await bucket.take({f"t{number}": 1 for number in range(MOST_LOCAL + 500)})
    assert len(bucket._buckets) == MOST_LOCAL
