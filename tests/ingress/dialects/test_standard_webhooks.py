"""The minimal body of any other sender."""

from __future__ import annotations

import json

import pytest

from ingress.dialects.standard_webhooks import MAX_EVENTS, translate
from ingress.sources.source import Event, Ignored, Untranslatable
from schemas.dead_letter import Cause
from tests.ingress.fakes import NOW, delivery, endpoint

GOOD = {
    "account": "hubspot:33",
    "object": "deal",
    "id": "42",
    "kind": "updated",
    "occurred_at": "2026-11-22T10:00:00Z",
    "properties": ["amount"],
}


def read(body):
    return list(translate(delivery(json.dumps(body).encode(), "standard_webhooks"), endpoint("standard_webhooks")))


def test_one_event_or_an_array_of_them():
    (found,) = read(GOOD)
    assert (found.account, found.object, found.id, found.kind, found.properties) == (
        "hubspot:33",
        "deal",
        "42",
        "updated",
        ("amount",),
    )
    assert len(read([GOOD, GOOD])) == 2


def test_kind_time_and_properties_may_be_left_out():
    (found,) = read({"account": "hubspot:33", "object": "deal", "id": "42"})
    assert (found.kind, found.occurred_at, found.properties) == ("updated", NOW, ())


def test_the_same_event_has_the_same_key_and_another_has_another():
    key = read(GOOD)[0].key
    assert read(dict(reversed(GOOD.items())))[0].key == key
    for changes in (
        {"id": "43"},
        {"kind": "created"},
        {"occurred_at": "2026-11-22T10:00:01Z"},
        {"properties": ["stage"]},
    ):
        assert read({**GOOD, **changes})[0].key != key


def test_without_a_moment_every_delivery_is_new():
    body = json.dumps({"account": "hubspot:33", "object": "deal", "id": "42"}).encode()
    found = endpoint("standard_webhooks")
    first, second = (
        next(iter(translate(delivery(body, received_at=NOW.replace(second=second)), found))) for second in (0, 1)
    )
    assert first.key != second.key


def test_our_own_properties_are_dropped():
    assert read({**GOOD, "properties": ["hookline_score"]}) == [Ignored("own_property", "hubspot:33")]
    assert read({**GOOD, "properties": ["hookline_score", "amount"]})[0].properties == ("amount",)


@pytest.mark.parametrize("changes", [
    {"account": 5}, {"account": "hubspot"}, {"account": "hubspot:1/2"}, {"id": 42}, {"id": "a/b"}, {"id": ""}, {"id": "x" * 65}, {"object": "other"},
    {"object": []}, {"kind": "exploded"}, {"kind": None}, {"properties": "amount"}, {"properties": [1]}, {"properties": [""]}, {"occurred_at": 5},
    {"occurred_at": "soon"}, {"occurred_at": {}}, {"occurred_at": "0001-01-01T00:00:00+23:59"},
])  # fmt: skip
def test_one_bad_event_is_laid_aside_alone(changes):
    found = read([GOOD, {**GOOD, **changes}, GOOD])
    assert [(one.cause, one.position) for one in found if isinstance(one, Untranslatable)] == [
        (Cause.MALFORMED_BODY, 1)
    ]
    assert len([one for one in found if isinstance(one, Event)]) == 2


def test_too_many_events_are_one_dead_letter():
    (found,) = read([GOOD] * (MAX_EVENTS + 1))
    assert found.cause is Cause.MALFORMED_BODY
    assert read([]) == [Ignored("empty")]
