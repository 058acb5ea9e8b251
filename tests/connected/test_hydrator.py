# ruff: noqa: A002 - `id` and `object` are the schemas' words
"""The hydrator's role on real servers, reading the sandbox CRM through the vendors' own libraries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from infra.accounts import Registry
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.pump import Pump
from infra.local.sandbox.server import Sandbox
from infra.role import Parts
from infra.settings import Settings
from processors.app import build_hydrator
from schemas.change import Change
from schemas.dead_letter import Cause, DeadLetter
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import CHANGES, DEAD_LETTERS, RECORDS, Topic

pytestmark = pytest.mark.connected

PORTAL = "hubspot:33"


class Listener:
    """Collects what appears on a topic for one tenant."""

    def __init__(self, settings: Settings, codec: Codec, topic: Topic[Any], tenant: str) -> None:
        self._codec = codec
        self._topic = topic
        self._tenant = tenant
        self._news = asyncio.Condition()
        self.found: list[Any] = []
        self.traces: list[str] = []
        self.pump = Pump(
            settings,
            topics=[topic.name],
            group=f"listener.{tenant}.{topic.name}",
            handler=self._take,
            on_poison=self._poison,
        )

    async def _take(self, raws: Any) -> None:
        ours = [raw for raw in raws if dict(raw.headers).get("hl_tenant") == self._tenant.encode()]
        received, refused = await self._codec.open(self._topic, ours)
        assert not refused
        async with self._news:
            self.found.extend(each.payload for each in received)
            self.traces.extend(each.envelope.traceparent for each in received)
            self._news.notify_all()

    async def _poison(self, raw: Any, error: Exception) -> None:
        raise error

    async def until(self, holds: Callable[[list[Any]], bool], seconds: float = 20.0) -> list[Any]:
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: holds(self.found))
        return self.found


class Stage:
    """A running hydrator, a sandbox portal, and someone who publishes changes."""

    def __init__(self, settings: Settings, tenant: str, sandbox: Sandbox) -> None:
        self.settings = settings
        self.tenant = tenant
        self.controls = sandbox.controls
        self.parts = Parts(settings)
        self.codec = Codec(self.parts.keyring, "hookline/test")
        self.publisher = Publisher(settings, self.codec, client_id="test")
        self.records = Listener(settings, self.codec, RECORDS, tenant)
        self.letters = Listener(settings, self.codec, DEAD_LETTERS, tenant)
        self.hydrator = build_hydrator(settings, self.parts)

    async def change(self, id: str, object: str = "contact", **more: Any) -> None:
        given = {"kind": "updated", "occurred_at": datetime.now(UTC), "properties": ("jobtitle",), **more}
        change = Change.model_validate({"tenant": self.tenant, "account": PORTAL, "object": object, "id": id, **given})
        await self.publisher.publish(CHANGES, [change], traceparents=[given.get("trace", "")])

    async def query(self, sql: str) -> list[Any]:
        async with self.parts.engine.connect() as connection:
            return list((await connection.execute(text(sql))).all())


@pytest.fixture
async def stage(settings: Settings, tenant: str, tmp_path: Path) -> AsyncIterator[Stage]:
    sandbox = Sandbox(tmp_path)
    url = await sandbox.start()
    controls = sandbox.controls
    controls.create_app(
        "111",
        "secret",
        "http://127.0.0.1:9/nobody",
        signature_version="v3",
        form="mixed",
        public_url="https://hooks.test",
    )
    controls.set_manners("app:111", paused=True)
    controls.create_portal("33", "111", "token", size=6)
    made = Stage(settings.model_copy(update={"sandbox_url": url, "coalesce_window_seconds": 0.0}), tenant, sandbox)
    registry: Registry = made.parts.registry
    await made.parts.start()
    await registry.add_tenant(tenant)
    await registry.add_account(tenant, "hubspot", PORTAL, "Portal", {"app_id": "111"}, {"access_token": "token"})
    await made.parts.directory.refresh()
    await made.publisher.start()
    await asyncio.gather(made.records.pump.start(), made.letters.pump.start(), made.hydrator.start())
    yield made
    await made.hydrator.drain(5)
    await asyncio.gather(made.records.pump.drain(5), made.letters.pump.drain(5))
    await made.publisher.stop()
    await made.parts.stop()
    await sandbox.stop()


async def test_an_edit_in_the_crm_becomes_a_sealed_snapshot_with_its_time(stage: Stage) -> None:
    (contact, *_) = stage.controls.records(PORTAL, "contact")
    stage.controls.save(PORTAL, "contact", contact, {"jobtitle": "Chief Sandbox Officer"})
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await stage.change(contact, trace=trace)
    (found,) = await stage.records.until(lambda found: len(found) >= 1)
    assert isinstance(found, RecordSnapshot)
    assert found.value("job_title") == "Chief Sandbox Officer"
    assert not any(name.startswith("hookline_") for name in found.fields)
    assert stage.records.traces[0].split("-")[1] == trace.split("-")[1], "one trace from end to end"
    stage.controls.save(PORTAL, "contact", contact, {"jobtitle": "Chief of Nothing"})
    await stage.change(contact)
    await stage.change(contact)
    (_, second) = await stage.records.until(lambda found: len(found) >= 2)
    assert second.changed == ("jobtitle",)
    assert second.modified_at > found.modified_at
    assert second.read_at > found.read_at


async def test_what_changes_nothing_is_not_published_again(stage: Stage) -> None:
    one, two, *_ = stage.controls.records(PORTAL, "contact")
    await stage.change(one)
    await stage.records.until(lambda found: len(found) == 1)
    await stage.change(one)
    await stage.change(two)
    found = await stage.records.until(lambda found: any(each.id == two for each in found))
    await stage.change(one, reason="replay")
    found = await stage.records.until(lambda found: found[-1].reason == "replay")
    assert [each.id for each in found] == [one, two, one]


async def test_a_note_arrives_with_its_deal(stage: Stage) -> None:
    (deal, *_) = stage.controls.records(PORTAL, "deal")
    note = stage.controls.note(PORTAL, deal, "They need single sign-on by March.")
    await stage.change(note["id"], "note", kind="created", properties=())
    (found,) = await stage.records.until(lambda found: len(found) >= 1)
    assert (found.object, found.id) == ("deal", deal)
    assert "single sign-on" in " ".join(each.text for each in found.notes)


async def test_a_record_that_is_not_there_is_a_dead_letter_and_gone(stage: Stage) -> None:
    await stage.change("999999999")
    (letter,) = await stage.letters.until(lambda found: len(found) >= 1)
    assert isinstance(letter, DeadLetter)
    assert (letter.cause, letter.record_id, letter.stage) == (Cause.RECORD_GONE, "999999999", "hydrator")
    (found,) = await stage.records.until(lambda found: len(found) >= 1)
    assert found.deleted


async def test_a_revoked_token_sets_aside_and_nothing_is_lost_when_it_is_back(stage: Stage) -> None:
    (contact, *_) = stage.controls.records(PORTAL, "contact")
    stage.controls.revoke_token("token")
    async with stage.parts.engine.begin() as connection:
        await connection.execute(text("UPDATE accounts SET changed_at = now() - interval '1 minute'"))
    await stage.change(contact)
    async with asyncio.timeout(20):
        while not await stage.query("SELECT 1 FROM set_aside"):  # noqa: ASYNC110 - a table sets no event
            await asyncio.sleep(0.05)
    ((cause, state),) = await stage.query(
        "SELECT s.cause, a.state FROM set_aside s JOIN accounts a ON a.id = s.account"
    )
    assert (cause, state) == ("TOKEN_REVOKED", "disconnected")
    async with stage.parts.engine.begin() as connection:
        await connection.execute(text("UPDATE set_aside SET due_at = now()"))
    assert stage.records.found == [], "a disconnected account's rows wait, due or not"
    stage.controls.add_token(PORTAL, "fresh", "hookline")
    await stage.parts.registry.set_credentials(PORTAL, {"access_token": "fresh"})
    await stage.parts.registry.set_account_state(PORTAL, "active")
    (found,) = await stage.records.until(lambda found: len(found) >= 1)
    assert (found.id, found.reason) == (contact, "set_aside")
    assert await stage.query("SELECT 1 FROM set_aside WHERE emitted_at IS NULL") == []


async def test_state_rows_never_go_back_and_tell_who_was_contested(settings: Settings) -> None:
    from dataclasses import replace
    from datetime import timedelta

    from processors.state import PostgresHydratorState, Published, Standing

    parts = Parts(settings)
    state = PostgresHydratorState(parts.engine)
    a, b = (RecordRef("t", "hubspot:1", "contact", number) for number in "ab")
    clock, there = await state.load([a, b])
    assert there == {}
    assert abs(clock - datetime.now(UTC)) < timedelta(seconds=5)
    first = Standing(b"c", '{"x": ["0", 1]}', deleted=False, modified_at=clock, read_at=clock)
    assert await state.save({a: Published(first, None), b: Published(first, None)}) == set()
    _, there = await state.load([b, a])
    assert there == {a: first, b: first}
    later = replace(first, content=b"d", read_at=clock + timedelta(seconds=1))
    assert await state.save({a: Published(later, first), b: Published(later, None)}) == {b}, (
        "b was there, and nobody knew"
    )
    earlier = replace(first, content=b"e", read_at=clock + timedelta(milliseconds=500))
    assert await state.save({a: Published(earlier, first)}) == {a}
    _, there = await state.load([a])
    assert there[a] == later
    latest = replace(first, content=b"f", read_at=clock + timedelta(seconds=2))
    assert await state.save({a: Published(latest, first)}) == {a}, "the later read stays, and is contested all the same"
    _, there = await state.load([a])
    assert there[a] == latest
    assert await state.save({a: Published(replace(latest, content=b"g"), latest)}) == set()
    await parts.engine.dispose()
