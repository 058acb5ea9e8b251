"""Salesforce's change events on real servers: from the sandbox's event bus (the vendor's own .proto) to `crm.deliveries` and further."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

from console import main
from console.accounts_setup import STEPS, Guide
from console.reading import Selection, read_range
from console.runtime import ConsoleError
from infra.accounts import Registry
from infra.accounts.setups import Progress
from infra.database.engine import build_engine
from infra.database.tables import event_resyncs, event_streams
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.local.sandbox.server import Sandbox
from infra.unavailable import BrokerUnavailable
from ingress.dialects.salesforce_pubsub import translate
from ingress.pubsub import app, resync, stream
from ingress.pubsub.app import SalesforceEvents
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.frame import SOURCE, Frame
from ingress.pubsub.store import Fenced, SchemaStore, StreamStore
from ingress.sources.source import Event, Resync
from schemas.topics import CHANGES_BULK, DELIVERIES

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]
CHANNEL = "/data/ChangeEvents"


async def until(condition, said, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
        assert time.monotonic() < deadline, f"still not: {said}"
        await asyncio.sleep(0.02)


class Place:
    """An org with an event bus, and an endpoint that asks for its events."""

    def __init__(self, settings, sandbox, engine, registry, account, endpoint, tenant, made) -> None:
        self.settings, self.sandbox, self.engine, self.registry = settings, sandbox, engine, registry
        self.account, self.endpoint, self.tenant, self.made = account, endpoint, tenant, made
        self.store = StreamStore(engine)
        self.started = datetime.now(UTC) - timedelta(seconds=5)

    @property
    def controls(self):
        return self.sandbox.controls

    def lead(self, **values):
        return self.controls.create_record(
            self.account.id, "lead", {"LastName": "Lovelace", "Company": "Engines", **values}
        )["id"]

    def save(self, record, **values):
        return self.controls.save(self.account.id, "lead", record, values)

    def bus(self):
        return self.controls.events(self.account.id)

    async def row(self):
        async with self.engine.connect() as connection:
            return (await connection.execute(sa.select(event_streams))).first()

    async def state(self):
        row = await self.row()
        return row.state if row else ""

    async def resyncs(self):
        async with self.engine.connect() as connection:
            return (await connection.execute(sa.select(event_resyncs).order_by(event_resyncs.c.id))).all()

    async def messages(self, topic):
        """The tenant's messages on a topic, decoded."""
        codec = Codec(Keyring(self.engine, self.settings.master_keys), "test")
        mine = Selection(tenant=self.tenant)
        return [m.payload async for m in read_range(self.settings, codec, topic, selection=mine, since=self.started)]

    async def heard(self):
        """The events on crm.deliveries, translated, with the resyncs among them."""
        deliveries = [each for each in await self.messages(DELIVERIES) if each.source == SOURCE]
        await SchemaStore(self.engine).prepare(deliveries)
        return [one for each in deliveries for one in translate(each, self.endpoint)]

    async def told(self):
        return {(one.object, one.id, one.kind) for one in await self.heard() if isinstance(one, Event)}

    async def event_ids(self):
        return [Frame.unpack(each.body).event_id for each in await self.messages(DELIVERIES)]

    @asynccontextmanager
    async def role(self, cls=SalesforceEvents, **settings):
        role = cls(self.settings.model_copy(update=settings))
        await role.start()
        try:
            yield role
        finally:
            await role.drain(10)

    async def streaming(self, count=1):
        async def there():
            return await self.state() == "streaming" and self.bus()["subscriptions"] >= count

        await until(there, "the stream flows")

    async def acknowledged(self, number):
        async def there():
            row = await self.row()
            return row is not None and row.events >= number

        await until(there, f"{number} events are behind the checkpoint")


@asynccontextmanager
async def opened(settings, tenant, folder, *, keepalive_s=0.3, credentials=None, size=0):
    async with Sandbox(folder, events=True, keepalive_s=keepalive_s) as sandbox:
        settings = settings.model_copy(
            update={
                "sandbox_url": sandbox.base,
                "salesforce_events_url": sandbox.events_url,
                "salesforce_events_lease_seconds": 2.0,
            }
        )
        engine = build_engine(settings)
        registry = Registry(engine, Keyring(engine, settings.master_keys))
        await registry.add_tenant(tenant)
        consumer = {"consumer_key": f"key-{secrets.token_hex(4)}", "consumer_secret": f"secret-{secrets.token_hex(12)}"}
        made = sandbox.controls.create_org(f"00D{secrets.token_hex(6)}", "session-1", size=size, **consumer)
        account = await registry.add_account(
            tenant,
            "salesforce",
            made["account"],
            config={"instance_url": sandbox.base, "integration_user": made["integration_user"]},
            credentials=consumer,
        )
        endpoint = await registry.add_endpoint(tenant, SOURCE, config={"channel": CHANNEL}, accounts=[account.id])
        try:
            yield Place(settings, sandbox, engine, registry, account, endpoint, tenant, made)
        finally:
            await engine.dispose()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(app, "LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(resync, "LOOK_EVERY_SECONDS", 0.1)


@pytest.fixture
async def place(settings, tenant, tmp_path):
    async with opened(settings, tenant, tmp_path) as found:
        yield found


async def test_events_become_deliveries_and_the_place_is_kept_behind_them(place):
    async with place.role():
        await place.streaming()
        lead = place.lead()
        place.save(lead, Title="Head of Sales")
        place.controls.delete(place.account.id, "lead", lead)
        await place.acknowledged(3)
    assert await place.told() == {("lead", lead, "created"), ("lead", lead, "updated"), ("lead", lead, "deleted")}
    row = await place.row()
    assert row.replay_id
    assert row.owner == ""
    assert row.heard_until > datetime.now(UTC) - timedelta(seconds=30)


async def test_a_crash_between_publishing_and_the_checkpoint_repeats_and_loses_nothing(place):
    """INVARIANT: a place is kept behind Kafka's acknowledgement alone. If it fails, a crash loses edits of a customer for good."""

    class Dying(SalesforceEvents):
        async def _publish_deliveries(self, deliveries, traceparents):
            await super()._publish_deliveries(deliveries, traceparents)
            raise BrokerUnavailable("the answer was lost", retry_after=30)

    leads = [place.lead() for _ in range(5)]
    async with place.role(Dying):

        async def published():
            return len(await place.event_ids()) >= 5

        await until(published, "five events are on the topic")
        await until(lambda: place.bus()["subscriptions"] == 0, "the stream has ended")
        assert (await place.row()).replay_id is None
    async with place.role():
        await place.acknowledged(5)
    assert {("lead", one, "created") for one in leads} == await place.told()
    ids = await place.event_ids()
    assert len(set(ids)) == 5
    assert len(ids) >= 10, "they came again, with the same ids"


async def test_a_broker_that_refuses_holds_the_place(place):
    class Without(SalesforceEvents):
        async def _publish_deliveries(self, deliveries, traceparents):
            raise BrokerUnavailable("away", retry_after=0.05)

    place.lead()
    async with place.role(Without):
        await until(lambda: place.bus()["subscribed"] >= 3, "it has come again and again")
        assert (await place.row()).events == 0
        assert (await place.row()).replay_id is None
    async with place.role():
        await place.acknowledged(1)


async def test_after_days_away_it_goes_on_where_it_stood(place):
    """71 of 72 hours, a second standing for an hour."""
    place.controls.set_events(place.account.id, retention_ms=72_000)
    async with place.role():
        await place.streaming()
        first = place.lead()
        await place.acknowledged(1)
    before = await place.row()
    missed = [place.lead() for _ in range(120)]
    place.controls.set_events(place.account.id, retention_ms=71_000)
    async with place.role():
        await place.acknowledged(121)
    told = await place.told()
    assert {("lead", one, "created") for one in (first, *missed)} == told
    assert len(await place.event_ids()) == 121, "no event came twice"
    assert not await place.resyncs()
    assert (await place.row()).fence > before.fence


async def test_an_expired_place_has_everything_read_again_and_the_rest_heard(place):
    """INVARIANT: what the bus no longer has is read from the CRM since the last time of which nothing is missing. If it fails,
    everything that was saved while we were away for too long is lost.
    """
    async with place.role():
        await place.streaming()
        place.lead()
        await place.acknowledged(1)
    heard_until = (await place.row()).heard_until
    missed = place.lead()
    place.controls.set_events(place.account.id, retention_ms=0)
    await until(lambda: place.bus()["events"] == 0, "the bus has forgotten")
    place.controls.set_events(place.account.id, retention_ms=72_000_000)
    kept = place.lead()
    async with place.role():
        await place.streaming()

        async def done():
            rows = await place.resyncs()
            return rows and all(row.done_at for row in rows)

        await until(done, "all objects were read again")
        await place.acknowledged(2)
    rows = await place.resyncs()
    assert {row.cause for row in rows} == {"REPLAY_ID"}
    assert {row.object for row in rows} == {"company", "contact", "lead", "deal", "note", "email"}
    assert all(timedelta(0) < heard_until - row.since <= timedelta(minutes=15) for row in rows)
    announced = await place.messages(CHANGES_BULK)
    assert missed in {change.id for change in announced}
    assert {change.reason for change in announced} == {"reconcile"}
    assert ("lead", kept, "created") in await place.told()
    assert (await place.row()).replay_id


async def test_an_idle_stream_moves_its_place_with_each_sign_of_life(place):
    async with place.role():
        await place.streaming()
        first = (await place.row()).checkpoint_at

        async def moved():
            return (await place.row()).checkpoint_at > first

        await until(moved, "a keepalive moved it")
        row = await place.row()
        assert row.events == 0
        assert row.replay_id
        assert row.heard_until < datetime.now(UTC) - timedelta(minutes=4), (
            "the tip is not believed for the last minutes"
        )


async def test_a_clock_that_is_ahead_does_not_take_for_heard_what_is_yet_to_come(place, monkeypatch):
    """INVARIANT: or all of that hour would not be read again, should the bus lose the place in it."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(hours=1)

    monkeypatch.setattr(stream, "datetime", Ahead)
    async with place.role():
        await place.streaming()

        async def moved():
            return (await place.row()).heard_until is not None

        await until(moved, "a keepalive moved it")
        assert (await place.row()).heard_until < datetime.now(UTC) - timedelta(minutes=4)


async def test_two_replicas_have_one_owner_and_the_other_takes_over(place):
    async with place.role() as first:
        await place.streaming()
        async with place.role():
            place.lead()
            await place.acknowledged(1)
            assert place.bus()["subscriptions"] == 1
            await first.drain(10)
            await place.streaming()
            second = place.lead()
            await place.acknowledged(2)
            assert place.bus()["subscriptions"] == 1
    assert ("lead", second, "created") in await place.told()
    assert len(await place.event_ids()) == 2


async def test_a_hung_owner_cannot_move_the_place_back(place):
    """INVARIANT: the fence decides. If it fails, a replica that hung for a minute sets the stream back, or forward over lost events."""
    owned = await place.store.take(place.endpoint.id, "hung", 0.05)
    await place.store.checkpoint(owned, b"old", events=1, heard_until=None, seconds=0.05)
    assert owned.fence == 1

    async def taken():
        return await place.store.take(place.endpoint.id, "other", 30) is not None

    await until(taken, "another has taken it")
    now = datetime.now(UTC)
    for act in (
        place.store.checkpoint(owned, b"older", events=1, heard_until=now, seconds=30),
        place.store.hold(owned, 30),
        place.store.note(owned, "streaming"),
        place.store.start_over(owned, place.account.id, ["lead"], since=now, until=now),
    ):
        with pytest.raises(Fenced):
            await act
    await place.store.let_go(owned)
    row = await place.row()
    assert (row.replay_id, row.owner, row.fence) == (b"old", "other", 2)
    assert not await place.resyncs()
    assert await place.store.take(place.endpoint.id, "third", 30) is None


async def test_a_role_that_lost_its_stream_ends_it(place):
    async with place.role() as role:
        await place.streaming()
        async with place.engine.begin() as connection:
            await connection.execute(
                event_streams.update().values(
                    owner="another", fence=99, owned_until=sa.func.now() + timedelta(seconds=60)
                )
            )
        place.lead()
        await until(lambda: not role._readers, "it has let go")
        row = await place.row()
        assert (row.owner, row.events) == ("another", 0)


async def test_it_comes_back_after_the_bus_was_away(place):
    async with place.role() as role:
        await place.streaming()
        place.controls.set_events(place.account.id, refusal="service.unavailable")

        async def waits():
            return await place.state() == "waiting"

        await until(waits, "it says that it waits")
        assert "service.unavailable" in (await place.row()).detail
        assert await role.readiness()["event bus"]() is None, "for a moment it is nobody's trouble"
        lead = place.lead()
        place.controls.set_events(place.account.id, refusal="")
        await place.acknowledged(1)
        await place.streaming()
    assert await place.told() == {("lead", lead, "created")}


async def test_a_session_that_ended_is_renewed_at_once(place):
    async with place.role():
        await place.streaming()
        before = place.bus()["subscribed"]
        for token in list(place.sandbox._app.world.tokens):
            place.controls.revoke_token(token)
        lead = place.lead()
        await place.acknowledged(1)
        assert place.bus()["subscribed"] == before + 1
        assert (await place.registry.account(place.account.id)).state == "active"
    assert await place.told() == {("lead", lead, "created")}


async def test_revoked_credentials_disconnect_the_account_and_connecting_anew_brings_all(place):
    async with place.engine.begin() as connection:
        await connection.execute(sa.text("UPDATE accounts SET changed_at = now() - interval '1 hour'"))
    async with place.role():
        await place.streaming()
        client = next(iter(place.sandbox._app.salesforce.oauth.clients.values()))
        secret, client.consumer_secret = client.consumer_secret, "changed-by-an-admin"
        for token in list(place.sandbox._app.world.tokens):
            place.controls.revoke_token(token)
        lead = place.lead()

        async def disconnected():
            return (await place.registry.account(place.account.id)).state == "disconnected"

        await until(disconnected, "the account is disconnected")
        assert "refuses the credentials" in (await place.registry.account(place.account.id)).state_reason

        async def told():
            return await place.state() == "disconnected"

        await until(told, "the stream says so")
        client.consumer_secret = secret
        await place.registry.set_account_state(place.account.id, "active")
        await place.acknowledged(1)
    assert await place.told() == {("lead", lead, "created")}


async def test_a_channel_that_is_not_there_is_the_accounts_own_trouble(place):
    await place.registry.configure_endpoint(place.endpoint.id, {"channel": "/data/Nobody__chn"})
    async with place.role() as role:

        async def refused():
            return await place.state() == "refused"

        await until(refused, "it says so")
        assert "topic.not.found" in (await place.row()).detail
        assert "/data/Nobody__chn" in (await place.row()).detail
        assert await role.readiness()["event bus"]() is None
        place.controls.create_channel(place.account.id, "/data/Hookline__chn", ["lead"])
        await place.registry.configure_endpoint(place.endpoint.id, {"channel": "/data/Hookline__chn"})
        await place.streaming()
        lead = place.lead()
        place.controls.create_record(place.account.id, "company", {"Name": "Not selected"})
        await place.acknowledged(1)
    assert await place.told() == {("lead", lead, "created")}


async def test_a_disabled_endpoint_ends_its_stream(place):
    async with place.role():
        await place.streaming()
        await place.registry.enable_endpoint(place.endpoint.id, False)
        await until(lambda: place.bus()["subscriptions"] == 0, "the stream has ended")
        place.lead()
        await place.registry.enable_endpoint(place.endpoint.id, True)
        await place.acknowledged(1)


async def test_a_schema_that_changes_while_events_flow_costs_none(place):
    async with place.role():
        await place.streaming()
        lead = place.lead()
        place.controls.create_properties(
            place.account.id,
            "lead",
            [{"FullName": "Lead.Region__c", "Metadata": {"label": "Region", "type": "Text", "length": 80}}],
        )
        place.save(lead, Region__c="North", Title="CTO")
        await place.acknowledged(2)
    assert place.bus()["schemas"] == 2
    KNOWN.__init__()  # another process: nothing in memory
    changed = [one.properties for one in await place.heard() if isinstance(one, Event) and one.kind == "updated"]
    assert [set(names) for names in changed] == [{"Region__c", "Title"}]


async def test_an_event_too_large_for_kafka_is_read_from_the_crm(place):
    async with place.role(kafka_max_message_bytes=100_000):
        await place.streaming()
        big = place.lead(Description=secrets.token_hex(90_000))
        small = place.lead()
        await place.acknowledged(2)

        async def asked():
            return {row.object for row in await place.resyncs()} >= {"lead"}

        await until(asked, "it is to be read again")
    told = await place.told()
    assert ("lead", small, "created") in told
    assert ("lead", big, "created") not in told
    assert {row.cause for row in await place.resyncs()} == {"TOO_LARGE"}


async def test_a_demand_is_worked_off_page_by_page_and_asked_once(settings, tenant, tmp_path):
    async with opened(settings, tenant, tmp_path, size=40) as place:
        now = datetime.now(UTC)
        demand = Resync(place.account.id, "lead", datetime(2000, 1, 1, tzinfo=UTC), "event-1", "GAP_OVERFLOW")
        for _ in range(2):
            await place.store.ask([(place.endpoint.id, demand, now)])
        async with place.role():

            async def done():
                rows = await place.resyncs()
                return rows and all(row.done_at for row in rows)

            await until(done, "it is read")
        (row,) = await place.resyncs()
        held = set(place.controls.records(place.account.id, "lead"))
        told = [change for change in await place.messages(CHANGES_BULK) if change.object == "lead"]
        assert {change.id for change in told} == held
        assert row.records == len(told) > 5


async def test_gaps_and_overflows_of_the_bus_reach_who_translates(place):
    async with place.role():
        await place.streaming()
        lead = place.lead()
        place.controls.change_event(place.account.id, "lead", [lead], "GAP_UPDATE")
        place.controls.change_event(place.account.id, "lead", [], "GAP_OVERFLOW")
        place.controls.change_event(place.account.id, "company", ["001*"], "GAP_UPDATE")
        await place.acknowledged(4)
    heard = await place.heard()
    assert [one.reason for one in heard if isinstance(one, Event) and one.kind == "updated"] == ["gap"]
    assert {(one.object, one.cause) for one in heard if isinstance(one, Resync)} == {
        ("lead", "GAP_OVERFLOW"),
        ("company", "WILDCARD"),
    }


async def test_an_admin_switches_it_on_and_sees_how_it_stands(place, monkeypatch, tmp_path):
    settings, account = place.settings, place.account.id
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOOKLINE_ENVIRONMENT": "development",
        "KAFKA_URL": settings.kafka_url,
        "HOOKLINE_KAFKA_REPLICATION": "1",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_SANDBOX_URL": settings.sandbox_url,
        "HOOKLINE_SALESFORCE_EVENTS_URL": settings.salesforce_events_url,
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)

    async def ask(*arguments):
        result = await asyncio.to_thread(CliRunner().invoke, main.app, ["account", *arguments])
        assert result.exception is None or isinstance(result.exception, ConsoleError | SystemExit), result.exc_info
        return f"{result.output} {result.exception or ''}"

    async def point():
        told = await ask("check", account, "--json", "--echo-seconds", "0")
        points = {each["name"]: each for each in json.loads(told[: told.rindex("}") + 1])["points"]}
        assert not [name for name in points if name.startswith("delivery ")], "nobody delivers to a stream"
        return points["change events"]

    async def guided(answer):
        """The guided set-up's step, with what a person answers."""
        step = next(step for name, *_, step in STEPS["salesforce"] if name == "events")
        shell = typer.Typer()
        shell.command()(lambda: step(Guide("salesforce", place.tenant, Progress(answers={"account": account}))))
        result = await asyncio.to_thread(CliRunner().invoke, shell, input=answer)
        assert result.exception is None, result.exc_info
        return " ".join(result.output.split())

    assert "/data/ChangeEvents: not started" in await ask("events", account)
    assert (await point())["remedy"] == "`hookline serve salesforce-events` (or `up`) has to run"
    assert "nothing" not in await ask("events", account, "--off")
    assert "/data/ChangeEvents: off" in await ask("events", account)
    assert (await point())["result"] == "unknown"
    refused = await ask("events", account, "--channel", "/data/Nobody__chn")
    assert "topic.not.found" in refused
    assert "Change Data Capture" in refused
    assert "they begin with /data/" in await ask("events", account, "--channel", "LeadChangeEvent")
    assert "Later: `hookline account events" in await guided("n\n")
    assert "Not yet: Salesforce's event bus says" in await guided("y\n")
    place.controls.create_channel(account, "/data/Hookline__chn", ["lead"])
    assert "listens within two seconds" in await guided("y\n")
    assert "/data/Hookline__chn" in await ask("events", account, "--channel", "/data/Hookline__chn")
    assert len(await place.registry.endpoints()) == 1, "it is the same stream"
    async with place.role():
        await place.streaming()
        place.lead()
        await place.acknowledged(1)
        shown = await ask("show", account)
        streaming = await point()
    assert (streaming["result"], "1 events" in streaming["detail"]) == ("passed", True)
    assert (await point())["result"] == "failed", "nobody listens any more"
    assert "events         /data/Hookline__chn: streaming" in shown
    assert "1 events" in shown
    assert "nobody reads it" in await ask("show", account)
