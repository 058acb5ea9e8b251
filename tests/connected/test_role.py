"""A role on real servers: it starts whole or not at all, tells its state, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from infra.kafka.topics import migrate_topics
from infra.ops import ask_all
from infra.role import Parts, Role
from infra.settings import Settings, SettingsError
from schemas.change import Change
from schemas.topics import ALL, CHANGES, DEAD_LETTERS, Topic

pytestmark = pytest.mark.connected


class Echo(Role):
    def __init__(self, settings: Settings, **more) -> None:
        super().__init__(settings, "hydrator", **{"topics": ALL, **more})
        self.seen: asyncio.Queue = asyncio.Queue()
        self.torn_down = 0
        self.group = f"role-{uuid4().hex}"

    async def setup(self) -> None:
        self.pump([CHANGES], self.group, self.handle)

    async def teardown(self) -> None:
        self.torn_down += 1

    async def handle(self, raws) -> None:
        received, _ = await self.codec.open(CHANGES, raws)
        for each in received:
            if each.payload.id == "bad":
                raise ZeroDivisionError
            self.seen.put_nowait(each)


@pytest.fixture
async def ready(settings: Settings) -> Settings:
    await migrate_topics(settings)
    return settings


def change(number: str, tenant: str) -> Change:
    return Change(
        tenant=tenant, account="hubspot:1", object="contact", id=number, kind="updated", occurred_at=datetime.now(UTC)
    )


async def test_it_handles_is_ready_lays_poison_aside_and_drains(ready: Settings) -> None:
    role, tenant, laid = Echo(ready), uuid4().hex, []
    await role.start()
    role.publisher.watch(lambda _raw, cause: laid.append(cause))
    waiting = asyncio.ensure_future(role.wait())
    await role.publisher.publish(CHANGES, [change("1", tenant), change("bad", tenant), change("2", tenant)])
    seen = set()
    try:
        async with asyncio.timeout(30):
            # A batch with a bad message is handled again in parts: what a handler did may be done twice.
            while seen != {"1", "2"}:
                seen.add((await role.seen.get()).payload.id)
            while any((await ask_all(role.readiness())).values()):  # noqa: ASYNC110 -- readiness is asked, it does not tell
                await asyncio.sleep(0.05)
    finally:
        await role.drain(10)
    await role.drain(10)
    await waiting
    assert laid == ["HANDLER_BUG"]
    assert role.torn_down == 1


async def test_roles_of_one_process_share_their_parts_until_the_last_one_leaves(ready: Settings) -> None:
    parts = Parts(ready)
    first, second = Echo(ready, parts=parts), Echo(ready, parts=parts)
    await first.start()
    await second.start()
    await first.drain(10)
    assert await parts.ask_postgres() is None
    assert await parts.ask_redis() is None
    await second.drain(10)
    assert "engine" not in vars(parts)


async def test_it_refuses_to_start_on_a_missing_topic_and_leaves_nothing_behind(ready: Settings) -> None:
    missing: Topic = Topic("no.such.topic", Change, "x", key=str, partition_by=str, scope="record")
    role = Echo(ready, topics=[DEAD_LETTERS, missing])
    with pytest.raises(SettingsError, match="hookline migrate"):
        await role.start()
    assert "engine" not in vars(role.parts)
    await role.drain(1)


async def test_it_refuses_to_boot_incomplete_with_everything_that_is_missing(ready: Settings) -> None:
    role = Echo(ready.model_copy(update={"master_keys": None, "kafka_url": None}))
    with pytest.raises(SettingsError, match=r"(?s)KAFKA_URL is not set.*HOOKLINE_MASTER_KEYS is not set"):
        await role.start()


async def test_background_work_that_breaks_stops_the_role(ready: Settings) -> None:
    class Broken(Echo):
        async def setup(self) -> None:
            self.background(self.work, "work")

        async def work(self) -> None:
            raise LookupError("the loop broke")

    role = Broken(ready)
    await role.start()
    with pytest.raises(LookupError, match="the loop broke"):
        await role.wait()
    await role.drain(5)
