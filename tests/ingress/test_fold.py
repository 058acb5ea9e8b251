"""Several events of one record in one delivery become one change."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ingress.fold import fold
from ingress.sources.source import Event
from tests.ingress.fakes import NOW, PORTAL, delivery


def event(kind="updated", record="1", seconds=0, **more):
    return Event(
        account=PORTAL,
        key="k",
        position=0,
        object="contact",
        id=record,
        kind=kind,
        occurred_at=NOW + timedelta(seconds=seconds),
        **more,
    )


def kind(*events):
    ((change, _),) = fold(delivery(b""), events)
    return change.kind


def test_properties_and_merged_records_are_united_and_the_latest_time_and_author_stay():
    ((change, bulk),) = fold(delivery(b""), [
        event(seconds=5, properties=("b",), edited_by="userId:2"), event(seconds=1, properties=("a", "b"), edited_by="userId:1"), event(seconds=9),
    ])  # fmt: skip
    assert change.properties == ("a", "b")
    assert change.occurred_at == NOW + timedelta(seconds=9)
    assert change.edited_by == "userId:2"
    assert (change.tenant, change.delivery, bulk) == ("acme", "r1", False)


def test_what_makes_or_ends_a_record_outweighs_an_edit():
    assert kind(event("created"), event("updated", seconds=1)) == "created"
    assert kind(event("deleted", seconds=1), event("updated", seconds=2)) == "deleted"
    assert kind(event("deleted"), event("restored", seconds=1)) == "restored"
    assert kind(event("restored"), event("deleted", seconds=1)) == "deleted"
    assert kind(event("associated"), event("updated")) == "updated"
    assert kind(event("associated")) == "associated"


def test_erasure_outweighs_everything_in_any_order():
    assert kind(event("erased"), event("deleted", seconds=1)) == "erased"
    assert kind(event("restored", seconds=2), event("erased", seconds=1)) == "erased"


def test_a_record_waits_only_if_all_its_events_may():
    assert [
        bulk for _, bulk in fold(delivery(b""), [event(bulk=True), event(record="2", bulk=True), event(record="2")])
    ] == [
        True,
        False,
    ]


@given(st.lists(st.builds(event, record=st.sampled_from("123"), kind=st.sampled_from(["updated", "created", "deleted", "associated"]),
                          seconds=st.integers(0, 9), properties=st.tuples(st.sampled_from("abc"))), max_size=20))  # fmt: skip
def test_nothing_is_lost(events):
    """INVARIANT: every record, property and latest moment of the events is in the changes."""
    changes = {change.id: change for change, _ in fold(delivery(b""), events)}
    assert set(changes) == {one.id for one in events}
    for record, change in changes.items():
        own = [one for one in events if one.id == record]
        assert set(change.properties) == {name for one in own for name in one.properties}
        assert change.occurred_at == max(one.occurred_at for one in own)
