"""A person is erased from real servers: nothing that can be decrypted anywhere still says who it was."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, TopicPartition
from typer.testing import CliRunner

from console.main import app
from console.privacy import indexed
from console.privacy_export import collected
from console.private_file import made
from console.reading import Selection, partitions_of, ranges_of, raw_range, reader
from console.runtime import ConsoleError
from infra.crm.vendors import connect
from infra.database.tables import metadata
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec, purpose_of
from infra.kafka.connection import options
from infra.keyring import Keyring, Undecryptable, key_id_of, open_sealed
from infra.local.sandbox.server import Sandbox
from infra.plugins import load
from infra.privacy.eraser import Eraser
from infra.privacy.people import People
from infra.privacy.requests import STEPS
from infra.privacy.runner import TRANSLATOR_GROUP, TranslatorBacklog
from infra.privacy.wiping import OF_MENTIONING, record_tables
from infra.redis import build_redis
from infra.role import Parts
from infra.set_aside import SetAside
from infra.settings import Settings
from ingress import translator_app
from llm_gateway.gateway import Gateway
from processors.analyses.analysis import Analysis
from processors.analyst import Analyst
from processors.hydrator import Hydrator
from processors.match_store import MatchStore
from processors.state import PostgresAnalystState, PostgresHydratorState
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.record import RecordRef
from schemas.topics import ALL, BY_NAME, CHANGES, DELIVERIES, INSIGHTS, RECORDS
from sinks.destinations.destination import DestinationPlugin, Needs
from sinks.dispatcher import Dispatcher

pytestmark = pytest.mark.connected

PORTAL = "hubspot:33"
FIRST, LAST, MAIL, PHONE = "Quirinia", "Vandersloot", "q.vandersloot@kwijt.example", "+49 30 55507142"
SECRET_NOTE = "Her sister runs the bakery on Tulpenweg"
NEEDLES = (FIRST, LAST, MAIL, "55507142", SECRET_NOTE)
PURPOSES = (
    "analyst_state.sealed_insight", "match_index.sealed_features", "privacy_identifiers.sealed_values",
    "refusals.sealed_request", "llm.answers",
)  # fmt: skip


KILLS = range(1, 21) if os.environ.get("PRIVACY_KILLS") == "all" else (7,)
"""Which effect on keys, topics or the CRM is the last one; `make privacy-kills` tries each."""


class Kill(BaseException):
    """The process dies."""


class Dying:
    """A publisher, keyring or CRM whose n-th effect is the last thing that its process does; before it, or just after it."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.count = 0

    def wrap(self, target: Any, *names: str) -> Any:
        outer = self

        class Wrapped:
            def __getattr__(self, name: str) -> Any:
                found = getattr(target, name)
                if name not in names:
                    return found

                async def call(*given: Any, **more: Any) -> Any:
                    outer.tick()
                    answer = await found(*given, **more)
                    outer.tick()
                    return answer

                return call

        return Wrapped()

    def tick(self) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            self.at = None
            raise Kill


class House:
    """All stages over one tenant's messages, pumped by hand, and an eraser that is another process to them."""

    def __init__(self, settings: Settings, tenant: str, sandbox: Sandbox) -> None:
        self.settings, self.tenant, self.controls = settings, tenant, sandbox.controls
        self.parts, self.elsewhere = Parts(settings), Parts(settings)
        self.codec = Codec(self.parts.keyring, "hookline/test")
        self.publisher = Publisher(settings, self.codec, client_id="test")
        self.clients = connect(settings)
        self.dying = Dying()
        self.at: dict[str, dict[int, int]] = {}

    async def start(self) -> None:
        await self.parts.start()
        await self.elsewhere.start()
        await self.publisher.start()
        registry, engine, keyring = self.parts.registry, self.parts.engine, self.parts.keyring
        await registry.add_tenant(self.tenant)
        await registry.add_account(
            self.tenant, "hubspot", PORTAL, "Portal", {"app_id": "111"}, {"access_token": "token"}
        )
        self.endpoint = await registry.add_endpoint(
            self.tenant, "hubspot", "app", {"app_id": "111"}, None, accounts=[PORTAL]
        )
        await self.parts.directory.refresh()
        await self.elsewhere.directory.refresh()
        await self.clients["hubspot"].provision(self.parts.directory.account(PORTAL))
        self.gateway = Gateway(self.settings, self.parts.redis, engine)
        await self.gateway.start()
        hydrator = Hydrator(
            codec=self.codec, publisher=self.publisher, state=PostgresHydratorState(engine), clients=self.clients,
            accounts=self.parts.directory, set_aside=SetAside(engine), fingerprint=keyring.fingerprint,
            disconnect=registry.disconnect, people=People(engine, keyring),
        )  # fmt: skip
        self.analyst = Analyst(
            codec=self.codec, publisher=self.publisher, state=PostgresAnalystState(engine), keys=keyring.for_records,
            fingerprint=keyring.fingerprint, gateway=self.gateway,
            analyses=load("processors.analyses", Analysis, self.settings.analyses),
            lookalikes=MatchStore(engine, keyring), set_aside=SetAside(engine), epoch=1, generation=1,
        )  # fmt: skip
        needs = Needs(
            self.settings, engine, self.parts.directory, keyring.fingerprint, registry.touch, registry.disconnect
        )
        plugins = load("sinks.destinations", DestinationPlugin, ["postgres", "hubspot"])
        self.sinks = [
            Dispatcher(plugin.build(needs), self.codec, self.publisher, SetAside(engine)) for plugin in plugins.values()
        ]
        self.stages = [(CHANGES, hydrator.on(CHANGES)), (RECORDS, self.analyst.handle)]
        self.stages += [(INSIGHTS, sink.handle) for sink in self.sinks]
        self.eraser = self.made_eraser()
        async with reader(self.settings) as consumer:
            for topic in ALL:
                ends = await consumer.end_offsets(await partitions_of(consumer, topic.name))
                self.at[topic.name] = {each.partition: end for each, end in ends.items()}
        self.begins = {name: dict(places) for name, places in self.at.items()}

    def made_eraser(self) -> Eraser:
        async def translated(ends: Any) -> tuple[dict[str, int], int]:
            return {}, 0

        keyring = self.elsewhere.keyring
        publisher = Publisher(self.settings, Codec(keyring, "hookline/privacy"), client_id="privacy")
        self.publishers = [*getattr(self, "publishers", []), publisher]
        return Eraser(
            self.elsewhere.engine,
            self.dying.wrap(keyring, "destroy_keys", "retire_deliveries"),
            self.dying.wrap(publisher, "publish", "publish_sealed"),
            accounts=self.elsewhere.directory,
            clients={"hubspot": self.dying.wrap(self.clients["hubspot"], "write")},
            backlog=translated,
            settle_seconds=1.2,  # the stages hear of keys with their next use after a second
        )

    async def stop(self) -> None:
        await self.gateway.stop()
        for each in [*self.clients.values(), *(sink._destination for sink in self.sinks)]:
            await each.close()
        for publisher in [self.publisher, *self.publishers]:
            await publisher.stop()
        await self.parts.stop()
        await self.elsewhere.stop()

    def ref(self, object_: str, id_: str) -> RecordRef:
        return RecordRef(self.tenant, PORTAL, object_, id_)

    async def change(self, *refs: RecordRef, **more: Any) -> None:
        given = {"kind": "created", "occurred_at": datetime.now(UTC), "reason": "backfill", **more}
        await self.publisher.publish(
            CHANGES, [Change.model_validate({**ref._asdict(), **given}) for ref in refs], traceparents=[""] * len(refs)
        )

    async def messages(self, name: str, begins: dict[int, int]) -> list[Any]:
        found = []
        async with reader(self.settings) as consumer:
            ranges = {
                number: range(begins.get(number, span.start), span.stop)
                for number, span in (await ranges_of(consumer, name)).items()
            }
            async for page in raw_range(consumer, name, ranges, selection=Selection(tenant=self.tenant)):
                found += page
        return found

    async def pump(self) -> None:
        """Until nobody has anything to say any more."""
        while True:
            busy = False
            for topic in (CHANGES, RECORDS, INSIGHTS):
                raws = await self.messages(topic.name, self.at[topic.name])
                for raw in raws:
                    self.at[topic.name][raw.partition] = raw.offset + 1
                for name, handle in self.stages:
                    if raws and name is topic:
                        await handle(raws)
                busy = busy or bool(raws)
            if not busy:
                return

    async def search(self) -> set[str]:  # noqa: C901 -- one place after the other
        """Where anything of the person can be read: by whoever has all of Kafka, PostgreSQL, Redis and the master key."""
        keyring = Keyring(self.elsewhere.engine, self.settings.master_keys)

        async def texts(value: Any, *purposes: str) -> str:
            if isinstance(value, bytes | memoryview):
                given = bytes(value)
                found = given.decode("latin-1")
                try:
                    key = (await keyring.by_id([key_id_of(given)])).get(key_id_of(given))
                except Undecryptable:
                    return found
                for purpose in (purposes or PURPOSES) if key else ():
                    try:
                        found += open_sealed(key, given, purpose=purpose).decode("utf-8", "replace")
                    except Undecryptable:
                        continue
                return found
            return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)

        def has(text: str) -> bool:
            return any(needle.casefold() in text.casefold() for needle in NEEDLES)

        places = set()
        for topic in ALL:
            for raw in await self.messages(topic.name, self.begins[topic.name]):
                clear = f"{raw.key} {raw.headers}"
                text = await texts(raw.value, purpose_of(topic)) if raw.value else ""
                # A role of another test on the same servers lays aside what it has no keys for, under a key of its own.
                if topic.name == "crm.dead-letters" and '{"cause' in text:
                    letter = json.loads(text[text.index('{"cause') :])
                    origin = BY_NAME[letter["original_topic"]]
                    text += await texts(base64.b64decode(letter["original_value"]), purpose_of(origin))
                if has(clear + text):
                    places.add(topic.name)
        async with self.elsewhere.engine.connect() as connection:
            for table in metadata.sorted_tables:
                for row in await connection.execute(table.select()):
                    for value in row:
                        if has(await texts(value)):
                            places.add(table.name)
        redis = build_redis(self.settings)
        async for key in redis.scan_iter(match=f"*{self.tenant}*"):
            kind = await redis.type(key)
            held = await (
                redis.get(key)
                if kind in {b"string", "string"}
                else redis.hgetall(key)
                if kind in {b"hash", "hash"}
                else texts("")
            )
            for value in [key, *(held.values() if isinstance(held, dict) else [held])]:
                if value is not None and has(await texts(value)):
                    places.add("redis")
        await redis.aclose()
        return places

    async def rows(self, statement: str) -> list[Any]:
        async with self.elsewhere.engine.connect() as connection:
            return list(await connection.execute(sa.text(statement)))


@pytest.fixture
async def house(settings: Settings, tenant: str, tmp_path: Path) -> AsyncIterator[House]:
    sandbox = Sandbox(tmp_path)
    url = await sandbox.start()
    sandbox.controls.create_app(
        "111",
        "secret",
        "http://127.0.0.1:9/nobody",
        signature_version="v3",
        form="mixed",
        public_url="https://hooks.test",
    )
    sandbox.controls.set_manners("app:111", paused=True)
    sandbox.controls.create_portal("33", "111", "token", size=2)
    made_house = House(settings.model_copy(update={"sandbox_url": url, "provider": "offline"}), tenant, sandbox)
    await made_house.start()
    yield made_house
    await made_house.stop()
    await sandbox.stop()


class Cast:
    """The person, the deal that is about the person, a colleague who was written to about the person, and a stranger."""

    def __init__(self, house: House) -> None:
        controls = house.controls
        person = {
            "firstname": FIRST,
            "lastname": LAST,
            "email": MAIL,
            "phone": PHONE,
            "jobtitle": "Buyer",
            "company": "Kwijt",
        }
        made_person = controls.create_record(PORTAL, "contact", person)["id"]
        self.person = house.ref("contact", made_person)
        deal = {"dealname": f"Kwijt ({LAST}): renewal", "amount": "48000", "dealstage": "contractsent"}
        self.deal = house.ref("deal", controls.create_record(PORTAL, "deal", deal, [["contact", made_person]])["id"])
        controls.note(PORTAL, self.deal.id, f"{FIRST} says: we must have single sign-on before we sign. Call {PHONE}.")
        controls.note(PORTAL, made_person, SECRET_NOTE, object="contact")
        other = {"firstname": "Anton", "lastname": "Brugman", "email": "anton@kwijt.example"}
        self.colleague = house.ref("contact", controls.create_record(PORTAL, "contact", other)["id"])
        controls.note(PORTAL, self.colleague.id, f"Ask {MAIL} about the budget", object="contact")
        self.stranger = house.ref(
            "contact", controls.create_record(PORTAL, "contact", {"email": "x@far.example"})["id"]
        )


async def lived(house: House) -> Cast:
    cast = Cast(house)
    event = {
        "eventId": 1, "subscriptionId": 2, "portalId": 33, "appId": 111, "occurredAt": 1751276050977, "attemptNumber": 0,
        "subscriptionType": "contact.propertyChange", "objectId": int(cast.person.id), "propertyName": "email",
        "propertyValue": MAIL,
    }  # fmt: skip
    delivery = Delivery(
        request_id=f"{house.tenant}-1", tenant=house.tenant, endpoint=house.endpoint.id, source="hubspot",
        received_at=datetime.now(UTC), content_type="application/json", body=json.dumps([event]).encode(),
    )  # fmt: skip
    await house.publisher.publish(DELIVERIES, [delivery], traceparents=[""])
    await house.change(cast.person, cast.deal, cast.colleague, cast.stranger)
    await house.pump()
    return cast


async def _finished(house: House, erasure_id: str) -> Any:
    while True:
        erasure = await house.eraser.run(erasure_id)
        if erasure.done_at:
            return erasure
        await house.eraser._statements.run("SELECT pg_sleep(0.2)", {})


async def test_after_an_erasure_nothing_that_can_be_decrypted_says_who_it_was(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """INVARIANT: who was erased is gone from topics, tables, Redis and the CRM's own fields, and the others keep what is theirs.
    If it fails, we told a person, or a court, something that is not true.
    """
    cast = await lived(house)
    before = await house.search()
    assert {"crm.deliveries", "crm.records", "crm.insights", "analyst_state", "insights", "match_index"} <= before
    assert {"insight_history", "privacy_identifiers"} <= before
    old = {
        row.analysis: row.snapshot_offset
        for row in await house.rows(f"SELECT * FROM insights WHERE record_id = '{cast.deal.id}'")
    }
    assert "requirements" in old

    # As after an upgrade from a release that kept no index: what lies on the topic says it all.
    async with house.elsewhere.engine.begin() as connection:
        await connection.execute(sa.text("TRUNCATE key_people, privacy_identifiers"))
    assert await indexed(house.elsewhere, house.eraser.people, house.tenant) == 4
    plan = await house.eraser.plan(cast.person)
    assert plan.mentioned_in == {"contact": 1, "deal": 1}
    assert (plan.keys, plan.endpoints) == (3, 1)
    held = await collected(
        house.settings, house.elsewhere.engine, house.elsewhere.keyring, house.eraser.people, cast.person
    )
    with made(tmp_path / "export.json") as file:
        json.dump(held.content, file)
    assert stat.S_IMODE((tmp_path / "export.json").stat().st_mode) == 0o600
    exported = (tmp_path / "export.json").read_text()
    assert all(needle in exported for needle in NEEDLES)
    assert {"crm.records", "crm.insights"} <= held.content["topics"].keys()
    assert len(held.content["deliveries"]) == 1
    assert {each["record"] for each in held.content["mentioned_in"]} == {str(cast.deal), str(cast.colleague)}

    # HubSpot's privacy deletion: the hydrator hears of it and asks for the erasure.
    house.controls.delete(PORTAL, "contact", cast.person.id, erase=True)
    await house.change(cast.person, kind="erased", reason="webhook")
    await house.pump()
    (begun,) = await house.eraser.erasures.due()
    await house.eraser.run(begun)
    # While it runs, what was under way comes in: a save of the deal that still names the person.
    await house.change(cast.deal, kind="updated", reason="redrive")
    await house.pump()
    await house.eraser.erasures.request(
        cast.person, house.eraser.people.person_mark(cast.person), by="test", at_once=True
    )
    done = await _finished(house, begun)
    await house.pump()

    assert await house.search() == set()
    assert (done.person_id, done.work, done.step) == ("", {}, "done")
    assert done.counts["records"] == 2
    rows = await house.rows(f"SELECT * FROM insights WHERE record_id = '{cast.deal.id}'")
    assert {row.analysis for row in rows} == old.keys()
    assert all(row.snapshot_offset > old[row.analysis] and row.payload for row in rows)
    said = json.dumps([row.payload for row in rows])
    assert "single sign-on" in said
    assert "[erased]" in said
    shown = json.dumps(house.controls.record(PORTAL, "deal", cast.deal.id)["properties"]["hookline_requirements"])
    assert "[erased]" in shown
    assert FIRST not in shown
    assert await house.rows(f"SELECT 1 FROM insights WHERE record_id = '{cast.person.id}'") == []
    (entry,) = await house.rows("SELECT * FROM privacy_audit WHERE deed = 'erase'")
    assert (entry.reference, entry.by) == (begun, "crm")
    assert FIRST not in capsys.readouterr().out

    # A late webhook, a redelivery or a replay of the range brings nobody back.
    await house.change(cast.person, kind="updated", reason="webhook")
    await house.change(cast.person, cast.deal, reason="replay")
    await house.analyst.handle(await house.messages(RECORDS.name, house.begins[RECORDS.name]))
    await house.pump()
    assert await house.search() == set()
    # Asked for again, it is the same erasure, and over.
    assert (
        await house.eraser.erasures.request(
            cast.person, house.eraser.people.person_mark(cast.person), by="test", at_once=True
        )
        == begun
    )
    assert (await house.eraser.run(begun)).done_at == done.done_at


@pytest.mark.parametrize("kill", KILLS)
async def test_killed_anywhere_it_goes_on_and_ends_the_same(house: House, kill: int) -> None:
    """INVARIANT: a crash between any two effects leaves nothing of the person behind. If it fails, half an erasure looks whole."""
    cast = await lived(house)
    mark = house.eraser.people.person_mark(cast.person)
    begun = await house.eraser.erasures.request(cast.person, mark, by="test", at_once=True)
    house.dying.count, house.dying.at = 0, kill
    deaths = 0
    while True:
        try:
            done = await _finished(house, begun)
            break
        except Kill:
            deaths += 1
            house.eraser = house.made_eraser()
    await house.pump()
    assert deaths == 1, f"no effect {kill}"
    assert done.step == STEPS[-1]
    assert await house.search() == set(), f"killed at effect {kill}"
    # Nothing of it was in the CRM's own fields either, though there the person is still a record.
    person = house.controls.record(PORTAL, "contact", cast.person.id)["properties"]
    assert not {name for name, value in person.items() if name.startswith("hookline_") and value}
    rows = await house.rows(f"SELECT payload FROM insights WHERE record_id = '{cast.deal.id}'")
    assert rows
    assert all(row.payload for row in rows)


async def test_deliveries_that_are_not_translated_are_waited_for(settings: Settings, tenant: str) -> None:
    backlog = TranslatorBacklog(settings, group=f"translator.{tenant}")
    consumer = AIOKafkaConsumer(**options(settings), group_id=f"translator.{tenant}", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(DELIVERIES.name, each.partition) for each in await partitions_of(consumer, DELIVERIES.name)
        ]
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        found, waiting = await backlog(None)
        assert waiting >= sum(ends[each] - begins[each] for each in partitions)
        consumer.assign(partitions)
        await consumer.commit({each: found[str(each.partition)] for each in partitions})
        assert (await backlog(found))[1] == 0
    finally:
        await consumer.stop()


def test_every_table_of_records_was_thought_about() -> None:
    """INVARIANT: a new table that holds something of records is not forgotten by erasures. If it fails, say in
    `infra/privacy/wiping.py` what becomes of its rows when a record mentions somebody who is erased.
    """
    assert {table.name for table in record_tables()} == set(OF_MENTIONING)
    assert TRANSLATOR_GROUP == translator_app.GROUP


def test_the_commands_plan_erase_list_and_export(
    settings: Settings, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOOKLINE_ENVIRONMENT": "development",
        "KAFKA_URL": settings.kafka_url,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_PRIVACY_SETTLE_SECONDS": "2.5",
        "COLUMNS": "300",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def hookline(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["privacy", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    person = f"{tenant}/{PORTAL}/contact/77"
    assert "data keys to be destroyed: 0" in hookline("erase", person, "--plan")
    assert "No erasures." in hookline("list")
    assert hookline("index", "--tenant", tenant).startswith("0 snapshots read")
    hookline("export", person, "--out", "held.json")
    assert json.loads((tmp_path / "held.json").read_text())["person"]["id"] == "77"
    assert "Done (" in hookline("erase", person, "--yes")
    (listed,) = [json.loads(line) for line in hookline("list", "--tenant", tenant, "--json").splitlines()]
    assert (listed["step"], listed["tenant"]) == ("done", tenant)
    assert "77" not in json.dumps(listed["counts"])
    with pytest.raises(ConsoleError, match="is no person"):
        hookline("erase", f"{tenant}/{PORTAL}/deal/1")
