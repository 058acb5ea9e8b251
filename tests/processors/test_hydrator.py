"""The hydrator: what becomes of a change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from infra.accounts import JUST_CONNECTED_SECONDS
from infra.crm.client import AccountUnavailable, CrmUnavailable, Refused
from infra.unavailable import Unavailable
from processors.hydrator import Hydrator
from processors.set_aside_emitter import trigger
from processors.state import Standing
from schemas.dead_letter import Cause
from schemas.record import Note, RecordRef, RecordSnapshot
from schemas.topics import CHANGES, CHANGES_BULK, RECORDS
from tests.processors.world import (
    START,
    Crash,
    Directory,
    FakeCrm,
    Log,
    MemoryHydratorState,
    MemorySetAside,
    World,
    account,
    at,
    change,
    fingerprint,
    read,
    ref,
)

SALES = ref("006A", "deal", "salesforce:00D")


@dataclass
class Stage:
    """A hydrator and all that surrounds it."""

    world: World = field(default_factory=World)
    hubspot: FakeCrm = field(default_factory=FakeCrm)
    salesforce: FakeCrm = field(default_factory=lambda: FakeCrm(name="salesforce", own_prefix="Hookline_"))

    def __post_init__(self) -> None:
        self.log = Log(self.world)
        self.state = MemoryHydratorState(self.world)
        self.aside = MemorySetAside(self.world)
        self.directory = Directory(
            {one.id: one for one in (account(), account("hubspot:2"), account("salesforce:00D"))}
        )
        self.seconds = 1000.0
        self.hydrator = self.made()

    def made(self) -> Hydrator:
        return Hydrator(
            codec=self.log,
            publisher=self.log,
            state=self.state,
            clients={"hubspot": self.hubspot, "salesforce": self.salesforce},
            accounts=self.directory,
            set_aside=self.aside,
            fingerprint=fingerprint,
            disconnect=self.directory.disconnect,
            monotonic=lambda: self.seconds,
        )

    async def see(self, *changes, topic=CHANGES, trace="") -> list[RecordSnapshot]:
        """What is published because of these changes, in one batch."""
        before = len(self.snapshots)
        await self.hydrator.handle(topic, self.log.put(topic, *changes, trace=trace))
        return self.snapshots[before:]

    @property
    def snapshots(self) -> list[RecordSnapshot]:
        return self.log.of(RECORDS)

    @property
    def causes(self) -> list[Cause]:
        return [cause for cause, _, _ in self.log.letters]

    @property
    def asides(self) -> dict[RecordRef, str]:
        return {record: row.cause for (record, _), row in self.aside.rows.items()}

    @property
    def due(self) -> dict[RecordRef, float | None]:
        return {record: row.retry_after for (record, _), row in self.aside.rows.items()}


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_burst_of_changes_of_one_record_is_one_read_and_one_snapshot(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO", city="Oslo"))
    (found,) = await stage.see(
        change(when=1, properties=("jobtitle",)),
        change(when=1, properties=("city",)),
        change(when=0, kind="created", properties=()),
    )
    assert stage.hubspot.calls == [("hubspot:1", "contact", ("7",))]
    assert found.fields == {"jobtitle": "CFO", "city": "Oslo"}
    assert (found.modified_at, found.changed, found.deleted) == (at(1), (), False)


async def test_records_of_one_account_and_object_are_read_in_one_call(stage):
    for number in range(5):
        stage.hubspot.save(ref(str(number)), read(city="Oslo"))
    await stage.see(*(change(ref(str(number))) for number in range(5)))
    assert [len(ids) for _, _, ids in stage.hubspot.calls] == [5]
    assert len(stage.snapshots) == 5


async def test_a_change_that_changed_nothing_is_not_published(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    assert await stage.see(change(when=1)) == []


async def test_our_own_fields_and_volatile_ones_are_neither_news_nor_in_the_snapshot(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO", hookline_score="5", lastmodifieddate="1"))
    (found,) = await stage.see(change(when=1))
    assert found.fields == {"jobtitle": "CFO"}
    stage.hubspot.save(ref(), read(2, jobtitle="CFO", hookline_score="90", lastmodifieddate="2", num_notes="3"))
    assert await stage.see(change(when=1, properties=("num_notes",))) == []


async def test_a_volatile_field_that_means_something_stays_readable_but_is_no_news(stage):
    state = replace(read(1, notes_last_contacted="2026"), concepts={"last_contacted_at": "notes_last_contacted"})
    stage.hubspot.save(ref(), state)
    (found,) = await stage.see(change(when=1))
    assert found.value("last_contacted_at") == "2026"
    stage.hubspot.save(ref(), replace(state, fields={"notes_last_contacted": "2027"}, modified_at=at(2)))
    assert await stage.see(change(when=2, properties=("notes_last_contacted",))) == []


async def test_the_echo_of_our_own_write_in_salesforce_is_no_news(stage):
    """INVARIANT: an outbound message about our own write ends here; else each write would cause the next one, for ever."""
    stage.salesforce.user = "005US"
    stage.salesforce.save(SALES, read(1, Amount="5"))
    await stage.see(change(SALES, 1, properties=(), edited_by="005PERSON"))
    stage.salesforce.save(SALES, read(2, Amount="5", Hookline_Score__c="80"))
    assert await stage.see(change(SALES, 2, properties=(), edited_by="005US")) == []


async def test_a_person_who_edited_between_our_writes_is_heard(stage):
    stage.salesforce.user = "005US"
    stage.salesforce.save(SALES, read(1, Amount="5"))
    await stage.see(change(SALES, 1, properties=(), edited_by="005PERSON"))
    stage.salesforce.save(SALES, read(3, Amount="6"))
    (found,) = await stage.see(change(SALES, 3, properties=(), edited_by="005US"))
    assert (found.fields["Amount"], found.changed) == ("6", ("Amount",))


@pytest.mark.parametrize(
    ("record", "news"),
    [(ref(), {"properties": ("jobtitle",)}), (SALES, {"properties": (), "edited_by": "005PERSON"})],
    ids=["hubspot", "salesforce"],
)
async def test_a_value_set_and_set_back_is_news_although_nothing_differs(stage, record, news):
    """INVARIANT: what people see says how new it is. A last edit that no snapshot follows would look unnoticed for ever."""
    crm = stage.hubspot if record.account.startswith("hubspot") else stage.salesforce
    stage.salesforce.user = "005US"
    crm.save(record, read(1, jobtitle="CFO"))
    await stage.see(change(record, 1, **news))
    crm.save(record, read(9, jobtitle="CFO"))
    (found,) = await stage.see(change(record, 8, **news), change(record, 9, **news))
    assert (found.modified_at, found.changed) == (at(9), ())
    assert await stage.see(change(record, 9, **news)) == [], "a repeated delivery is no news"


async def test_a_late_repeat_of_a_known_edit_after_our_own_write_is_no_news(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.save(ref(), read(5, jobtitle="CFO"))  # we wrote
    assert await stage.see(change(when=1)) == []


async def test_any_stronger_reason_passes_although_nothing_changed(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    for reason in ("backfill", "redrive", "set_aside", "replay", "fenced"):
        (found,) = await stage.see(change(when=1), change(when=1, reason=reason))
        assert found.reason == reason


async def test_since_says_when_a_value_came_and_stays_while_the_value_does(stage):
    stage.hubspot.save(ref(), read(5, jobtitle="CFO", city="Oslo"))
    (first,) = await stage.see(change(when=3, properties=("jobtitle",)))
    assert first.since_when("jobtitle") == at(3), "the CRM said when"
    assert first.since_when("city") == at(5), "nobody said when: the record's last change is the best there is"
    stage.hubspot.save(ref(), read(20, jobtitle="CFO", city="Bergen"))
    (second,) = await stage.see(change(when=19, properties=("city",)))
    assert (second.since_when("jobtitle"), second.since_when("city")) == (at(3), at(19))
    assert second.changed == ("city",)


async def test_a_cleared_field_is_named_as_changed(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO", city="Oslo"))
    await stage.see(change(when=1))
    stage.hubspot.save(ref(), read(2, jobtitle="CFO"))
    (found,) = await stage.see(change(when=2, properties=("city",)))
    assert found.changed == ("city",)


async def test_a_note_is_looked_up_and_its_deal_is_triggered_in_the_same_lane(stage):
    stage.hubspot.hangs_on["hubspot:1", "note", "55"] = [("deal", "9"), ("other", "1")]
    await stage.see(
        change(ref("55", "note"), 4, kind="created", properties=(), reason="backfill"),
        topic=CHANGES_BULK,
        trace="00-a-b-01",
    )
    (_, (parent, trace)) = stage.log.topics[CHANGES_BULK.name]
    assert (parent.ref, parent.properties, parent.reason) == (ref("9", "deal"), ("notes",), "backfill")
    assert (parent.occurred_at, trace) == (at(4), "00-a-b-01")
    assert stage.snapshots == []


async def test_a_new_note_on_a_deal_is_news(stage):
    deal = ref("9", "deal")
    stage.hubspot.save(deal, read(1, amount="5"))
    await stage.see(change(deal, 1, properties=("amount",)))
    note = Note(id="55", kind="note", at=at(2), text="They need SSO.")
    stage.hubspot.save(deal, read(2, amount="5", notes=[note]))
    (found,) = await stage.see(change(deal, 2, kind="associated", properties=("notes",)))
    assert (found.notes, found.changed) == ((note,), ("notes",))


async def test_a_deleted_record_is_said_to_be_gone_once(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.delete(ref())
    (found,) = await stage.see(change(when=2, kind="deleted", properties=()))
    assert found.deleted
    assert not found.fields
    assert await stage.see(change(when=2, kind="deleted", properties=())) == []
    assert await stage.see(change(when=1.5)) == [], "an edit from before the deletion, come late"
    assert stage.causes == []


async def test_a_change_of_a_record_that_is_gone_unannounced_is_a_dead_letter_and_a_retraction(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.delete(ref())
    (found,) = await stage.see(change(when=500))
    assert found.deleted
    assert stage.causes == [Cause.RECORD_GONE]


async def test_erasure_is_believed_without_reading_the_person_again(stage):
    stage.hubspot.save(ref(), read(1, email="ann@example.com"))
    (found,) = await stage.see(change(when=1, kind="erased", properties=()))
    assert found.deleted
    assert stage.hubspot.calls == []


async def test_a_restored_record_is_published_again(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.delete(ref())
    await stage.see(change(when=2, kind="deleted", properties=()))
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    (found,) = await stage.see(
        change(when=3, kind="restored", properties=()), change(when=2, kind="deleted", properties=())
    )
    assert not found.deleted


async def test_a_deletion_that_the_crm_does_not_show_yet_is_looked_at_again(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1, kind="deleted", properties=()))
    assert stage.asides == {ref(): "DELETION_UNSEEN"}
    stage.world.step(3600)
    (found,) = await stage.see(change(when=1, kind="deleted", properties=()))
    assert not found.deleted, "an hour later the CRM is right: somebody restored it"


async def test_an_edit_after_the_deletion_says_that_the_record_lives(stage):
    stage.hubspot.save(ref(), read(3, jobtitle="CFO"))
    (found,) = await stage.see(change(when=2, kind="deleted", properties=()), change(when=3))
    assert not found.deleted
    assert stage.asides == {}


@pytest.mark.parametrize("reason", ["backfill", "reconcile"])
async def test_an_edit_that_was_taken_back_is_heard_although_a_sweep_comes_with_it(stage, reason):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.save(ref(), read(5, jobtitle="CFO"))
    swept = await stage.see(change(when=6, reason=reason, properties=()))
    # Our own write moved the record's time: a sweep alone is no news, and a reconciliation publishes nothing then.
    assert [found.reason for found in swept] == (["backfill"] if reason == "backfill" else [])
    stage.hubspot.save(ref(), read(9, jobtitle="CFO"))
    (found,) = await stage.see(change(when=9), change(when=10, reason=reason, properties=()))
    assert found.reason == "webhook"


async def test_a_creation_that_the_crm_does_not_show_yet_is_looked_at_again(stage):
    assert await stage.see(change(when=0, kind="created", properties=())) == []
    assert stage.asides == {ref(): "CREATION_UNSEEN"}
    assert stage.causes == []


async def test_an_answer_older_than_the_last_one_is_not_published(stage):
    """INVARIANT: a replica that lags never takes the record back to what it was."""
    stage.hubspot.save(ref(), read(10, jobtitle="CEO"))
    await stage.see(change(when=10))
    stage.hubspot.save(ref(), read(5, jobtitle="CFO"))
    assert await stage.see(change(when=11)) == []
    assert stage.asides == {ref(): "READ_LAGGED"}


async def test_an_answer_from_before_the_change_goes_on_and_is_read_again_shortly(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    (found,) = await stage.see(change(when=30))
    assert found.modified_at == at(1)
    assert stage.asides == {ref(): "READ_LAGGED"}


async def test_a_refused_read_is_a_dead_letter_and_the_others_go_on(stage):
    stage.hubspot.save(ref("1"), Refused("MISSING_SCOPES"))
    stage.hubspot.save(ref("2"), read(city="Oslo"))
    (found,) = await stage.see(change(ref("1")), change(ref("2")))
    assert found.id == "2"
    assert stage.log.letters == [(Cause.CRM_REFUSED_READ, "MISSING_SCOPES", "1")]


async def test_one_account_without_access_holds_up_nobody_else(stage):
    other = ref("8", account="hubspot:2")
    stage.hubspot.save(other, read(city="Oslo"))
    stage.hubspot.raises["hubspot:1"] = AccountUnavailable("hubspot:1", "TOKEN_REVOKED", "uninstalled")
    (found,) = await stage.see(change(), change(other))
    assert found.id == "8"
    assert stage.asides == {ref(): "TOKEN_REVOKED"}
    assert stage.due == {ref(): JUST_CONNECTED_SECONDS}
    assert stage.directory.accounts["hubspot:1"].state == "disconnected"


async def test_an_account_connected_this_moment_is_not_disconnected_by_its_old_credentials(stage):
    """INVARIANT: a call that began with the token before must not undo what the admin has just done."""
    stage.directory.just_connected.add("hubspot:1")
    stage.hubspot.raises["hubspot:1"] = AccountUnavailable("hubspot:1", "TOKEN_REVOKED", "uninstalled")
    await stage.see(change())
    assert stage.directory.accounts["hubspot:1"].state == "active"
    assert stage.asides == {ref(): "TOKEN_REVOKED"}


async def test_a_disconnected_account_is_not_called_and_loses_nothing(stage):
    await stage.directory.disconnect("hubspot:1", "uninstalled")
    await stage.see(change())
    assert stage.hubspot.calls == []
    assert stage.asides == {ref(): "TOKEN_REVOKED"}
    assert stage.due == {ref(): JUST_CONNECTED_SECONDS}, "it may have been connected since we looked"


async def test_a_spent_quota_is_waited_for_as_long_as_the_crm_says(stage):
    stage.hubspot.raises["hubspot:1"] = AccountUnavailable("hubspot:1", "QUOTA_SPENT", retry_after=900)
    await stage.see(change())
    assert stage.aside.rows[ref(), "hydrator"].retry_after == 900
    assert stage.directory.accounts["hubspot:1"].state == "active"


async def test_a_crm_that_is_away_for_all_pauses_and_writes_nothing(stage):
    stage.hubspot.raises["hubspot:1"] = stage.hubspot.raises["hubspot:2"] = CrmUnavailable(
        "hubspot", "502", retry_after=7
    )
    stage.log.unreadable.add(0)
    with pytest.raises(Unavailable) as caught:
        await stage.see(change(ref("0")), change(), change(ref(account="hubspot:2")))
    assert caught.value.retry_after == 7
    assert (stage.aside.rows, stage.log.letters) == ({}, []), (
        "the batch comes again: what it writes now it would write twice"
    )


async def test_a_crm_that_is_away_for_one_account_costs_only_its_records(stage):
    other = ref("8", account="hubspot:2")
    stage.hubspot.save(other, read(city="Oslo"))
    stage.hubspot.raises["hubspot:1"] = CrmUnavailable("hubspot", "502")
    assert len(await stage.see(change(), change(other))) == 1
    assert stage.asides == {ref(): "CRM_UNAVAILABLE"}
    await stage.see(change(ref("9")))
    assert stage.asides[ref("9")] == "CRM_UNAVAILABLE", "another account answered a moment ago"
    stage.seconds += 60
    with pytest.raises(Unavailable):
        await stage.see(change(ref("10")))


@pytest.mark.parametrize(
    "record", [ref(account="hubspot:99"), ref(tenant="globex")], ids=["unknown", "another tenant's"]
)
async def test_a_record_of_an_account_that_is_not_the_tenants_is_never_read(stage, record):
    await stage.see(change(record))
    assert stage.causes == [Cause.FOREIGN_ACCOUNT]
    assert stage.hubspot.calls == []


async def test_what_cannot_be_opened_is_a_dead_letter_and_the_others_go_on(stage):
    stage.hubspot.save(ref("2"), read(city="Oslo"))
    stage.log.unreadable.add(0)
    assert len(await stage.see(change(ref("1")), change(ref("2")))) == 1
    assert stage.log.letters == [(Cause.UNDECRYPTABLE, "its data key was destroyed or has expired", "1")]


async def test_a_bug_in_an_adapter_reaches_the_pump(stage):
    stage.hubspot.raises["hubspot:1"] = KeyError("results")
    with pytest.raises(KeyError):
        await stage.see(change())


async def test_an_owner_who_read_earlier_and_published_later_triggers_the_record_again(stage):
    """INVARIANT: after a takeover the last snapshot is the freshest. Else a stale one would stand until the next edit."""
    zombie = stage.made()
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))

    async def overtake() -> None:
        stage.hubspot.on_read = None
        stage.hubspot.save(ref(), read(2, jobtitle="CEO"))
        await stage.see(change(when=2))

    stage.hubspot.on_read = overtake
    await zombie.handle(CHANGES, stage.log.put(CHANGES, change(when=1)))
    assert [each.fields["jobtitle"] for each in stage.snapshots] == ["CEO", "CFO"], "the stale one came last"
    fenced = stage.log.of(CHANGES)[-1]
    assert (fenced.ref, fenced.reason) == (ref(), "fenced")
    (again,) = await stage.see(fenced)
    assert again.fields["jobtitle"] == "CEO"


async def test_two_lanes_that_keep_their_state_in_the_other_order_are_noticed(stage):
    """Both published, the earlier read last; the one that kept its state second must notice, although its own was later."""
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    clock, _ = await stage.state.load([])

    async def keep_the_others() -> None:
        stage.state.rows[ref()] = Standing(b"c", "{}", deleted=False, modified_at=at(0), read_at=clock)

    stage.hubspot.on_read = keep_the_others
    await stage.see(change(when=1))
    assert stage.log.of(CHANGES)[-1].reason == "fenced"


async def test_a_crash_between_publishing_and_keeping_repeats_the_snapshot_and_no_more(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    raws = stage.log.put(CHANGES, change(when=1))
    stage.world.crash_at = 1
    with pytest.raises(Crash):
        await stage.hydrator.handle(CHANGES, raws)
    await stage.made().handle(CHANGES, raws)
    await stage.made().handle(CHANGES, raws)
    assert [each.fields for each in stage.snapshots] == [{"jobtitle": "CFO"}] * 2


async def test_kafka_away_is_everybodys_trouble(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    raws = stage.log.put(CHANGES, change(when=1))
    stage.log.away = True
    with pytest.raises(Unavailable):
        await stage.hydrator.handle(CHANGES, raws)
    assert stage.state.rows == {}


async def test_who_edited_is_a_person_never_ourselves(stage):
    stage.salesforce.user = "005US"
    stage.salesforce.save(SALES, replace(read(1, Amount="5"), edited_by="005US", owner="005OWNER"))
    (found,) = await stage.see(change(SALES, 1, properties=(), edited_by="005US"))
    assert (found.edited_by, found.owner) == (None, "005OWNER")
    stage.salesforce.save(SALES, replace(read(2, Amount="6"), edited_by="005US"))
    (found,) = await stage.see(change(SALES, 2, properties=(), edited_by="005PERSON"), change(SALES, 1, properties=()))
    assert found.edited_by == "005PERSON"


async def test_the_state_holds_no_value_in_the_clear_and_equal_values_look_different(stage):
    for number in ("1", "2"):
        stage.hubspot.save(ref(number), read(1, email="ann@example.com"))
    await stage.see(change(ref("1")), change(ref("2")))
    one, two = (stage.state.rows[ref(number)] for number in ("1", "2"))
    assert "ann@example.com" not in one.marks
    assert (one.marks, one.content) != (two.marks, two.content)


async def test_half_a_character_from_the_crm_stops_nothing(stage):
    """JSON may carry lone surrogates, which no UTF-8 can hold; CRMs cut texts in the middle of an emoji."""
    whole = Note(id="1", kind="note", at=at(0), text="x")
    note = whole.model_copy(update={"text": "cut \ud83d"})
    stage.hubspot.save(ref(), read(1, jobtitle="CFO \ud83d", notes=[note]))
    (found,) = await stage.see(change(when=1))
    assert found.fields["jobtitle"].startswith("CFO \N{REPLACEMENT CHARACTER}")
    assert found.notes[0].text.startswith("cut \N{REPLACEMENT CHARACTER}")
    assert await stage.see(change(when=1)) == []


async def test_read_at_is_the_databases_time_from_before_the_read(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    before = stage.world.now

    async def slow() -> None:
        stage.world.step(5)

    stage.hubspot.on_read = slow
    (found,) = await stage.see(change(when=1))
    assert before <= found.read_at < stage.world.now - timedelta(seconds=4)
    assert stage.state.rows[ref()].read_at == found.read_at, "to the millisecond, as both are compared"
    assert found.read_at >= START


def test_a_row_that_was_set_aside_becomes_the_trigger_that_its_cause_asks_for():
    from infra.set_aside import Due

    def of(cause: str):
        made = trigger(Due(ref(), "hydrator", cause, 1, at(0), at(1)))
        return made.kind, made.reason

    assert of("TOKEN_REVOKED") == ("updated", "set_aside")
    assert of("QUOTA_SPENT") == ("updated", "set_aside")
    assert of("READ_LAGGED") == ("updated", "webhook"), "or every lag would publish twice"
    assert of("DELETION_UNSEEN") == ("deleted", "reconcile"), "or a deletion that is known already would swallow it"
    assert of("CREATION_UNSEEN") == ("created", "webhook")


async def test_an_account_that_was_registered_this_moment_is_looked_up_before_it_is_called_foreign(stage):
    new = ref("8", account="hubspot:2")
    stage.hubspot.save(new, read(city="Oslo"))
    stage.directory.registered_since["hubspot:2"] = stage.directory.accounts.pop("hubspot:2")
    assert len(await stage.see(change(new))) == 1
    assert stage.causes == []


class Counted:
    """Missed."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], int] = {}

    async def note(self, found) -> None:
        self.found.update(found)


def reconciled(when: float, **more):
    return change(when=when, properties=(), reason="reconcile", **more)


@pytest.fixture
def counted(stage) -> Counted:
    found = Counted()
    stage.hydrator._missed = found
    return found


async def test_a_change_that_no_webhook_told_is_published_and_counted_as_missed(stage, counted):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.save(ref(), read(400, jobtitle="CEO"))
    (found,) = await stage.see(reconciled(400), topic=CHANGES_BULK)
    assert (found.fields["jobtitle"], found.reason, found.lane) == ("CEO", "reconcile", "bulk")
    assert counted.found == {("hubspot:1", "contact"): 1}


async def test_our_own_write_is_nothing_that_was_missed_and_is_not_listed_twice(stage, counted):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.hubspot.save(ref(), read(400, jobtitle="CFO", hookline_score="80", hs_lastmodifieddate="400"))
    before = stage.state.rows[ref()]
    assert await stage.see(reconciled(400), topic=CHANGES_BULK) == []
    after = stage.state.rows[ref()]
    assert counted.found == {}
    assert after.read_at > before.read_at
    assert replace(after, read_at=before.read_at) == before, "what was published is what counts, as before"


async def test_what_a_webhook_told_in_the_same_batch_was_not_missed(stage, counted):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1), reconciled(1), topic=CHANGES_BULK)
    assert counted.found == {}


async def test_a_creation_and_a_deletion_that_nobody_told_were_missed_and_a_known_deletion_was_not(stage, counted):
    stage.hubspot.save(ref("1"), read(1, jobtitle="CFO"))
    (created,) = await stage.see(change(ref("1"), when=1, properties=(), reason="reconcile"), topic=CHANGES_BULK)
    assert (created.id, counted.found) == ("1", {("hubspot:1", "contact"): 1})
    counted.found.clear()
    stage.hubspot.delete(ref("1"))
    gone = change(ref("1"), when=500, kind="deleted", properties=(), reason="reconcile")
    (told,) = await stage.see(gone, topic=CHANGES_BULK)
    assert told.deleted
    assert counted.found == {("hubspot:1", "contact"): 1}
    counted.found.clear()
    assert await stage.see(gone, topic=CHANGES_BULK) == []
    assert counted.found == {}
    assert stage.causes == []


async def test_that_a_record_was_looked_at_takes_nothing_back_of_what_another_kept_meanwhile(stage, counted):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    other = replace(stage.state.rows[ref()], content=b"another", read_at=at(0.9))
    load = stage.state.load

    async def loads_and_another_keeps(refs):
        found = await load(refs)
        stage.state.rows[ref()] = other
        return found

    stage.state.load = loads_and_another_keeps
    await stage.see(reconciled(400), topic=CHANGES_BULK)
    assert stage.state.rows[ref()] == other


async def test_a_reps_feedback_is_news_once_and_is_carried_by_the_snapshot(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    said = {"feedback": "down", "feedback_note": "she left"}
    stage.hubspot.save(ref(), replace(read(5, jobtitle="CFO"), feedback=said))
    names = ("hookline_feedback", "hookline_feedback_note")
    (found,) = await stage.see(*(change(when=5, properties=(name,)) for name in names))
    assert (found.feedback, found.changed, found.fields) == (said, ("feedback",), {"jobtitle": "CFO"})
    # The write-back that came of it moves the record's time and changes nothing.
    stage.hubspot.save(ref(), replace(read(9, jobtitle="CFO"), feedback=said))
    assert await stage.see(change(when=9, properties=())) == []


async def test_feedback_that_the_crm_does_not_show_yet_is_read_again(stage):
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    await stage.see(change(when=1))
    stage.world.now = at(60)
    await stage.see(change(when=60, properties=("hookline_feedback",)))
    assert stage.asides == {ref(): "READ_LAGGED"}
