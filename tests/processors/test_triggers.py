"""Folding: several changes of one record are one trigger, and none is forgotten."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka.codec import Received
from infra.kafka.raw import RawMessage
from processors.triggers import Trigger, fold, stronger
from schemas.change import Change
from schemas.envelope import Envelope
from tests.processors.world import START, at, change, ref

REASONS = ("webhook", "reconcile", "backfill", "redrive", "set_aside", "replay", "fenced")


def received(payload: Change) -> Received[Change]:
    return Received(
        payload,
        Envelope("i", "t", "s", START, payload.tenant),
        "crm.changes",
        0,
        0,
        0,
        RawMessage("crm.changes", 0, 0, b"k", b"v"),
    )


def folded(*changes: Change) -> Trigger:
    (trigger,) = fold(received(each) for each in changes).values()
    return trigger


CHANGES = st.lists(
    st.builds(
        change,
        when=st.floats(0, 100).map(round),
        kind=st.sampled_from(("created", "updated", "deleted", "associated", "restored")),
        properties=st.sampled_from(((), ("a",), ("a", "b"), ("notes",))),
        edited_by=st.sampled_from((None, "u1", "u2")),
        reason=st.sampled_from(REASONS),
    ),
    min_size=1,
    max_size=6,
)


@given(CHANGES)
def test_the_order_of_arrival_does_not_matter(changes):
    one, two = folded(*changes), folded(*reversed(changes))
    for name in ("occurred_at", "reason", "deleted_at", "created_at", "named", "authors", "reshaped_at", "erased"):
        assert getattr(one, name) == getattr(two, name)


@given(CHANGES)
def test_the_latest_time_and_every_name_are_kept(changes):
    trigger = folded(*changes)
    assert trigger.occurred_at == max(each.occurred_at for each in changes)
    assert set(trigger.named) == {name for each in changes for name in each.properties}
    assert len(trigger.received) == len(changes)


def test_records_stay_apart():
    assert list(fold(received(change(ref(number))) for number in "1213")) == [ref("1"), ref("2"), ref("3")]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(REASONS, 2)))
def test_the_reason_that_lets_more_through_stays(one, other):
    assert stronger(one, other) == stronger(other, one) == other


def test_our_own_edits_and_those_of_nobody_known_are_no_news():
    ours = folded(change(when=5, properties=(), edited_by="us"), change(when=6, properties=()))
    assert ours.news_at("hookline_", "us") is None
    assert ours.news_at("hookline_", None) is None, "who we are is not known: nothing is proved"
    assert folded(change(when=5, properties=(), edited_by="ann")).news_at("hookline_", "us") == at(5)
    assert folded(change(when=5, properties=("hookline_score", "num_notes"))).news_at("hookline_", "us") is None
    assert folded(change(when=5, kind="associated", properties=())).news_at("hookline_", "us") is None
    assert folded(change(when=5, kind="merged", properties=())).news_at("hookline_", "us") == at(5)


def test_the_last_named_editor_counts():
    trigger = folded(change(when=2, edited_by="late"), change(when=1, edited_by="early"), change(when=3))
    assert trigger.edited_by == "late"
