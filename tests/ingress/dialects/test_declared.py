"""Bodies of declared senders in our words."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.declared.bounded import Budget, Expression, ExpressionError
from ingress.declared.declaration import read
from ingress.dialects.declared import MAX_EVENTS, translate
from ingress.sources.source import Event, Ignored, Untranslatable
from schemas.dead_letter import Cause
from tests.ingress.fakes import NOW, delivery

ORG = "salesforce:00D5g000004XyzAEAS"
CALLOUT = {
    "organizationId": "00D5g000004XyzA",
    "changes": [
        {"sObject": "Lead", "id": "00Q5g00000AbCdE", "operation": "update", "occurredAt": "2026-11-22T10:00:00.123Z", "eventId": "e-1", "fields": ["Status", "Rating"], "userId": "0055g00000AbCdE"},
        {"sObject": "Opportunity", "id": "0065g00000AbCdE", "operation": "insert", "eventId": "e-2"},
        {"sObject": "Campaign", "id": "7015g00000AbCdE", "operation": "insert", "eventId": "e-3"},
    ],
}  # fmt: skip


def found(body, config=None, **changes):
    given_ = {
        "verify": {"scheme": "bearer"},
        "changes": {"account": "hubspot:33", "object": "'deal'", "id": "event.id", **changes},
    }
    made = read(config or given_)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(translate(delivery(raw, "custom"), made.changes))


def test_a_signed_apex_callout_becomes_changes():
    first, second, third = found(CALLOUT, {"preset": "salesforce_callout"})
    assert (first.account, first.object, first.id, first.kind) == (
        ORG,
        "lead",
        "00Q5g00000AbCdEIAW"[:15] + first.id[15:],
        "updated",
    )
    assert len(first.id) == len(second.id) == 18
    assert (first.properties, first.edited_by, first.key) == (("Status", "Rating"), "0055g00000AbCdE", "id e-1")
    assert first.occurred_at == datetime(2026, 11, 22, 10, 0, 0, 123_000, UTC)
    assert (second.object, second.kind, second.occurred_at) == ("deal", "created", NOW)
    assert third == Ignored("unread_object", ORG)


def test_one_event_or_many():
    assert [event.id for event in found({"id": 1})] == ["1"]
    assert [event.id for event in found([{"id": 1}, {"id": 2}])] == ["1", "2"]
    assert [event.id for event in found({"items": [{"id": 1}, {"id": 2}]}, events="body.items")] == ["1", "2"]
    assert found({}, events="body.items") == found([]) == [Ignored("empty")]


def test_the_whole_body_may_be_looked_at_from_each_event():
    body = {"portal": 33, "type": "deal", "items": [{"id": "a"}, {"id": "b"}]}
    events = found(
        body, events="body.items", account="join(':', ['hubspot', to_string(body.portal)])", object="body.type"
    )
    assert [(event.account, event.object, event.id, event.position) for event in events] == [
        ("hubspot:33", "deal", "a", 0),
        ("hubspot:33", "deal", "b", 1),
    ]


def test_one_bad_event_costs_nobody_else():
    events = found([{"id": 1}, {"id": None}, {"id": "a b"}, 7, {"id": 2}])
    assert [event.id for event in events if isinstance(event, Event)] == ["1", "2"]
    letters = [event for event in events if isinstance(event, Untranslatable)]
    assert [letter.position for letter in letters] == [1, 2, 3]
    assert all(
        letter.cause is Cause.MALFORMED_BODY and letter.detail.startswith("changes.id: gives no text")
        for letter in letters
    )


def test_words_are_translated_and_unknown_ones_are_named():
    body = [{"id": 1, "t": "Opp", "k": "made"}, {"id": 2, "t": "Task", "k": "made"}, {"id": 3, "t": "Opp", "k": "odd"}]
    first, second, third = found(
        body, object="event.t", kind="event.k", objects={"Opp": "deal"}, kinds={"made": "created"}
    )
    assert (first.object, first.kind) == ("deal", "created")
    assert (second.cause, second.position) == (Cause.UNSUPPORTED_EVENT, 1)
    assert "changes.kind" in third.detail
    assert found(body[1:2], object="event.t", objects={"*": "ignore"}) == [Ignored("unread_object", "hubspot:33")]


def test_events_that_are_not_wanted_are_dropped():
    body = [{"id": 1, "live": True}, {"id": 2, "live": False}, {"id": 3}]
    events = found(body, when="event.live")
    assert [type(event) for event in events] == [Event, Ignored, Ignored]
    assert events[1].reason == "not_wanted"


def test_our_own_fields_are_echoes():
    assert found({"id": 1, "f": ["hookline_score"]}, fields="event.f") == [Ignored("own_property", "hubspot:33")]
    assert found({"id": 1, "f": ["hookline_score", "amount"]}, fields="event.f")[0].properties == ("amount",)
    assert found({"id": 1, "f": "amount"}, fields="event.f")[0].properties == ("amount",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T12:00:00+02:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        (1_795_341_600, datetime(2026, 11, 22, 10, tzinfo=UTC)),
        (1_795_341_600_000, datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("1795341600", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        (None, NOW),
        ("yesterday", None),
        (-1, None),
        (True, None),
        ([], None),
        (1e300, None),
    ],
)
def test_moments(value, expected):
    (event,) = found({"id": 1, "at": value}, occurred_at="event.at")
    if expected is None:
        assert event.detail == "changes.occurred_at: gives no time in ISO 8601, seconds or milliseconds"
    else:
        assert event.occurred_at == expected


def test_the_same_event_has_the_same_key():
    assert found({"id": 1, "e": 9}, event_id="event.e")[0].key == found({"id": 2, "e": 9}, event_id="event.e")[0].key
    first, second = (found(body, occurred_at="event.at")[0].key for body in ({"id": 1, "at": 5}, {"at": 5, "id": 1}))
    assert first == second
    assert first != found({"id": 1, "at": 6}, occurred_at="event.at")[0].key
    assert "no text" in found({"id": 1}, event_id="event.e")[0].detail


def test_a_form_is_read_too():
    (event,) = found(b"id=7&team=x%20y&id=8", format="form", fields="event.team")
    assert (event.id, event.properties) == ("7", ("x y",))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 5_000, b'{"a":1}x'])
def test_no_json_is_one_dead_letter(body):
    (letter,) = found(body)
    assert (letter.cause, letter.position) == (Cause.MALFORMED_BODY, None)


def test_details_say_nothing_of_the_body():
    body = {"id": "a customer's words", "x": "other words"}
    for event in (
        *found(body),
        *found(body, account="sum(event.x)"),
        *found(body, object="event.x"),
        *found(body, occurred_at="event.x"),
    ):
        assert "words" not in event.detail


def test_too_many_events_are_refused_whole():
    (letter,) = found([{"id": 1}] * (MAX_EVENTS + 1))
    assert "more than 1000 events" in letter.detail


@pytest.mark.parametrize(
    "text",
    ["[@,@][] | " * 30 + "@", "body[].{a: @, b: @} | [@,@,@,@][][][]", "map(&map(&map(&@, body), body), body)", "join('', [to_string(body), to_string(body)])"],
)  # fmt: skip
def test_an_expression_that_asks_too_much_is_stopped(text):
    """INVARIANT: no declaration stops a partition. If this fails, one expression holds up or kills the translator."""
    began = time.monotonic()
    with pytest.raises(ExpressionError) as error:
        Expression(text).search({"body": ["x" * 50] * 15_000}, Budget(seconds=0.2))
    assert "xxx" not in str(error.value)
    assert time.monotonic() - began < 5


@given(
    body=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["id", "changes", "sObject", "operation", "eventId", "fields", "organizationId", "occurredAt"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_a_body_holds_ends_as_events_drops_or_letters(body):
    for config in ({"preset": "salesforce_callout"}, None):
        for each in found(body, config):
            assert isinstance(each, Event | Ignored | Untranslatable)
