"""An account's limits, shared by all processes that call it, against a sandbox that enforces and counts by itself."""

import asyncio
import contextlib
import secrets
import time

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from console.accounts_budget import budget
from infra.accounts import Account
from infra.crm.calls import Calls
from infra.crm.client import AccountUnavailable, Read, Written
from infra.crm.hubspot import HubSpotClient
from infra.crm.hubspot_portal import Portals
from infra.crm.limits import Policy, Said, bulk_work
from infra.crm.limits_gate import KEY, SharedGate, standing
from infra.local.sandbox.server import Sandbox
from infra.settings import Settings
from tests.connected.crm_suite import settings_for

pytestmark = pytest.mark.connected

NOWHERE = "redis://127.0.0.1:9/0"
WINDOW_MS = 1_000


@pytest.fixture
async def redis(redis_url):
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def account(redis):
    """An account of the test's own, so that the shared Redis knows nothing of it."""
    name = f"hubspot:{secrets.randbelow(10**9)}"
    yield name
    await redis.delete(*(KEY + name + end for end in ("", ":turns", ":bulk", ":line", ":fresh")))


class Gates:
    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[SharedGate] = []

    def __call__(self, url: str = "", **policy) -> SharedGate:
        made = SharedGate("hubspot", Policy(**{"concurrency": 50, **policy}), Redis.from_url(url or self.url))
        self.made.append(made)
        return made


@pytest.fixture
async def gates(redis_url):
    made = Gates(redis_url)
    yield made
    await asyncio.gather(*(gate.close() for gate in made.made))


async def test_two_processes_share_one_limit_and_neither_is_left_out(gates, account):
    """INVARIANT: no window holds more calls than the limit, whoever makes them. If it fails, the vendor refuses."""
    first, second = gates(limit=20, window_seconds=0.5), gates(limit=20, window_seconds=0.5)
    at: list[float] = []

    async def call(gate: SharedGate) -> float:
        turn = await gate.enter(account)
        at.append(time.monotonic())
        gate.leave(account, turn)
        return at[-1]

    began = time.monotonic()
    ends = await asyncio.gather(*(call(gate) for gate in (first, second) for _ in range(40)))
    at.sort()
    for place in range(len(at) - 20):
        assert at[place + 20] - at[place] > 0.45, "the 21st comes a window later (clocks of two processes apart)"
    middle = sorted(ends)[len(ends) // 2]
    assert sum(end <= middle for end in ends[:40]) >= 10, "half-way both had theirs"
    assert sum(end <= middle for end in ends[40:]) >= 10
    assert time.monotonic() - began > 1.0


async def test_headers_set_the_limit_and_others_use_of_it_is_heeded(gates, redis, account):
    gate = gates()
    turn = await gate.enter(account)
    gate.leave(account, turn, Said(limit=10, left=3, window_seconds=30.0, day_limit=1_000, day_used=40))
    await asyncio.gather(*gate._telling)
    found = await standing(redis, account)
    assert (found.limit, found.window_seconds, found.day_used, found.day_limit) == (10, 30.0, 40, 1_000)
    # Of ten, the vendor counts seven, six of them others': two may go at once, paced, and the next waits.
    await gate.enter(account)
    await gate.enter(account)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gate.enter(account), 0.2)


async def test_the_day_leaves_a_share_to_others_and_bulk_work_stops_first(gates, redis, account):
    gate = gates(free_share=0.2, bulk_free_share=0.5)
    gate.leave(account, await gate.enter(account), Said(day_limit=100, day_used=50))
    await asyncio.gather(*gate._telling)
    with bulk_work(), pytest.raises(AccountUnavailable, match="bulk") as caught:
        await gate.enter(account)
    assert caught.value.cause == "QUOTA_SPENT"
    assert caught.value.retry_after
    for _ in range(30):
        gate.leave(account, await gate.enter(account))
    with pytest.raises(AccountUnavailable, match="20% of what the CRM allows stay free"):
        await gate.enter(account)
    found = await standing(redis, account)
    assert (found.calls_today, found.day_used, found.held_back_today) == (31, 80, 2)


async def test_our_own_calls_a_day_are_a_limit_too(gates, account):
    gate = gates(day_calls=3)
    for _ in range(3):
        gate.leave(account, await gate.enter(account))
    with pytest.raises(AccountUnavailable):
        await gate.enter(account)


async def test_bulk_work_lets_live_work_go_first(gates, account):
    gate = gates(limit=4, window_seconds=0.4, concurrency=20)
    order: list[str] = []

    async def call(kind: str) -> None:
        turn = await gate.enter(account)
        order.append(kind)
        gate.leave(account, turn, bulk=kind == "bulk")

    async def all_bulk() -> None:
        with bulk_work():
            await asyncio.gather(*(call("bulk") for _ in range(6)))

    bulk = asyncio.create_task(all_bulk())
    await asyncio.sleep(0.05)
    await asyncio.gather(*(call("live") for _ in range(4)))
    await bulk
    assert order.index("live") < 4
    assert order[-1] == "bulk"


async def test_what_live_work_takes_of_its_part_is_not_kept_free_again(gates, redis, account):
    """INVARIANT: bulk and live work together use all of the window. If it fails, a backfill takes longer than it has to."""
    gate = gates(limit=10, window_seconds=30.0)

    async def taken(bulk: bool) -> int:
        calls = 0
        with bulk_work(bulk), contextlib.suppress(TimeoutError):
            while True:
                # The bucket is full each time: what is asked is what the window lets in.
                await redis.hset(KEY + account, mapping={"lb": 2.5, "la": 0})
                turn = await asyncio.wait_for(gate.enter(account), 0.1)
                gate.leave(account, turn, bulk=bulk)
                calls += 1
        return calls

    gate.leave(account, await gate.enter(account))
    assert await taken(bulk=True) == 8, "eight tenths, live work being about"
    assert await taken(bulk=False) == 1, "and live work has what is left"


async def test_a_turn_that_is_never_given_back_comes_back(gates, account):
    gate = gates(limit=1, window_seconds=0.1, lease_seconds=0.2)
    await gate.enter(account)
    began = time.monotonic()
    await gate.enter(account)
    assert time.monotonic() - began < 5


async def test_without_redis_a_local_share_holds_and_with_it_the_shared_limit(gates, account):
    alone = gates(NOWHERE, limit=40, window_seconds=30.0, share_alone=0.25)
    for _ in range(2):
        alone.leave(account, await alone.enter(account))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alone.enter(account), 0.3)


async def test_who_waits_too_long_is_told_that_the_account_is_busy(gates, account):
    gate = gates(limit=1, window_seconds=30.0, wait_seconds=0.2)
    await gate.enter(account)
    with pytest.raises(AccountUnavailable, match="own limit"):
        await gate.enter(account)


async def test_a_closed_gate_lets_nobody_hang(gates, account):
    gate = gates(limit=1, window_seconds=30.0)
    await gate.enter(account)
    waits = asyncio.create_task(gate.enter(account))
    await asyncio.sleep(0.05)
    await gate.close()
    with pytest.raises(asyncio.CancelledError):
        await waits


async def test_small_asks_become_full_batches_and_none_is_refused(tmp_path, redis_url, redis):
    """The selection of `make bench-crm-limits`: two processes, one portal, 110 calls a (short) window."""
    app, number = 14947547, secrets.randbelow(10**9) + 1
    async with Sandbox(tmp_path) as sandbox:
        sandbox.controls.create_app(app, "app-secret", "http://127.0.0.1:9/hub")
        sandbox.controls.set_manners(f"app:{app}", paused=True)
        made = sandbox.controls.create_portal(number, app, "token-1", size=0)
        account = Account(
            id=made["account"],
            tenant="acme",
            crm="hubspot",
            name="",
            config={"app_id": str(app)},
            credentials={"access_token": "token-1"},
        )
        ids = [
            sandbox.controls.create_record(account.id, "company", {"name": f"Company {each}"})["id"]
            for each in range(400)
        ]
        gates = [SharedGate("hubspot", Policy(4), Redis.from_url(redis_url)) for _ in range(2)]
        settings = settings_for(sandbox)
        clients = [
            HubSpotClient(settings, portals=Portals(settings, calls=Calls("hubspot", concurrency=4, gate=gate)))
            for gate in gates
        ]
        try:
            await clients[0].provision(account)
            sandbox.controls.set_limits(account.id, per_ten_seconds=22, window_ms=WINDOW_MS)
            # The first answer says how much there is; and from here on nothing is learnt any more.
            await clients[0].read(account, "company", ids[:1])
            sandbox.controls.tally(account.id, restart=True)

            async def journey(client: HubSpotClient, some: list[str]) -> None:
                found = await client.read(account, "company", some)
                assert all(isinstance(one, Read) for one in found.values())
                written = await client.write(account, "company", {one: {"score": "7"} for one in some})
                assert set(written.values()) == {Written()}

            asks = [ids[start : start + 10] for start in range(0, 400, 10)]
            await asyncio.gather(*(journey(clients[place % 2], some) for place, some in enumerate(asks)))
            told = sandbox.controls.tally(account.id)
        finally:
            await asyncio.gather(*(client.close() for client in clients))
            await redis.delete(*(KEY + account.id + end for end in ("", ":turns", ":bulk", ":line", ":fresh")))
    assert told["refused"] == []
    batch = {name: count for name, count in told["calls"].items() if "batch" in name}
    assert batch
    for name, calls in batch.items():
        # Two processes do not wait for one another's rows: each may have one batch that is not full, at the start and the end.
        assert calls <= 400 / 100 + 6, (name, calls, told["rows"][name])


async def test_an_operator_sees_what_was_used(gates, redis_url, account):
    settings = Settings(_env_file=None, redis_url=SecretStr(redis_url))
    assert await budget(settings, account) == ["0 by us today, 0 times held back (429, or the day's budget)"]
    gate = gates()
    gate.leave(account, await gate.enter(account), Said(110, 109, 10.0, 1_000, 40))
    await asyncio.gather(*gate._telling)
    assert await budget(settings, account) == [
        "1 by us today, 0 times held back (429, or the day's budget)",
        "40 of 1000 a day are used by everybody; we stop at 80%, bulk work at 50%",
        "1 of 110 in 10 s are taken now",
    ]
    assert await budget(Settings(_env_file=None, redis_url=SecretStr(NOWHERE)), account) == [
        "unknown: Redis does not answer"
    ]
    assert await budget(Settings(_env_file=None), account) == ["unknown: no Redis is configured"]
