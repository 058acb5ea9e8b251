"""Deliveries become changes: nothing dropped that matters, nothing twice that need not."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.kafka.codec import Codec
from infra.kafka.raw import RawMessage
from infra.unavailable import Unavailable
from ingress.seen import mark_key
from ingress.translator import Translator
from schemas.dead_letter import Cause
from schemas.topics import DELIVERIES
from tests.ingress.fakes import (
    NOW,
    PORTAL,
    FakeDirectory,
    FakeMarks,
    FakeNotes,
    FakePublisher,
    FakeRates,
    FakeTimes,
    delivery,
    endpoint,
    keyring,
    raw_of,
    sources,
)

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def event(number=1, **changes):
    return {
        "eventId": number, "subscriptionId": 2, "portalId": 145883449, "occurredAt": 1751276050977, "attemptNumber": 0,
        "subscriptionType": "contact.propertyChange", "objectId": number, "propertyName": "jobtitle", **changes,
    }  # fmt: skip


class Desk:
    """A translator with everything behind it."""

    def __init__(self, *endpoints) -> None:
        self.ring = keyring()
        self.codec = Codec(self.ring, "hookline/test")
        self.out, self.marks, self.times = FakePublisher(), FakeMarks(), FakeTimes()
        self.rates, self.hot = FakeRates(), FakeNotes()
        self.directory = FakeDirectory({found.id: found for found in (endpoints or (endpoint(),))})
        self.translator = Translator(
            opener=self.codec,
            out=self.out,
            known=self.directory,
            sources=sources(),
            marks=self.marks,
            rates=self.rates,
            hot=self.hot,
            times=self.times,
            epoch=1,
        )

    async def raw(self, *events, offset=0, **changes):
        return await raw_of(
            self.codec, delivery(json.dumps(events).encode(), **changes), offset=offset, traceparent=TRACE
        )

    async def handle(self, *raws):
        await self.translator.handle(raws)

    @property
    def ids(self):
        return [change.id for _, change in self.out.changes]

    @property
    def causes(self):
        return [(letter["cause"], letter["account"]) for letter in self.out.letters]


async def test_events_of_one_record_become_one_change_and_the_trace_goes_on():
    desk = Desk()
    await desk.handle(await desk.raw(event(1), event(2, objectId=1, propertyName="phone"), event(3)))
    (first, second) = [change for _, change in desk.out.changes]
    assert (first.tenant, first.account, first.object, first.id, first.properties) == (
        "acme",
        PORTAL,
        "contact",
        "1",
        ("jobtitle", "phone"),
    )
    assert second.id == "3"
    assert first.delivery == "r1"
    assert [trace.split("-")[1] for trace in desk.out.traceparents] == ["a" * 32] * 2
    assert desk.times.noted == {PORTAL: NOW}


async def test_a_whole_batch_costs_one_look_at_redis_and_one_publication():
    desk = Desk()
    await desk.handle(
        *[await desk.raw(event(number), offset=number, request_id=f"r{number}") for number in range(1, 30)]
    )
    assert desk.marks.look_ups == 1
    assert desk.out.log == ["changes"]


async def test_a_retry_of_the_sender_is_dropped():
    desk = Desk()
    await desk.handle(await desk.raw(event(1), offset=1))
    await desk.handle(await desk.raw(event(1, attemptNumber=3), event(2), offset=2))
    assert desk.ids == ["1", "2"]


async def test_duplicates_within_one_batch_and_one_delivery_are_dropped():
    desk = Desk()
    await desk.handle(await desk.raw(event(1), event(1), offset=1), await desk.raw(event(1), offset=2))
    assert desk.ids == ["1"]


async def test_the_same_offset_always_passes_again():
    """INVARIANT: a crash between publishing and committing repeats, and never drops.

    If this fails, every event of a batch that was published but not committed is lost when the commit's fate is unclear.
    """
    desk = Desk()
    raw = await desk.raw(event(1), offset=7)
    await desk.handle(raw)
    await desk.handle(raw)
    assert desk.ids == ["1", "1"]


async def test_the_same_offset_passes_again_behind_a_repetition_in_its_batch():
    desk = Desk()
    marked, repeated = await desk.raw(event(1), offset=7), await desk.raw(event(1, attemptNumber=1), offset=8)
    await desk.handle(marked)
    await desk.handle(repeated, marked)
    assert desk.ids == ["1", "1"]


async def test_marks_are_set_only_after_the_acknowledgement():
    """INVARIANT: a mark means that the change is with the broker. If this fails, an event is dropped that nobody published."""
    desk = Desk()
    desk.out.away = 1
    with pytest.raises(Unavailable):
        await desk.handle(await desk.raw(event(1), offset=1))
    assert desk.marks.marks == {}
    await desk.handle(await desk.raw(event(1), offset=2))
    assert desk.ids == ["1"]
    assert set(desk.marks.marks.values()) == {"1/0/2"}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12))
async def test_whatever_crashes_every_event_is_published(steps):
    """INVARIANT: with crashes before and after publishing, each event is published at least once before its offset is done."""
    desk = Desk()
    for offset, (number, crash) in enumerate(steps):
        raw = await desk.raw(event(number), offset=offset)
        if crash:
            desk.out.away = 1
            try:
                await desk.handle(raw)
            except Unavailable:
                assert desk.out.away == 0
            desk.out.away = 0
        await desk.handle(raw)
        assert str(number) in desk.ids
    assert len(desk.ids) == len({number for number, _ in steps})


async def test_redis_away_pauses_instead_of_dropping_or_repeating():
    desk = Desk()
    desk.marks.away = True
    with pytest.raises(Unavailable) as caught:
        await desk.handle(await desk.raw(event(1)))
    assert caught.value.part == "redis"
    assert desk.ids == []


async def test_an_account_that_the_endpoint_may_not_speak_for_is_a_dead_letter():
    """INVARIANT: an endpoint speaks for its own accounts alone. If this fails, one customer's app can trigger another's records."""
    desk = Desk()
    await desk.handle(await desk.raw(event(1), event(2, portalId=666), event(3, portalId=666)))
    assert desk.ids == ["1"]
    assert desk.causes == [(Cause.FOREIGN_ACCOUNT, "hubspot:666")]
    assert desk.out.letters[0]["detail"].startswith("event 1, 2:")


async def test_a_foreign_org_of_salesforce_is_a_dead_letter():
    from tests.ingress.dialects.test_salesforce import message, notification

    desk = Desk(endpoint("salesforce", accounts=frozenset({"salesforce:00D1I000003qqqEUAQ"})))
    for org, changes in (("00D1I000003qqqE", 1), ("00D1I000003qqqEUAQ", 2), ("00D1I000003qqqF", 2)):
        body = message(notification(identity=f"04l{org[-3:]}{changes}"), org=org)
        await desk.handle(await raw_of(desk.codec, delivery(body, "salesforce"), offset=changes))
        assert len(desk.ids) == changes
    assert [cause for cause, _ in desk.causes] == [Cause.FOREIGN_ACCOUNT]


async def test_an_account_added_a_moment_ago_is_not_called_foreign():
    desk = Desk(endpoint(accounts=frozenset()))
    desk.directory.later = {endpoint().id: endpoint()}
    await desk.handle(await desk.raw(event(1)))
    assert (desk.ids, desk.causes) == (["1"], [])


async def test_nor_is_one_that_somebody_else_learnt_of_between_the_two_looks(monkeypatch):
    """INVARIANT: what the directory knows when a delivery is laid aside is what counts. If it fails, a new account's first delivery
    is a dead letter, because the view was replaced in that very moment and a look for news found none."""
    desk = Desk(endpoint(accounts=frozenset()))

    async def refresh() -> bool:
        desk.directory.known = {endpoint().id: endpoint()}
        return False

    monkeypatch.setattr(desk.directory, "refresh", refresh)
    await desk.handle(await desk.raw(event(1)))
    assert (desk.ids, desk.causes) == (["1"], [])


async def test_nothing_is_called_foreign_while_the_registry_cannot_be_asked():
    desk = Desk(endpoint(accounts=frozenset()))
    desk.directory.away = True
    with pytest.raises(Unavailable) as caught:
        await desk.handle(await desk.raw(event(1)))
    assert caught.value.part == "postgres"
    assert desk.out.letters == []


async def test_a_delivery_of_an_endpoint_that_was_removed_is_a_dead_letter():
    desk = Desk()
    desk.directory.known.clear()
    await desk.handle(await desk.raw(event(1)))
    assert [cause for cause, _ in desk.causes] == [Cause.FOREIGN_ACCOUNT]


async def test_an_endpoint_that_changed_hands_does_not_speak_for_its_old_tenant():
    desk = Desk(endpoint(tenant="other"))
    await desk.handle(await desk.raw(event(1)))
    assert (desk.ids, desk.causes) == ([], [(Cause.FOREIGN_ACCOUNT, None)])


async def test_one_bad_event_is_laid_aside_and_its_neighbours_go_on():
    desk = Desk()
    await desk.handle(await desk.raw(event(1), event(2, objectId="x"), event(3, objectId="y"), event(4)))
    assert desk.ids == ["1", "4"]
    assert desk.causes == [(Cause.MALFORMED_BODY, PORTAL)]
    assert desk.out.letters[0]["detail"] == "endpoint Xq3vZ7…, event 1, 2: objectId is not a positive whole number"


async def test_a_body_that_cannot_be_read_stops_nobody():
    desk = Desk()
    bad = await raw_of(desk.codec, delivery(b"[" * 5_000), offset=1)
    await desk.handle(bad, await desk.raw(event(1), offset=2))
    assert (desk.ids, desk.causes) == (["1"], [(Cause.MALFORMED_BODY, PORTAL)])


async def test_a_body_that_cannot_be_read_is_its_endpoints_and_no_accounts_where_that_has_several():
    desk = Desk(endpoint(accounts=frozenset({PORTAL, "hubspot:2"})))
    await desk.handle(await raw_of(desk.codec, delivery(b"not json")))
    assert desk.causes == [(Cause.MALFORMED_BODY, None)]
    (letter,) = desk.out.letters
    assert letter["detail"].startswith("endpoint Xq3vZ7…: not JSON")
    assert endpoint().id not in letter["detail"], "it may be all that authenticates the sender"


async def test_a_message_that_cannot_be_opened_is_a_dead_letter_of_its_tenant():
    desk = Desk()
    raw = await desk.raw(event(1))
    broken = RawMessage(DELIVERIES.name, 0, 3, raw.key, raw.value[:-1] + b"\0", raw.headers)
    await desk.handle(broken, await desk.raw(event(2), offset=4))
    assert desk.ids == ["2"]
    assert [(letter["cause"], letter["tenant"]) for letter in desk.out.letters] == [(Cause.UNDECRYPTABLE, "acme")]


async def test_imports_take_the_slow_lane():
    desk = Desk()
    await desk.handle(await desk.raw(event(1, changeSource="IMPORT"), event(2)))
    assert [(topic, change.id) for topic, change in desk.out.changes] == [
        ("crm.changes", "2"),
        ("crm.changes.bulk", "1"),
    ]


async def test_our_own_echoes_make_no_change_and_cost_no_look_at_redis():
    desk = Desk()
    await desk.handle(await desk.raw(event(1, propertyName="hookline_score"), event(1, propertyName="hookline_grade")))
    assert (desk.ids, desk.causes, desk.marks.look_ups) == ([], [], 0)


async def test_a_merge_passes_whole_although_its_changes_share_one_key():
    desk = Desk()
    merge = event(1, subscriptionType="contact.merge", primaryObjectId=1, mergedObjectIds=[2, 3])
    await desk.handle(await desk.raw(merge, offset=1))
    await desk.handle(await desk.raw(merge, offset=2))
    assert [(change.id, change.kind) for _, change in desk.out.changes] == [
        ("1", "merged"),
        ("2", "deleted"),
        ("3", "deleted"),
    ]


async def test_two_endpoints_of_one_tenant_do_not_hide_each_others_events():
    other = endpoint(id="another-endpoint-of-the-tenant")
    desk = Desk(endpoint(), other)
    await desk.handle(await desk.raw(event(1), offset=1))
    await desk.handle(await desk.raw(event(1), offset=2, endpoint=other.id))
    assert desk.ids == ["1", "1"]


async def test_times_are_noted_by_arrival():
    desk = Desk()
    await desk.handle(await desk.raw(event(1), received_at=NOW + timedelta(hours=1)))
    assert desk.times.noted == {PORTAL: NOW + timedelta(hours=1)}


def test_a_mark_tells_nothing_of_its_event():
    key = mark_key("acme", "endpoint", "jane@example.com")
    assert "jane" not in key
    assert "acme" not in key
    assert key != mark_key("acme", "endpoint2", "jane@example.com")


async def test_what_is_over_the_tenants_rate_takes_the_bulk_lane_and_is_said_to_be_hot():
    desk = Desk()
    desk.rates.left = {"acme": 2}
    await desk.handle(await desk.raw(*[event(number) for number in range(1, 6)]))
    assert [(topic, change.id) for topic, change in desk.out.changes] == [
        ("crm.changes", "1"), ("crm.changes", "2"), ("crm.changes.bulk", "3"), ("crm.changes.bulk", "4"), ("crm.changes.bulk", "5"),
    ]  # fmt: skip
    assert desk.hot.over == {"acme": 3}
    assert len(desk.hot.changes) == 5


async def test_a_whole_batch_asks_for_its_lanes_once_and_an_import_asks_for_none():
    desk = Desk()
    await desk.handle(
        await desk.raw(event(1), event(2, objectId=1, propertyName="phone"), offset=1),
        await desk.raw(event(3), event(4, changeSource="IMPORT"), offset=2, request_id="r2"),
    )
    assert desk.rates.asked == [{"acme": 2}]
    assert [topic for topic, _ in desk.out.changes].count("crm.changes.bulk") == 1
