"""Dead letters on real servers: indexed, shown, redriven to where they failed.

That their effects come once, however often: `test_redriven_twice.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from console.dead_letters.filter import Filter
from console.dead_letters.index import Index
from console.dead_letters.redrive import KEY_GONE, Redrive
from console.reading import Selection, read_range, reader
from infra.database.engine import build_engine
from infra.database.tables import dead_letters as table
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.letters import attempt_of, is_redriven
from infra.kafka.raw import RawMessage
from infra.keyring import Keyring
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import RecordRef
from schemas.topics import BY_NAME, CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS
from tests.sinks.making import insight

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
TRACE = "00-" + "c" * 32 + "-" + "d" * 16 + "-01"


class House:
    """A tenant's letters and the means to look at what becomes of them."""

    def __init__(self, settings, tenant) -> None:
        self.settings = settings
        self.tenant = tenant
        self.account = f"hubspot:{secrets.randbelow(10**9)}"
        self.engine = build_engine(settings)
        self.keyring = Keyring(self.engine, settings.master_keys)
        self.codec = Codec(self.keyring, "hookline/test")
        self.publisher = Publisher(settings, self.codec)
        self.index = Index(settings, self.engine, self.codec)

    async def __aenter__(self):
        await self.publisher.start()
        return self

    async def __aexit__(self, *_):
        await self.publisher.stop()
        await self.engine.dispose()

    def change(self, number=1, **changes):
        return Change.model_validate(
            {
                "tenant": self.tenant, "account": self.account, "object": "deal", "id": str(number), "kind": "updated",
                "occurred_at": NOW, **changes,
            }
        )  # fmt: skip

    def delivery(self, number=1, body=b'[{"eventId": 1}]', at=None):
        return Delivery(
            request_id=f"r{number}-{self.tenant}", tenant=self.tenant, endpoint="e", source="hubspot",
            received_at=at or datetime.now(UTC), body=body,
        )  # fmt: skip

    async def letter(self, topic, payload, *, stage, cause, keep_value=True, **more):
        """Have `payload` fail at `stage`, as a role would; the letter's id."""
        (sealed,) = await self.codec.seal(topic, [payload])
        raw = RawMessage(topic.name, 0, 10**12, sealed.key, sealed.value if keep_value else None, sealed.headers)
        more = {"account": getattr(payload, "account", None), "detail": "why", **more}
        await self.publisher.dead_letter(raw, stage=stage, cause=cause, tenant=self.tenant, **more)
        await self.index.catch_up()
        return (await self.index.entries(Filter(tenant=self.tenant), 1))[0].id

    async def redrive(self, *letters, **more):
        work = Redrive(self.settings, self.engine, self.keyring, self.index, self.publisher, "tester")
        return await work.run(letters, rate=10_000, **more)

    async def on(self, topic):
        """The tenant's messages there."""
        return [
            message
            async for message in read_range(self.settings, self.codec, topic, selection=Selection(tenant=self.tenant))
        ]


@pytest.fixture
async def house(settings, tenant):
    async with House(settings, tenant) as made:
        yield made


async def test_a_delivery_goes_back_to_its_topic_as_it_was(house):
    letter = await house.letter(DELIVERIES, house.delivery(), stage="translator", cause=Cause.FOREIGN_ACCOUNT)
    done = await house.redrive(letter)
    (found,) = await house.on(DELIVERIES)
    assert done.by_topic == {"crm.deliveries": 1}
    assert found.payload == house.delivery(at=found.payload.received_at)
    assert (is_redriven(found.raw), attempt_of(found.raw)) == (True, 2)
    assert abs(found.timestamp_ms / 1000 - datetime.now(UTC).timestamp()) < 60


async def test_a_change_goes_to_the_bulk_lane_with_its_own_reason(house):
    given = house.change(kind="deleted", properties=("amount",))
    letter = await house.letter(CHANGES, given, stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    await house.redrive(letter)
    assert [found.payload for found in await house.on(CHANGES_BULK)] == [given]
    assert await house.on(CHANGES) == []


async def test_a_snapshot_is_never_published_again_its_record_is_read_anew(house):
    """INVARIANT: an old snapshot must not become the last one of its compacted topic; else the past overwrites the present."""
    snapshot = BY_NAME[RECORDS.name].payload.model_validate(
        {
            "tenant": house.tenant, "account": house.account, "object": "deal", "id": "7", "crm": "hubspot",
            "modified_at": NOW, "read_at": NOW,
        }
    )  # fmt: skip
    letter = await house.letter(RECORDS, snapshot, stage="analyst", cause=Cause.MODEL_OUTPUT_INVALID)
    await house.redrive(letter)
    (found,) = await house.on(CHANGES_BULK)
    assert (found.payload.ref, found.payload.reason, found.payload.kind) == (snapshot.ref, "redrive", "updated")
    assert await house.on(RECORDS) == []


async def test_an_insight_goes_to_the_destination_that_refused_it_alone(house):
    given = insight().model_copy(update={"tenant": house.tenant, "account": house.account})
    letter = await house.letter(INSIGHTS, given, stage="sink:hubspot", cause=Cause.CRM_REFUSED_WRITE)
    await house.redrive(letter)
    (found,) = await house.on(INSIGHTS_REDRIVEN)
    assert found.payload == given
    assert dict(found.raw.headers)["hl_destination"] == b"hubspot"
    assert await house.on(INSIGHTS) == []


async def test_a_letter_is_open_until_it_is_redriven_and_what_is_asked_twice_is_sent_once(house):
    letter = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    first, second = await house.redrive(letter), await house.redrive(letter)
    assert (first.redriven, second.redriven, second.elsewhere) == (1, 0, 1)
    assert len(await house.on(CHANGES_BULK)) == 1
    assert await house.index.ids(Filter(tenant=house.tenant)) == []
    entry = await house.index.entry(letter)
    assert (entry.state, entry.handled_by, entry.redrives) == ("redriven", "tester", 1)
    again = await house.redrive(letter, repeat=True)
    assert (again.redriven, (await house.index.entry(letter)).redrives) == (1, 2)


async def test_two_operators_at_once_send_each_letter_once(house):
    letters = [
        await house.letter(CHANGES, house.change(number), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
        for number in range(6)
    ]
    both = await asyncio.gather(house.redrive(*letters), house.redrive(*letters))
    assert sum(done.redriven for done in both) == 6
    assert sorted(found.payload.id for found in await house.on(CHANGES_BULK)) == list("012345")


async def test_a_crash_after_publishing_leaves_the_letter_open(house, monkeypatch):
    """INVARIANT: marked only after the ack. Else a letter could be lost by a crash in between."""
    letter = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)

    async def crash(*_):
        raise ConnectionError

    monkeypatch.setattr(house.index, "redriven", crash)
    with pytest.raises(ConnectionError):
        await house.redrive(letter)
    assert await house.index.ids(Filter(tenant=house.tenant)) == [letter]
    monkeypatch.undo()
    assert (await house.redrive(letter)).redriven == 1


async def test_stopping_ends_after_the_page_under_way_and_says_how_far_it_came(house):
    letters = [
        await house.letter(CHANGES, house.change(number), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
        for number in range(3)
    ]
    stop = asyncio.Event()
    work = Redrive(house.settings, house.engine, house.keyring, house.index, house.publisher, "tester")
    done = await work.run(letters, rate=1.0, stop=stop, progress=lambda _: stop.set())
    assert (done.redriven, done.looked_at) == (1, 1)
    assert await house.index.ids(Filter(tenant=house.tenant)) == letters[1:]


async def test_what_nobody_can_read_any_more_stays_open_and_says_why(house):
    old = datetime.now(UTC) - timedelta(hours=80)
    expired = await house.letter(DELIVERIES, house.delivery(at=old), stage="translator", cause=Cause.UNPARSABLE)
    erased = await house.letter(RECORDS, _snapshot(house, "9"), stage="analyst", cause=Cause.MODEL_REFUSED)
    await house.keyring.destroy_records([RecordRef(house.tenant, house.account, "deal", "9")])
    lost = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.HANDLER_BUG, keep_value=False)
    house.keyring = Keyring(house.engine, house.settings.master_keys)  # another process, which remembers no key
    done = await house.redrive(expired, erased, lost)
    assert done.redriven == 0
    assert done.left[KEY_GONE] == 2
    assert sum(done.left.values()) == 3
    assert len(await house.index.ids(Filter(tenant=house.tenant))) == 3


def _snapshot(house, number):
    return BY_NAME[RECORDS.name].payload.model_validate(
        {
            "tenant": house.tenant, "account": house.account, "object": "deal", "id": number, "crm": "hubspot",
            "modified_at": NOW, "read_at": NOW,
        }
    )  # fmt: skip


async def test_bytes_that_were_too_large_to_keep_are_read_at_their_own_place(house):
    ((partition, offset),) = await house.publisher.publish(CHANGES, [house.change(5)])
    (found,) = [each for each in await house.on(CHANGES) if each.offset == offset]
    raw = RawMessage(CHANGES.name, partition, offset, found.raw.key, None, found.raw.headers)
    await house.publisher.dead_letter(raw, stage="hydrator", cause=Cause.HANDLER_BUG, detail="", tenant=house.tenant)
    await house.index.catch_up()
    (letter,) = await house.index.ids(Filter(tenant=house.tenant))
    assert (await house.redrive(letter)).redriven == 1
    assert [each.payload for each in await house.on(CHANGES_BULK)] == [house.change(5)]


async def test_what_fails_again_is_a_new_letter_with_the_next_attempt(house):
    letter = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    await house.redrive(letter)
    (found,) = await house.on(CHANGES_BULK)
    await house.publisher.dead_letter(
        found.raw, stage="hydrator", cause=Cause.CRM_REFUSED_READ, detail="still", tenant=house.tenant
    )
    await house.index.catch_up()
    (entry,) = await house.index.entries(Filter(tenant=house.tenant), 5)
    assert (entry.attempt, entry.detail) == (2, "still")
    assert entry.id != letter


async def test_filters_never_reach_another_tenants_letters(house, settings, tenant):
    mine = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    async with House(settings, f"{tenant}x") as other:
        other.account = house.account
        theirs = await other.letter(CHANGES, other.change(), stage="analyst", cause=Cause.MODEL_REFUSED)
    index = house.index
    assert await index.ids(Filter(tenant=house.tenant)) == [mine]
    assert await index.ids(Filter(tenant=house.tenant, cause="MODEL_REFUSED")) == []
    assert await index.ids(Filter(account=house.account, kind="poison")) == [theirs]
    assert await index.ids(Filter(account=house.account, stage="hydrator")) == [mine]
    assert await index.ids(Filter(account=house.account, until=datetime(2026, 1, 1, tzinfo=UTC))) == []
    assert set(await index.ids(Filter(account=house.account, object="", record=""))) == {mine, theirs}


async def test_the_index_is_made_again_from_the_topic(house):
    letter = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    async with house.engine.begin() as connection:
        await connection.execute(sa.delete(table))
    await asyncio.gather(house.index.catch_up(), Index(house.settings, house.engine, house.codec).catch_up())
    assert await house.index.ids(Filter(tenant=house.tenant)) == [letter]


async def test_an_index_that_is_ahead_of_its_topic_starts_anew(house):
    letter = await house.letter(CHANGES, house.change(), stage="hydrator", cause=Cause.CRM_REFUSED_READ)
    async with house.engine.begin() as connection:
        row = (await connection.execute(sa.select(table).where(table.c.tenant == house.tenant))).mappings().one()
        await connection.execute(sa.insert(table).values({**row, "letter_offset": 10**12, "tenant": "of-before"}))
    await house.index.catch_up()
    assert await house.index.ids(Filter(tenant="of-before")) == []
    assert await house.index.ids(Filter(tenant=house.tenant)) == [letter]


async def test_letters_are_read_from_wherever_they_lie(house):
    made = {
        await house.letter(CHANGES, house.change(number), stage="hydrator", cause=Cause.CRM_REFUSED_READ): str(number)
        for number in range(3)
    }
    async with reader(house.settings) as consumer:
        found = await house.index.letters(consumer, made)
    assert {letter: found[letter].payload.original_key.decode()[-1] for letter in made} == made
