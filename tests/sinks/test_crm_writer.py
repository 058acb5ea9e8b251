import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from infra.accounts import JUST_CONNECTED_SECONDS
from infra.crm.client import AccountUnavailable, Busy, CrmUnavailable
from infra.crm.client import Gone as CrmGone
from infra.crm.client import Refused as CrmRefused
from infra.unavailable import Unavailable
from schemas.dead_letter import Cause
from sinks.destinations.crm_state import RECORD, Row
from sinks.destinations.crm_writer import CrmDestination
from sinks.destinations.destination import Gone, Later, Needs, Refused, Stale, Unchanged, Written
from tests.sinks.making import (
    ACCOUNT,
    NOON,
    FakeAccounts,
    FakeCrm,
    MemoryState,
    fingerprint,
    insight,
    lead,
    quality,
    requirements,
)


@pytest.fixture
def world():
    crm, state, accounts, disconnected = FakeCrm(), MemoryState(), FakeAccounts(ACCOUNT), []

    async def disconnect(account, reason):
        disconnected.append(account)
        return True

    needs = Needs(
        settings=None, engine=None, accounts=accounts, fingerprint=fingerprint, touch=None, disconnect=disconnect
    )
    return SimpleNamespace(
        crm=crm, state=state, accounts=accounts, disconnected=disconnected, sink=CrmDestination(needs, crm, state=state)
    )


async def test_all_insights_of_a_record_are_one_row(world):
    given = [insight(payload, record=one) for one in ("1", "2") for payload in (lead(), quality(), requirements())]
    assert set(await world.sink.write(given)) == {Written()}
    assert [set(rows) for rows in world.crm.writes] == [{"1", "2"}]
    assert {"score", "data_health", "requirements", "as_of"} <= set(world.crm.writes[0]["1"])


async def test_a_redelivery_is_stale_and_asks_the_crm_nothing(world):
    await world.sink.write([insight()])
    assert await world.sink.write([insight()]) == [Stale()]
    assert len(world.crm.writes) == 1
    assert world.crm.asked == []


async def test_killed_between_the_answer_and_the_note_nothing_is_written_twice(world):
    """INVARIANT: the effect happens once even then. If it fails, every crash makes duplicate writes and webhooks."""
    world.state.lose_next_done = True
    with pytest.raises(ConnectionError):
        await world.sink.write([insight(), insight(quality())])
    assert await world.sink.write([insight(), insight(quality())]) == [Unchanged()] * 2
    assert len(world.crm.writes) == 1
    assert world.crm.asked == [["1"]]
    assert not world.state.rows[insight().ref][RECORD].pending
    assert await world.sink.write([insight(lead(90), 2)]) == [Written()]
    assert world.crm.asked == [["1"]], "once confirmed, the record is not asked again"


async def test_a_database_that_was_killed_and_forgot_the_note_makes_no_second_write(world):
    """INVARIANT: the note waits for no disk, so whoever has sent knows by itself. If it fails, a restarted database doubles writes."""
    world.state.lose_next_done = True
    with pytest.raises(ConnectionError):
        await world.sink.write([insight()])
    world.state.rows.clear()
    assert await world.sink.write([insight()]) == [Unchanged()]
    assert (len(world.crm.writes), world.crm.asked) == (1, [["1"]])
    world.state.rows.clear()
    assert await world.sink.write([insight()]) == [Written()], "once noted, it is nobody's memory but the database's"


async def test_what_was_sent_and_never_noted_is_remembered_of_so_many_records_only(world, monkeypatch):
    monkeypatch.setattr("sinks.destinations.crm_writer.MOST_UNCONFIRMED", 2)
    world.state.lose_next_done = True
    given = [insight(record=one) for one in ("1", "2", "3")]
    with pytest.raises(ConnectionError):
        await world.sink.write(given)
    world.state.rows.clear()
    await world.sink.write(given)
    assert sorted(map(sorted, world.crm.asked)) == [["2", "3"]]


async def test_a_write_that_never_arrived_is_done_again(world):
    world.crm.error = CrmUnavailable("hubspot", "ReadTimeoutError")
    with pytest.raises(Unavailable):
        await world.sink.write([insight()])
    world.crm.error = None
    world.crm.records["1"] = {}
    assert await world.sink.write([insight()]) == [Written()]
    assert world.crm.records["1"]["score"] == "72"


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_lost_answer_is_asked_for_and_what_arrived_is_not_sent_again(world, arrives):
    """INVARIANT: nothing is written twice. If this fails, reps see one change as two in the record's history."""
    world.crm.records |= {"1": {}, "2": {}}
    world.crm.lose, world.crm.arrives = 1, arrives
    given = [insight(lead(), record=one) for one in ("1", "2")]
    written = {type(one) for one in await world.sink.write(given)}
    assert [sorted(rows) for rows in world.crm.writes] == [["1", "2"]], "one write that arrived"
    assert sorted(map(sorted, world.crm.asked)) == [["1", "2"]]
    assert written == ({Unchanged} if arrives else {Written})
    assert await world.sink.write(given) == [Stale(), Stale()], "and it is noted"


async def test_answers_that_are_lost_again_and_again_pause_and_the_next_try_begins_with_asking(world):
    given = insight()
    world.crm.records[given.id] = {}
    world.crm.lose, world.crm.arrives = 3, False
    with pytest.raises(Unavailable):
        await world.sink.write([given])
    assert (world.crm.writes, len(world.crm.asked)) == ([], 2)
    assert await world.sink.write([given]) == [Written()]
    assert (len(world.crm.writes), len(world.crm.asked)) == (1, 3)


async def test_a_whole_crm_away_pauses(world):
    world.crm.error = CrmUnavailable("hubspot", "503", 7.0)
    with pytest.raises(Unavailable) as caught:
        await world.sink.write([insight()])
    assert (caught.value.part, caught.value.retry_after) == ("hubspot", 7.0)


async def test_a_revoked_token_sets_the_account_aside_and_disconnects_it(world):
    world.crm.error = AccountUnavailable("hubspot:123", "TOKEN_REVOKED")
    assert await world.sink.write([insight()]) == [Later("TOKEN_REVOKED", JUST_CONNECTED_SECONDS)]
    assert world.disconnected == ["hubspot:123"]


async def test_a_spent_quota_sets_aside_until_it_is_back(world):
    world.crm.error = AccountUnavailable("hubspot:123", "QUOTA_SPENT", retry_after=60.0)
    assert await world.sink.write([insight()]) == [Later("QUOTA_SPENT", 60.0)]
    assert world.disconnected == []


async def test_a_disconnected_account_waits(world):
    world.accounts.by_id["hubspot:123"] = replace(ACCOUNT, state="disconnected")
    assert await world.sink.write([insight()]) == [Later("DISCONNECTED", JUST_CONNECTED_SECONDS)]
    assert world.crm.writes == []


@pytest.mark.parametrize("more", [{"account": "hubspot:999"}, {"tenant": "other"}])
async def test_another_tenants_account_is_never_written(world, more):
    """INVARIANT: an insight goes to an account of its own tenant alone. If it fails, tenants write into each other's CRM."""
    (outcome,) = await world.sink.write([insight(**more)])
    assert isinstance(outcome, Refused)
    assert world.crm.writes == []


async def test_row_outcomes_are_kept_apart(world):
    world.crm.answers = {
        "1": CrmGone(),
        "2": Busy("LOCKED", 3.0),
        "3": CrmRefused("VALIDATION_ERROR", "RULE hookline_score"),
    }
    outcomes = await world.sink.write([insight(record=one) for one in "1234"])
    assert outcomes == [
        Gone(),
        Later("LOCKED", 3.0),
        Refused(Cause.CRM_REFUSED_WRITE, "VALIDATION_ERROR: RULE hookline_score"),
        Written(),
    ]


async def test_a_missing_field_is_provisioned_once_then_refused(world):
    world.crm.answers = {"1": CrmRefused("VALIDATION_ERROR", "", ("hookline_score",))}
    assert await world.sink.write([insight()]) == [Written()]
    assert world.crm.provisioned == 1
    world.crm.answers = {"1": CrmRefused("VALIDATION_ERROR", "", ("hookline_score",))}
    (outcome,) = await world.sink.write([insight(lead(1), 2)])
    assert isinstance(outcome, Refused)
    assert world.crm.provisioned == 1


async def test_a_newer_write_by_somebody_else_is_noticed(world):
    """A stalled process that comes back after another took over has it done again."""
    ref = insight().ref
    done = world.state.done

    async def overtaken(rows, claim):
        world.state.rows[ref][RECORD] = Row(insight(offset=9).version, NOON)
        return await done(rows, claim)

    world.state.done = overtaken
    assert await world.sink.write([insight()]) == [Later("OVERTAKEN")]


async def test_a_record_that_vanished_after_an_unconfirmed_write_is_gone(world):
    world.crm.error = CrmUnavailable("hubspot")
    with pytest.raises(Unavailable):
        await world.sink.write([insight()])
    world.crm.error = None
    assert await world.sink.write([insight()]) == [Gone()]


async def test_only_the_newest_of_a_batch_is_written(world):
    assert await world.sink.write([insight(lead(1), 3), insight(lead(2), 2)]) == [Written(), Stale()]
    assert world.crm.records["1"]["score"] == "1"


def test_only_its_own_crm_and_objects_are_accepted(world):
    assert world.sink.accepts(insight())
    assert not world.sink.accepts(insight(crm="salesforce"))
    assert not world.sink.accepts(insight(object="note"))


async def test_no_value_is_kept_in_the_state(world):
    """INVARIANT: what a destination remembers holds HMACs, never a customer's text."""
    await world.sink.write([insight()])
    assert "Decision" not in repr(world.state.rows)
    assert "72" not in {
        value for rows in world.state.rows.values() for row in rows.values() for value in row.written.values()
    }


async def test_one_accounts_trouble_is_its_own(world):
    world.accounts.by_id["hubspot:5"] = replace(ACCOUNT, id="hubspot:5", state="disconnected")
    outcomes = await asyncio.wait_for(world.sink.write([insight(account="hubspot:5"), insight()]), 5)
    assert outcomes == [Later("DISCONNECTED", JUST_CONNECTED_SECONDS), Written()]


async def test_an_older_analysis_leaves_no_mark_of_a_begun_write(world):
    await world.sink.write([insight(lead(), 9)])
    assert await world.sink.write([insight(quality(), 3)]) == [Written()]
    row = world.state.rows[insight().ref][RECORD]
    assert not row.pending
    assert row.version == insight(offset=9).version
    await world.sink.write([insight(lead(90), 10)])
    assert world.crm.asked == []


async def test_what_an_unconfirmed_write_left_is_known_whatever_comes_next(world):
    """INVARIANT: after a lost answer the messages may come again in other batches, one analysis at a time.

    If it breaks, what the record shows of the other analyses is believed to be what it was before: a text is written twice,
    or an old one stays for ever.
    """
    ref = insight().ref
    await world.sink.write([insight(lead(10), 1)])
    world.state.lose_next_done = True
    with pytest.raises(ConnectionError):
        await world.sink.write([insight(quality(50), 2), insight(lead(20), 3)])
    assert world.crm.records[ref.id]["score"] == "20"
    await world.sink.write([insight(quality(50), 2)])
    # What was said before the unconfirmed write is said again: its text differs from what the record shows.
    await world.sink.write([insight(lead(10), 4)])
    assert world.crm.records[ref.id]["score"] == "10"


async def test_two_sinks_that_hold_one_record_at_once_both_do_it_again(world):
    """INVARIANT: of two writes at once nobody knows which came last. If it breaks, an old text stays on the record for ever."""
    ref = insight().ref
    done = world.state.done

    async def taken_up_meanwhile(rows, claim):
        await world.state.take_up({ref: {"lead_intel": insight(offset=9).version}}, "another's")
        return await done(rows, claim)

    world.state.done = taken_up_meanwhile
    assert await world.sink.write([insight()]) == [Later("OVERTAKEN")]
    row = world.state.rows[ref][RECORD]
    assert row.pending, "whoever writes next asks the record"
    assert await done([(ref, RECORD, row)], "another's") == {ref}, "and the other one's write counts no more than ours"


async def test_a_process_that_stood_still_looks_again_before_it_writes(world, monkeypatch):
    """INVARIANT: whoever was stopped past its session writes nothing that others have overtaken."""
    monkeypatch.setattr("sinks.destinations.crm_writer.STANDSTILL_SECONDS", -1.0)
    with pytest.raises(Unavailable, match="stood still"):
        await world.sink.write([insight()])
    assert world.crm.writes == []


async def test_waiting_for_the_accounts_limit_is_no_standstill(world, monkeypatch):
    """INVARIANT: a busy account's records are written in the end. If it breaks, they are asked for again and again, and never sent."""
    monkeypatch.setattr("sinks.destinations.crm_writer.STANDSTILL_SECONDS", 0.8)
    monkeypatch.setattr("sinks.destinations.crm_writer.TICK_SECONDS", 0.05)
    world.state.lose_next_done = True
    with pytest.raises(ConnectionError):
        await world.sink.write([insight(lead(20), 1)])
    own_fields = world.crm.own_fields

    async def in_line(*given):
        await asyncio.sleep(1.0)
        return await own_fields(*given)

    async def stopped(*given):
        time.sleep(1.0)  # noqa: ASYNC251 - nothing of the process runs
        return await own_fields(*given)

    world.crm.own_fields = stopped
    with pytest.raises(Unavailable, match="stood still"):
        await world.sink.write([insight(lead(30), 2)])
    world.crm.own_fields = in_line
    assert await world.sink.write([insight(lead(30), 2)]) == [Written()]
