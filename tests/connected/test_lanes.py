"""Rates and hot spots on real servers: one bucket for all replicas, one count of what is hot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from console import status_hot
from console.status_section import Sight
from infra.accounts import Registry, RegistryError
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.redis import build_redis
from infra.redis_wire import Wire
from infra.settings import Settings
from ingress.allowances import Allowance, Allowances
from ingress.hot import KEPT, HotSpots, read
from ingress.lanes import TAKE, LocalBuckets, SharedBuckets
from ingress.seen import SET, SeenMarks
from schemas.change import Change

pytestmark = pytest.mark.connected


class Limits:
    def of(self, tenant: str) -> Allowance:
        return Allowance(1, 100)


class Nobody:
    def of(self, tenant: str) -> Allowance:
        raise AssertionError("Redis is there: nobody asks the local buckets")


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = build_redis(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    made = build_engine(settings)
    yield made
    await made.dispose()


@pytest.fixture
async def wires(redis: Redis) -> AsyncIterator[list[Wire]]:
    """Of four replicas."""
    made = [Wire(redis, [SET, TAKE]) for _ in range(4)]
    yield made
    for each in made:
        await each.close()


def shared(wire: Wire) -> SharedBuckets:
    return SharedBuckets(wire, Limits(), LocalBuckets(Nobody(), lambda: 1.0))


async def test_replicas_share_one_bucket_and_a_batch_of_many_tenants_is_one_round_trip(
    redis: Redis, wires: list[Wire], tenant: str
):
    """INVARIANT: the rate is a tenant's, not a replica's. If it fails, a tenant gets as many rates as there are replicas."""
    replicas = [shared(wire) for wire in wires]
    others = {f"{tenant}-{number}": 5 for number in range(20)}
    answers = await asyncio.gather(*(each.take({tenant: 60, **others}) for each in replicas))
    assert 100 <= sum(answer[tenant] for answer in answers) <= 102
    assert all(answer[other] == 5 for answer in answers for other in others)
    assert await redis.pttl(f"hl:rate:{tenant}") > 0


async def test_hot_records_and_tenants_are_named_and_what_is_kept_is_bounded(redis: Redis, tenant: str):
    now = 4_000_000_000.0 + int(tenant[1:9], 16) % 1_000_000 * 60
    spots = [HotSpots(redis, clock=lambda: now), HotSpots(redis, clock=lambda: now - 120)]
    for spot in spots:
        spot.note([change(tenant, "hot")] * 40 + [change(tenant, str(number)) for number in range(400)], {tenant: 7})
        await spot.flush()
    hot = await read(redis, now=now)
    assert hot.records[0] == (f"{tenant}/hubspot:1/contact/hot", 80)
    assert hot.tenants[0] == (tenant, 880, 14)
    assert await redis.zcard(f"hl:{{hot}}:records:{int(now // 60)}") == KEPT
    assert (await read(redis, now=now + 600)).records == []


async def test_a_tenants_own_rate_is_kept_shown_and_taken_back(engine: AsyncEngine, settings: Settings, tenant: str):
    allowances = Allowances(engine, settings)
    registry = Registry(engine, keyring(engine, settings))
    await registry.add_tenant(tenant)
    await allowances.set(tenant, 7, None)
    await allowances.refresh()
    assert allowances.of(tenant) == Allowance(7, settings.tenant_changes_burst)
    assert await allowances.one(tenant) == (allowances.of(tenant), True)
    await registry.add_tenant(tenant, "renamed")
    assert (await allowances.one(tenant))[1], "renaming a tenant leaves its rate"
    await allowances.set(tenant, None, None)
    assert not (await allowances.one(tenant))[1]
    with pytest.raises(RegistryError, match="hookline tenant add"):
        await allowances.set("nobody", 7, 7)


async def test_status_names_who_is_over_its_rate_and_what_to_do(
    redis: Redis, engine: AsyncEngine, settings: Settings, tenant: str
):
    ring = keyring(engine, settings)
    registry = Registry(engine, ring)
    await registry.add_tenant(tenant)
    spots = HotSpots(redis)
    spots.note([change(tenant, "7")] * 100_000, {tenant: 5})
    await spots.flush()
    found = await status_hot.SECTION.look(Sight(settings, engine, registry, ring))
    (ours,) = [row for row in found["tenants"] if row["tenant"] == tenant]
    assert (ours["over_rate"], ours["per_second"]) == (5, settings.tenant_changes_per_second)
    assert f"hookline tenant rate {tenant}" in ours["remedy"]
    assert f"{tenant}/hubspot:1/contact/7" in [row["record"] for row in found["records"]]
    assert len(status_hot.SECTION.show(found)) == 2


async def test_seen_marks_are_set_many_at_once_and_go_by_themselves(redis: Redis, wires: list[Wire], tenant: str):
    marks = SeenMarks(wires[0])
    wanted = {f"hl:seen:{tenant}:{number}": f"1/0/{number}" for number in range(2_500)}
    began = time.monotonic()
    await marks.set(wanted)
    assert await marks.look_up(list(wanted)) == wanted
    assert await marks.look_up([f"hl:seen:{tenant}:none", f"hl:seen:{tenant}:7"]) == {f"hl:seen:{tenant}:7": "1/0/7"}
    assert 24 * 3_600 < await redis.ttl(f"hl:seen:{tenant}:0") + time.monotonic() - began <= 25 * 3_600 + 1


async def test_marks_and_rates_go_on_when_redis_has_forgotten_their_scripts(
    redis: Redis, wires: list[Wire], tenant: str
):
    wire, name = wires[0], f"hl:seen:{tenant}:a"
    await wire.ready()
    await redis.script_flush()
    await SeenMarks(wire).set({name: "1/0/1"})
    assert await SeenMarks(wire).look_up([name]) == {name: "1/0/1"}
    await redis.script_flush()
    assert await shared(wire).take({tenant: 5, f"{tenant}-2": 6}) == {tenant: 5, f"{tenant}-2": 6}


def change(tenant: str, number: str) -> Change:
    return Change(
        tenant=tenant, account="hubspot:1", object="contact", id=number, kind="updated", occurred_at=datetime.now(UTC)
    )


def keyring(engine: AsyncEngine, settings: Settings) -> Keyring:
    assert settings.master_keys is not None
    return Keyring(engine, settings.master_keys)
