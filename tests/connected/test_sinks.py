"""Sinks on a real PostgreSQL and the sandbox CRM; the whole role on Kafka too."""

import asyncio
import itertools
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from infra.accounts import Account, Registry
from infra.crm.hubspot import HubSpotClient
from infra.database.engine import build_engine, migrate
from infra.keyring import Keyring
from infra.local.sandbox.journal import Journal
from infra.local.sandbox.server import Sandbox
from schemas.insight import Version
from sinks.destinations.crm_state import RECORD, CrmState, Row
from sinks.destinations.crm_writer import CrmDestination
from sinks.destinations.destination import Gone, Needs, Stale, Unchanged, Written
from sinks.destinations.postgres import PLUGIN, PostgresDestination
from tests.sinks.making import NOON, FakeAccounts, insight, lead, quality, requirements

pytestmark = pytest.mark.connected

APP = 14947547


@pytest.fixture
async def engine(settings):
    await asyncio.to_thread(migrate, settings)
    engine = build_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def registry(settings, engine):
    found = Registry(engine, Keyring(engine, settings.master_keys))
    await found.add_tenant("acme")
    await found.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": "t"})
    return found


@pytest.fixture
async def needs(settings, engine, registry):
    keyring = Keyring(engine, settings.master_keys)
    await keyring.start()

    async def disconnect(account, reason):
        await registry.set_account_state(account, "disconnected", reason)
        return True

    yield Needs(settings, engine, FakeAccounts(), keyring.fingerprint, registry.touch, disconnect)
    await keyring.stop()


async def _rows(engine, table: str):
    async with engine.connect() as connection:
        return (
            (await connection.execute(text(f"SELECT * FROM {table} ORDER BY record_id, analysis, snapshot_offset")))
            .mappings()
            .all()
        )


class TestPostgres:
    @pytest.fixture
    async def destination(self, needs):
        return PostgresDestination(needs)

    async def test_newest_and_every_version(self, engine, destination):
        given = [insight(lead(10), 1), insight(lead(30), 3), insight(lead(20), 2), insight(quality(), 1)]
        assert await destination.write(given) == [Stale(), Written(), Stale(), Written()]
        now = await _rows(engine, "insights")
        assert [(row["analysis"], row["snapshot_offset"], row["score"]) for row in now] == [
            ("data_quality", 1, None),
            ("lead_intel", 3, 30),
        ]
        assert now[1]["payload"] == lead(30).model_dump(mode="json")
        assert (now[1]["as_of"], now[1]["grade"]) == (given[1].as_of, "B")
        assert [row["snapshot_offset"] for row in await _rows(engine, "insight_history")] == [1, 1, 2, 3]

    async def test_a_redelivery_changes_nothing(self, engine, destination):
        """INVARIANT: at-least-once delivery leaves no trace. If it fails, every restart doubles the history."""
        given = [insight(lead(10), 1), insight(quality(), 1)]
        await destination.write(given)
        before = (await _rows(engine, "insights"), await _rows(engine, "insight_history"))
        assert await destination.write([*given, *given]) == [Stale()] * 4
        assert (await _rows(engine, "insights"), await _rows(engine, "insight_history")) == before

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_versions_decide_not_arrival(self, engine, destination, order):
        """INVARIANT: a late message never replaces a newer one."""
        given = [
            insight(lead(1), 5, version=Version(1, 5, 1)),
            insight(lead(2), 5, version=Version(1, 5, 2)),
            insight(lead(3), 1, version=Version(2, 1, 1)),
        ]
        for place in order:
            await destination.write([given[place]])
        assert [row["score"] for row in await _rows(engine, "insights")] == [3]
        assert len(await _rows(engine, "insight_history")) == 3

    async def test_a_retraction_marks_the_row(self, engine, destination):
        await destination.write([insight(lead(), 1)])
        gone = insight(lead(), 2).model_copy(update={"payload": None, "retracted": True})
        assert await destination.write([gone]) == [Written()]
        (row,) = await _rows(engine, "insights")
        assert (row["retracted"], row["payload"], row["score"]) == (True, None, None)

    async def test_the_accounts_last_insight_is_noted(self, destination, registry):
        before = datetime.now(UTC)
        await destination.write([insight(lead(), 1)])
        assert (await registry.account("hubspot:123")).last_insight_at >= before

    async def test_two_batches_at_once(self, engine, destination):
        batches = [
            [insight(lead(), number, record=str(number % 50)) for number in range(start, 400, 4)] for start in range(4)
        ]
        await asyncio.gather(*(destination.write(batch) for batch in batches))
        assert len(await _rows(engine, "insights")) == 50
        assert len(await _rows(engine, "insight_history")) == 400

    async def test_a_text_with_nul_is_kept_without_it(self, engine, destination):
        typed = "C:\\u0000 \\\\u0000 \\"
        await destination.write([insight(lead(summary=f"a\x00b\x00\x00 {typed}\x00"), 1)])
        (row,) = await _rows(engine, "insights")
        assert row["payload"]["summary"] == f"ab {typed}"


class TestState:
    async def test_begin_and_done(self, engine, needs):
        state = CrmState(engine, "hubspot")
        ref = insight().ref
        assert await state.take_up({ref: {}}, "t") == {ref: {}}
        version = Version(1, 5, 1)
        assert await state.take_up({ref: {"lead_intel": version}}, "t") == {ref: {}}, "from before the note"
        assert (await state.take_up({ref: {}}, "t"))[ref][RECORD].pending
        row = Row(version, NOON, {"score": "x"})
        assert await state.done([(ref, "lead_intel", row), (ref, RECORD, row)], "t") == set()
        assert await state.take_up({ref: {}}, "t") == {ref: {"lead_intel": row, RECORD: row}}

    async def test_only_what_is_newer_is_noted_as_begun(self, engine, needs):
        """INVARIANT: what is about to be written is noted before, and a redelivery leaves no mark that nobody takes off."""
        state = CrmState(engine, "hubspot")
        (one, other, third) = (insight(record=record).ref for record in ("81", "82", "83"))
        row = Row(Version(1, 5, 1), NOON, {"score": "x"})
        await state.done([(ref, name, row) for ref in (one, other) for name in ("lead_intel", RECORD)], "t")
        found = await state.take_up(
            {
                one: {"lead_intel": Version(1, 5, 1)},
                other: {"lead_intel": Version(1, 5, 1), "data_quality": Version(1, 5, 1)},
                third: {},
            },
            "t",
        )
        assert found == {one: {"lead_intel": row, RECORD: row}, other: {"lead_intel": row, RECORD: row}, third: {}}
        after = await state.take_up({one: {}, other: {}, third: {}}, "t")
        assert not after[one][RECORD].pending
        assert after[other][RECORD] == Row(row.version, row.as_of, row.written, pending=True)
        assert after[third] == {}

    async def test_a_version_never_goes_down(self, engine, needs):
        """INVARIANT: if it fails, a stalled process's older insight passes for the newest."""
        state = CrmState(engine, "hubspot")
        ref = insight().ref
        newer, older = Row(Version(1, 5, 1), NOON, {}), Row(Version(1, 4, 9), NOON, {})
        await state.done([(ref, "lead_intel", newer)], "t")
        assert await state.done([(ref, "lead_intel", older)], "t") == {ref}
        assert (await state.take_up({ref: {}}, "t"))[ref]["lead_intel"] == newer


class TestHubSpot:
    """The write-back to the sandbox; its journal, written by the sandbox alone, is the judge."""

    @pytest.fixture
    async def sandbox(self, tmp_path):
        async with Sandbox(tmp_path) as sandbox:
            yield sandbox

    @pytest.fixture
    async def account(self, sandbox):
        sandbox.controls.create_app(APP, "secret", "http://127.0.0.1:9/hub")
        sandbox.controls.set_manners(f"app:{APP}", paused=True)
        made = sandbox.controls.create_portal(123, APP, "token")
        return Account(
            id=made["account"], tenant="acme", crm="hubspot", name="", config={}, credentials={"access_token": "token"}
        )

    @pytest.fixture
    async def destination(self, sandbox, account, needs, settings):
        settings = settings.model_copy(update={"sandbox_url": sandbox.base})
        client = HubSpotClient(settings)
        await client.provision(account)
        destination = CrmDestination(replace(needs, settings=settings, accounts=FakeAccounts(account)), client)
        yield destination
        await destination.close()

    @staticmethod
    def _held(sandbox, account, one):
        properties = sandbox.controls.record(account.id, "contact", one)["properties"]
        return {name: value for name, value in properties.items() if name.startswith("hookline_")}

    async def test_of_two_claims_on_a_record_neither_is_taken_at_its_word(self, engine):
        """INVARIANT: two sinks that wrote at once leave the record to be asked; otherwise an old text stays for ever."""
        state, ref, version = CrmState(engine, "hubspot"), insight().ref, Version(1, 7, 1)
        rows = [(ref, "lead_intel", Row(version, NOON, {})), (ref, RECORD, Row(version, NOON, {}))]
        await state.take_up({ref: {"lead_intel": version}}, "one")
        await state.take_up({ref: {"lead_intel": version}}, "other")
        assert await state.done(rows, "one") == {ref}
        await state.doubt({ref})
        assert await state.done(rows, "other") == {ref}
        assert (await state.take_up({ref: {}}, "t"))[ref][RECORD].pending
        newer = Version(1, 8, 1)
        await state.take_up({ref: {"lead_intel": newer}}, "third")
        assert await state.done([(ref, RECORD, Row(newer, NOON, {}))], "third") == set()
        assert not (await state.take_up({ref: {}}, "t"))[ref][RECORD].pending

    async def test_three_analyses_are_one_row_of_one_call(self, sandbox, account, destination):
        ids = sandbox.controls.records(account.id, "contact")[:5]
        given = [insight(payload, 1, record=one) for one in ids for payload in (lead(), requirements(), quality())]
        assert set(await destination.write(given)) == {Written()}
        held = self._held(sandbox, account, ids[0])
        assert held["hookline_score"] == "72"
        assert held["hookline_data_health"] == "80"
        assert "ERP" in held["hookline_requirements"]
        assert held["hookline_as_of"] == "2026-11-22T12:00:01.123Z"
        assert held["hookline_version"] == "1.1.1"
        sandbox.controls.state()
        assert len(Journal(sandbox.data).insight_writes()) == len(ids)

    async def test_nothing_is_written_twice_in_any_way(self, sandbox, account, destination, engine):
        """INVARIANT: effects happen once. If it fails, each restart rewrites records and starts webhooks at the CRM."""
        one = sandbox.controls.records(account.id, "contact")[0]
        given = [insight(lead(), 1, record=one), insight(quality(), 1, record=one)]
        await destination.write(given)
        assert await destination.write(given) == [Stale()] * 2
        # The process is killed after the CRM's answer and before its own note: as if the note had never been made.
        async with engine.begin() as connection:
            await connection.execute(
                text("DELETE FROM destination_state WHERE analysis <> :record"), {"record": RECORD}
            )
            await connection.execute(
                text(
                    "UPDATE destination_state SET pending = true, snapshot_offset = -1, written = '{}', as_of = to_timestamp(0)"
                )
            )
        assert await destination.write(given) == [Unchanged()] * 2
        assert await destination.write(given) == [Stale()] * 2
        sandbox.controls.state()
        result = Journal(sandbox.data).reconcile()
        assert len(Journal(sandbox.data).insight_writes()) == 1
        assert not result.duplicate_effects
        assert not result.backwards

    async def test_a_write_that_was_cut_short_is_finished(self, sandbox, account, destination, engine):
        one = sandbox.controls.records(account.id, "contact")[0]
        await destination.write([insight(lead(), 1, record=one)])
        async with engine.begin() as connection:
            await connection.execute(
                text("UPDATE destination_state SET pending = true WHERE analysis = :record"), {"record": RECORD}
            )
        assert await destination.write([insight(lead(90), 2, record=one)]) == [Written()]
        assert self._held(sandbox, account, one)["hookline_score"] == "90"

    async def test_as_of_never_goes_down(self, sandbox, account, destination):
        """INVARIANT: what the record says of its age holds for all analyses on it, whatever order they come in."""
        one = sandbox.controls.records(account.id, "contact")[0]
        seen = []
        for payload, offset in ((lead(), 5), (quality(), 3), (requirements(), 7), (quality(60), 6)):
            assert await destination.write([insight(payload, offset, record=one)]) == [Written()]
            seen.append(self._held(sandbox, account, one)["hookline_as_of"])
        assert seen == sorted(seen)
        assert self._held(sandbox, account, one)["hookline_version"] == "1.7.1"

    async def test_a_deleted_record_is_gone(self, sandbox, account, destination):
        one, other = sandbox.controls.records(account.id, "contact")[:2]
        sandbox.controls.delete(account.id, "contact", one)
        assert await destination.write([insight(lead(), 1, record=one), insight(lead(), 1, record=other)]) == [
            Gone(),
            Written(),
        ]

    async def test_fields_that_an_admin_deleted_are_made_again(self, sandbox, account, destination, settings):
        one = sandbox.controls.records(account.id, "contact")[0]
        portals = destination._client._portals
        for name in ("hookline_score", "hookline_grade"):
            await portals.call(account, "DELETE", f"/crm/v3/properties/contacts/{name}")
        assert await destination.write([insight(lead(), 1, record=one)]) == [Written()]
        assert self._held(sandbox, account, one)["hookline_score"] == "72"


async def test_the_whole_role_writes_from_kafka_to_postgres_and_the_crm(settings, kafka_url, tmp_path):
    """One published insight ends up in Postgres and on the record; a redelivery by a second role adds nothing."""
    from infra.kafka.broker import Publisher
    from infra.kafka.codec import Codec
    from infra.kafka.topics import migrate_topics
    from infra.role import Parts
    from schemas.topics import INSIGHTS
    from sinks.app import build_app

    tenant = f"t{uuid.uuid4().hex[:10]}"
    portal = int(uuid.uuid4().hex[:8], 16) + 1
    await asyncio.to_thread(migrate, settings)
    async with Sandbox(tmp_path) as sandbox:
        settings = settings.model_copy(update={"sandbox_url": sandbox.base})
        await migrate_topics(settings)
        sandbox.controls.create_app(APP, "secret", "http://127.0.0.1:9/hub")
        sandbox.controls.set_manners(f"app:{APP}", paused=True)
        sandbox.controls.create_portal(portal, APP, "token")
        one = sandbox.controls.records(f"hubspot:{portal}", "contact")[0]
        parts = Parts(settings)
        registry = Registry(parts.engine, parts.keyring)
        await registry.add_tenant(tenant)
        await registry.add_account(tenant, "hubspot", f"hubspot:{portal}", credentials={"access_token": "token"})
        role = build_app(settings, parts)
        await role.start()
        publisher = Publisher(settings, Codec(parts.keyring, "hookline/test"), client_id="test")
        await publisher.start()
        given = [
            insight(made, 1, record=one, tenant=tenant, account=f"hubspot:{portal}") for made in (lead(), quality())
        ]
        await publisher.publish(INSIGHTS, given)
        try:
            async with asyncio.timeout(60):
                while True:
                    held = sandbox.controls.record(f"hubspot:{portal}", "contact", one)["properties"]
                    rows = await _rows(parts.engine, "insights")
                    if (
                        len(rows) == 2
                        and held.get("hookline_score") == "72"
                        and held.get("hookline_data_health") == "80"
                    ):
                        break
                    await asyncio.sleep(0.02)
            assert {row["tenant"] for row in rows} == {tenant}
        finally:
            await publisher.stop()
            await role.drain(10)
        assert await role.wait() is None


async def test_a_destination_that_is_enabled_later_gets_every_newest_insight_from_the_beginning(
    settings, tenant, monkeypatch
):
    """INVARIANT: `crm.insights` keeps the newest of each, and a new group begins at its start. If it fails, whoever enables a
    destination waits for every record to change.
    """
    from infra.kafka.broker import Publisher
    from infra.kafka.codec import Codec
    from infra.role import Parts
    from schemas.topics import INSIGHTS
    from sinks.app import build_app

    class Later:
        """Keeps what Postgres keeps, and has a name, and so a group, that nobody had before."""

        name = f"later_{tenant}"

        def build(self, needs):
            made = PostgresDestination(needs)
            made.name = self.name
            return made

    plugins = {"postgres": PLUGIN, Later.name: Later()}
    monkeypatch.setattr("sinks.app.load", lambda _package, _protocol, names: {name: plugins[name] for name in names})
    parts = Parts(settings)
    publisher = Publisher(settings, Codec(parts.keyring, "hookline/test"), client_id="test")
    given = [
        insight(make(version), version, record=str(record), tenant=tenant, account="hubspot:9")
        for version in (1, 2, 3)
        for record in range(12)
        for make in (lead, lambda _: quality())
    ]

    async def filled(destination, wanted):
        """Run the role for this destination alone until Postgres holds that many newest insights; what it holds then."""
        role = build_app(settings.model_copy(update={"destinations": [destination]}), parts)
        await role.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    rows = [row for row in await _rows(parts.engine, "insights") if row["snapshot_offset"] == 3]
                    if len(rows) == wanted:
                        break
                    await asyncio.sleep(0.05)
        finally:
            await role.drain(10)
        return [{name: value for name, value in row.items() if name != "written_at"} for row in rows]

    await parts.start()
    await publisher.start()
    try:
        await publisher.publish(INSIGHTS, given)
        there = await filled("postgres", 24)
        async with parts.engine.begin() as connection:
            await connection.execute(text("TRUNCATE insights, insight_history"))
        assert await filled(Later.name, 24) == there
        assert {row["score"] for row in there if row["analysis"] == "lead_intel"} == {3}
    finally:
        await publisher.stop()
        await parts.stop()
