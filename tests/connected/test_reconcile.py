"""Changes that no webhook told, on both CRMs' sandbox: the reconciler finds them, the hydrator reads and counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from console.accounts_reconcile import comparisons, recently_missed, told
from infra.accounts import Account
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.local.sandbox.server import Sandbox
from infra.role import Parts
from infra.settings import Settings
from ingress.reconcile import judging
from ingress.reconcile.app import build_app
from ingress.reconcile.reconciler import Pace, Reconciler
from ingress.reconcile.since import OBJECTS
from ingress.reconcile.store import LostError, Reconciliations
from processors.app import build_hydrator
from schemas.change import Change
from schemas.topics import CHANGES, CHANGES_BULK, RECORDS
from tests.connected.test_hydrator import Listener

pytestmark = pytest.mark.connected

NOWHERE = "http://127.0.0.1:9/nobody"
HUBSPOT, SALESFORCE = "hubspot:33", "salesforce:00D5g000004XyzAEAS"
AT_ONCE = Pace(every=timedelta(0), grace=timedelta(0), overlap=timedelta(hours=1))
"""Everything of the last hour, each time: what is known must be told from what is not by what it is, not by when it was."""


@dataclass
class House:
    """A sandbox whose webhooks reach nobody, a running hydrator, and a reconciler that is told when."""

    settings: Settings
    tenant: str
    sandbox: Sandbox
    account: Account
    fed: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = Parts(self.settings)
        codec = Codec(self.parts.keyring, "hookline/test")
        self.publisher = Publisher(self.settings, codec, client_id="test")
        self.records = Listener(self.settings, codec, RECORDS, self.tenant)
        self.hydrator = build_hydrator(self.settings, self.parts)
        self.client = connect(self.settings)[self.account.crm]
        self.controls = self.sandbox.controls
        self.store = Reconciliations(self.parts.engine)

    async def publish(self, changes: Any) -> None:
        self.fed += changes
        await self.publisher.publish(CHANGES_BULK, changes)

    async def reconcile(self) -> list[Change]:
        """What it announced."""
        before = len(self.fed)
        assert await Reconciler(self.store, self.publish, AT_ONCE).reconcile(self.account, self.client) is not None
        return self.fed[before:]

    async def told(self, *refs: tuple[str, str]) -> None:
        """As a webhook would: live, and wait for the snapshots."""
        now = datetime.now(UTC)
        given = {"tenant": self.tenant, "account": self.account.id, "kind": "updated", "occurred_at": now}
        await self.publisher.publish(
            CHANGES, [Change.model_validate({**given, "object": kind, "id": one}) for kind, one in refs]
        )
        await self.records.until(lambda found: set(refs) <= {(each.object, each.id) for each in found})

    async def compared(self) -> list[dict[str, Any]]:
        return await comparisons(self.parts.engine, self.account.id)

    async def missed(self) -> int:
        async with self.parts.engine.connect() as connection:
            return int(await connection.scalar(text("SELECT coalesce(sum(missed), 0) FROM reconciliations")) or 0)

    async def settled(self, **more: int) -> None:
        """Until the hydrator has nothing of ours left to read: everything listed is known."""
        async with asyncio.timeout(20):
            while await self.reconcile():  # noqa: ASYNC110 - a table sets no event
                await asyncio.sleep(0.1)
            while await self.missed() != more.get("missed", 0):  # noqa: ASYNC110 - a table sets no event
                await asyncio.sleep(0.05)


@pytest.fixture(params=["hubspot", "salesforce"])
async def house(
    request: pytest.FixtureRequest,
    settings: Settings,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[House]:
    # The sandbox and the database have one clock here, and nobody waits until half a minute has gone by.
    monkeypatch.setattr(judging, "CLOCKS_APART", timedelta(0))
    sandbox = Sandbox(tmp_path)
    url = await sandbox.start()
    controls = sandbox.controls
    config: dict[str, Any]
    if request.param == "hubspot":
        controls.create_app(111, "secret", NOWHERE, signature_version="v3")
        controls.set_manners("app:111", paused=True)
        controls.create_portal(33, 111, "token", size=20)
        number, config = HUBSPOT, {"app_id": "111"}
    else:
        controls.create_org(SALESFORCE.partition(":")[2], "token", NOWHERE, size=20)
        controls.set_manners(f"org:{SALESFORCE}", paused=True)
        number, config = SALESFORCE, {"instance_url": "https://acme.my.salesforce.com"}
    account = Account(number, tenant, request.param, "", config, {"access_token": "token"})
    made = House(
        settings.model_copy(update={"sandbox_url": url, "coalesce_window_seconds": 0.0}), tenant, sandbox, account
    )
    await made.parts.start()
    await made.parts.registry.add_tenant(tenant)
    await made.parts.registry.add_account(tenant, request.param, number, "", config, {"access_token": "token"})
    await made.parts.directory.refresh()
    await made.publisher.start()
    await asyncio.gather(made.records.pump.start(), made.hydrator.start())
    await made.client.provision(account)
    # The seeds are as old as the hour that is compared: known from the start, as after a backfill.
    everything = [(kind, one) for kind in sorted(made.client.own_objects) for one in _records(made, kind)]
    await made.told(*everything)
    yield made
    await made.client.close()
    await made.hydrator.drain(5)
    await made.records.pump.drain(5)
    await made.publisher.stop()
    await made.parts.stop()
    await sandbox.stop()


def _records(house: House, kind: str) -> list[str]:
    return list(house.controls.records(house.account.id, kind))


def _edit(house: House, kind: str, one: str, number: int = 0) -> None:
    field = {
        "hubspot": {"contact": "jobtitle", "deal": "dealname", "company": "city"},
        "salesforce": {"contact": "Title", "deal": "Name", "company": "BillingCity"},
    }[house.account.crm][kind]
    house.controls.save(house.account.id, kind, one, {field: f"New {number}"})


async def test_our_own_writes_are_not_missed_and_are_looked_at_once(house: House) -> None:
    await house.settled()
    snapshots = len(house.records.found)
    some = _records(house, "contact")
    await house.client.write(house.account, "contact", {one: {"score": "77", "grade": "B"} for one in some})
    assert {each.id for each in await house.reconcile()} == set(some), "who wrote it, no list says: contents decide"
    await house.settled(missed=0)
    assert len(house.records.found) == snapshots, "and no snapshot comes of it"


async def test_edits_that_no_webhook_told_are_found_read_and_counted_each_once(house: House) -> None:
    await house.settled()
    contact, other, *_ = _records(house, "contact")
    deal, *_ = _records(house, "deal")
    company, *_ = _records(house, "company")
    # A write of ours right after a person's edit hides who edited last, and must not hide the edit.
    _edit(house, "contact", contact)
    await house.client.write(house.account, "contact", {one: {"score": "50"} for one in (contact, other)})
    _edit(house, "deal", deal)
    _edit(house, "company", company)
    before = len(house.records.found)
    fed = await house.reconcile()
    assert {(each.object, each.id) for each in fed} >= {("contact", contact), ("deal", deal), ("company", company)}
    assert {each.reason for each in fed} == {"reconcile"}
    owed = {("contact", contact), ("deal", deal), ("company", company)}
    found = await house.records.until(
        lambda found: owed <= {(each.object, each.id) for each in found[before:] if each.reason == "reconcile"}
    )
    # A contact that shows its company's fields may differ, too; one that only we wrote to does not.
    assert all(each.changed for each in found[before:]), "what did not differ is not told"
    assert {each.changed for each in found[before:] if (each.object, each.id) not in owed} <= {("related",)}
    assert {each.lane for each in found[before:]} == {"bulk"}
    async with asyncio.timeout(10):
        while await house.missed() != len(found[before:]):  # noqa: ASYNC110 - a table sets no event
            await asyncio.sleep(0.02)


async def test_creations_deletions_merges_and_notes_that_nobody_told_are_found(house: House) -> None:
    await house.settled()
    hubspot = house.account.crm == "hubspot"
    kept, loser, deleted, *_ = _records(house, "contact")
    deal, *_ = _records(house, "deal")
    new = house.controls.create_record(
        house.account.id, "company", {"name": "Newcomer"} if hubspot else {"Name": "Newcomer"}
    )["id"]
    house.controls.merge(house.account.id, "contact", kept, [loser])
    house.controls.note(house.account.id, deal, "They need it by March.")
    if not hubspot:  # HubSpot's search does not know what was deleted
        house.controls.delete(house.account.id, "contact", deleted)
    gone = {loser} if hubspot else {loser, deleted}
    await house.reconcile()
    found = await house.records.until(
        lambda found: (
            gone <= {each.id for each in found if each.deleted}
            and any(each.id == new for each in found)
            and any(each.id == deal and "March" in " ".join(note.text for note in each.notes) for each in found)
        )
    )
    (into,) = {each.merged_into for each in found if each.id == loser and each.deleted}
    assert into == kept, "it tells into which it went"
    again = await house.reconcile()
    assert loser not in {each.id for each in again}


async def test_the_role_compares_every_account_by_itself_and_two_replicas_share_them(house: House) -> None:
    settings = house.settings.model_copy(
        update={"reconcile_every_seconds": 0.2, "reconcile_grace_seconds": 0.0, "reconcile_overlap_seconds": 60.0}
    )
    roles = [build_app(settings, house.parts), build_app(settings, Parts(settings))]
    for role in roles:
        role._look_seconds = 0.1
    await asyncio.gather(*(role.start() for role in roles))
    try:
        deal, *_ = _records(house, "deal")
        before = len(house.records.found)
        _edit(house, "deal", deal, 9)
        await house.records.until(lambda found: any(each.id == deal and each.changed for each in found[before:]))
        async with asyncio.timeout(20):
            while {row["object"] for row in await house.compared() if row["ended_at"]} != set(OBJECTS):  # noqa: ASYNC110 - a table sets no event
                await asyncio.sleep(0.05)
    finally:
        for role in roles:
            await role.drain(5)
    assert {row["object"]: row["waiting"] for row in await house.compared()} == dict.fromkeys(OBJECTS, "")


async def test_locks_of_many_accounts_take_one_connection(settings: Settings) -> None:
    """INVARIANT: who compares accounts starves nobody of the database. If this fails, five accounts stop every role for 30 s."""
    engine, another = build_engine(settings.model_copy(update={"database_pool": 2})), build_engine(settings)
    store, other = Reconciliations(engine), Reconciliations(another)
    try:
        async with asyncio.timeout(10), AsyncExitStack() as stack:
            names = [f"hubspot:{number}" for number in range(8)]
            assert all([await stack.enter_async_context(store.owning(name)) for name in names])
            async with engine.connect() as connection:
                assert await connection.scalar(text("select 1")) == 1
            async with other.owning(names[0]) as theirs:
                assert not theirs
        async with other.owning(names[0]) as theirs:
            assert theirs
    finally:
        await engine.dispose()
        await another.dispose()


async def test_a_position_belongs_to_whom_it_was_given_and_a_lock_to_one(house: House) -> None:
    store, account = house.store, house.account
    minute = timedelta(minutes=1)
    async with store.owning(account.id) as mine, store.owning(account.id) as theirs:
        assert (mine, theirs) == (True, False)
    async with store.owning(account.id) as again:
        assert again
    one = await store.begin(account, "deal", first=5 * minute, grace=minute)
    assert await store.begin(account, "deal", first=5 * minute, grace=minute) == one
    assert one.until is not None
    ahead = await store.advance(one, "5", compared=3, fed=1)
    with pytest.raises(LostError):
        await store.advance(one, "4", compared=3, fed=1)
    await store.finish(ahead, minute)
    with pytest.raises(LostError):
        await store.finish(ahead, minute)
    async with house.parts.engine.connect() as connection:
        (place,) = (await connection.execute(text('SELECT since, "until", "position" FROM reconciliations'))).all()
    assert tuple(place) == (one.until - minute, None, None)
    (row,) = await house.compared()
    assert (row["compared"], row["fed"], row["waiting"]) == (3, 1, "")
    assert await store.due([account.id, "hubspot:99"], minute) == ["hubspot:99"]
    assert await store.due([account.id], timedelta(0)) == [account.id]


async def test_an_admin_sees_what_was_missed(house: House) -> None:
    engine, account = house.parts.engine, house.account
    assert "not compared yet" in told(await comparisons(engine, account.id))[0]
    await house.settled()
    assert await recently_missed(engine) == {}
    deal, *_ = _records(house, "deal")
    _edit(house, "deal", deal, 5)
    await house.reconcile()
    async with asyncio.timeout(10):
        while not await house.missed():  # noqa: ASYNC110 - a table sets no event
            await asyncio.sleep(0.05)
    assert await recently_missed(engine, account.id) == {account.id: 1}
    lines = told(await comparisons(engine, account.id))
    assert lines[0].startswith("compared up to")
    assert lines[1].startswith("1 changes that no webhook told, the last found")
    await house.store.wait(account.id, "deal", "FORBIDDEN")
    assert told(await comparisons(engine, account.id))[-1] == "deal waits: FORBIDDEN"
