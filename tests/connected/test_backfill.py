"""A backfill on real servers, from the sandbox CRM to the bulk lane: all of it, once, within its calls, over crashes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from console.backfill.planner import plan
from console.backfill.runner import Runner
from console.backfill.store import END, Backfills
from console.reading import Selection, read_range
from console.runtime import ConsoleError
from infra.accounts import Registry
from infra.crm.client import CrmUnavailable
from infra.crm.limits import is_bulk
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.local.sandbox.server import Sandbox
from infra.unavailable import BrokerUnavailable
from schemas.topics import CHANGES_BULK

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
KINDS = ("company", "contact", "deal", "lead")


class Place:
    """An account with records, and what a backfill of it needs. Time is the test's own."""

    def __init__(self, settings, engine, registry, client, account, sandbox) -> None:
        self.settings, self.engine, self.registry, self.client = settings, engine, registry, client
        self.account, self.sandbox = account, sandbox
        self.backfills = Backfills(engine)
        self.announced = []
        self.slept = 0.0
        self.stop = asyncio.Event()

    async def publish(self, changes):
        self.announced += changes

    async def sleep(self, seconds):
        self.slept += seconds
        await asyncio.sleep(0)

    def runner(self, one, **more):
        started = datetime.now(UTC)
        given = {
            "stop": self.stop, "sleep": self.sleep, "clock": lambda: self.slept,
            "now": lambda: started + timedelta(seconds=self.slept), "publish": self.publish, **more,
        }  # fmt: skip
        return Runner(one, self.backfills, self.client, self.registry, **given)

    async def plan(self, **more):
        return await plan(self.settings, self.backfills, self.client, self.account, **more)

    def held(self):
        return {
            (kind, identity)
            for kind in KINDS
            if not (kind == "lead" and self.account.crm == "hubspot")
            for identity in self.sandbox.controls.records(self.account.id, kind)
        }

    def told(self):
        return [(change.object, change.id) for change in self.announced]


@pytest.fixture(params=["hubspot", "salesforce"])
async def place(request, settings, tenant, tmp_path):
    settings = settings.model_copy(update={"backfill_records_per_second": 1_000.0})
    async with Sandbox(tmp_path) as sandbox:
        settings = settings.model_copy(update={"sandbox_url": sandbox.base})
        engine = build_engine(settings)
        registry = Registry(engine, Keyring(engine, settings.master_keys))
        await registry.add_tenant(tenant)
        if request.param == "hubspot":
            number = int(tenant[1:], 16) % 10**9 + 10
            sandbox.controls.create_app(1, "secret-of-the-app-0001")
            token = sandbox.controls.create_portal(number, 1, size=260)["access_token"]
            account = await registry.add_account(
                tenant, "hubspot", f"hubspot:{number}", credentials={"access_token": token}
            )
        else:
            made = sandbox.controls.create_org("00D5g000004XyzA", "token-1", size=260)
            config = {"instance_url": "https://a.my.salesforce.com"}
            account = await registry.add_account(
                tenant, "salesforce", made["account"], config=config, credentials={"access_token": "token-1"}
            )
        client = connect(settings, [request.param])[request.param]
        yield Place(settings, engine, registry, client, account, sandbox)
        await client.close()
        await engine.dispose()


async def test_every_record_is_announced_once_with_the_reason(place):
    one = await place.plan()
    assert one.records >= len(place.held()) > 200
    assert one.calls > 0
    done = await place.runner(one).run()
    assert (done.state, set(done.position.values())) == ("done", {END})
    assert sorted(place.told()) == sorted(place.held())
    assert {(change.reason, change.kind, change.properties) for change in place.announced} == {
        ("backfill", "updated", ())
    }
    assert done.records_done == len(place.announced)


async def test_after_a_crash_it_goes_on_and_misses_nothing(place):
    """INVARIANT: a position lies behind acknowledged messages alone. If it fails, a crash loses records of a customer for good."""
    one = await place.plan()
    went = 0

    class Killed(BaseException):
        pass

    async def dying(changes):
        nonlocal went
        went += 1
        if went == 3:
            raise Killed
        await place.publish(changes)

    with pytest.raises(Killed):
        await place.runner(one, publish=dying).run()
    before = await place.backfills.get(one.id)
    assert before.state == "running"
    assert [each.id for each in await place.backfills.orphans(-1)] == [one.id]
    done = await place.runner(before).run()
    assert done.state == "done"
    assert set(place.told()) == place.held()
    assert len(place.told()) - len(place.held()) <= 200, "at most a page is announced again"


async def test_it_stays_within_the_calls_of_a_day_and_goes_on_the_next(place):
    one = await place.plan(calls_per_day=15)
    assert one.calls >= 2 * 15
    used = []
    done = await place.runner(one, progress=lambda now: used.append(now.calls_used), look_every=7_200.0).run()
    assert done.state == "done"
    assert max(used) <= 15
    assert place.slept > 86_400, "it went on the next day, at the earliest"
    assert sorted(place.told()) == sorted(place.held())


async def test_what_is_away_is_waited_for_and_a_cancellation_is_heard(place):
    one = await place.plan()
    page, asked = place.client.page, 0

    async def away(*given):
        nonlocal asked
        asked += 1
        if asked == 2:
            raise CrmUnavailable(place.account.crm, "503")
        if asked == 4:
            await place.registry.set_account_state(place.account.id, "disconnected", "for a moment")
        return await page(*given)

    lost = 0

    async def broker(changes):
        nonlocal lost
        lost += 1
        if lost == 1:
            raise BrokerUnavailable("gone for a moment")
        await place.publish(changes)

    async def sleep(seconds):
        await place.sleep(seconds)
        now = await place.backfills.get(one.id)
        if "TOKEN_REVOKED" in now.waiting:
            await place.backfills.cancel(now)

    place.client.page = away
    ended = await place.runner(one, publish=broker, sleep=sleep).run()
    assert ended.state == "cancelled"
    assert asked == 4
    assert place.told()
    with pytest.raises(ConsoleError):
        await place.backfills.get(one.id, "another-tenant")


async def test_it_arrives_sealed_on_the_bulk_lane(place, tenant):
    codec = Codec(Keyring(place.engine, place.settings.master_keys), "hookline/test")
    publisher = Publisher(place.settings, codec)
    await publisher.start()
    try:
        one = await place.plan(objects=["company"])
        done = await place.runner(one, publish=lambda changes: publisher.publish(CHANGES_BULK, changes)).run()
    finally:
        await publisher.stop()
    assert done.records_done == len(place.sandbox.controls.records(place.account.id, "company"))
    mine = Selection(tenant=tenant)
    found = [each.payload async for each in read_range(place.settings, codec, CHANGES_BULK, selection=mine)]
    assert {change.id for change in found} == set(place.sandbox.controls.records(place.account.id, "company"))


async def test_its_calls_are_bulk_work_and_leave_the_share_of_others(place):
    """INVARIANT: a backfill never eats the day of the customer's own integrations. If it fails, theirs stop working."""
    one = await place.plan(calls_per_day=1_000)
    limits = place.sandbox.controls.set_limits
    limits(place.account.id, daily=40, used_today=0)
    lanes, waits = [], []
    page = place.client.page

    async def seen(*given):
        lanes.append(len(lanes))
        if len(lanes) == 2:
            # Others use the app meanwhile: half of the day is gone, which is where bulk work ends by default.
            limits(place.account.id, used_today=20)
        assert is_bulk()
        return await page(*given)

    async def sleep(seconds):
        await place.sleep(seconds)
        now = await place.backfills.get(one.id)
        if now.waiting:
            waits.append(now.waiting)
            await place.backfills.cancel(now)

    place.client.page = seen
    ended = await place.runner(one, sleep=sleep).run()
    assert ended.state == "cancelled"
    assert (waits[0], len(lanes)) == ("QUOTA_SPENT", 3), "the vendor's own count is heard with the second answer"
    assert not is_bulk(), "and nobody else's calls become bulk work"
    # The third was not made at all, and live work goes on.
    assert limits(place.account.id)["used_today"] == 21
    assert await place.client.count(place.account, "company")
