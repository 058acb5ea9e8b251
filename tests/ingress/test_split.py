"""Cutting a large delivery between its events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.split import split_array

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1, max_size=30), st.integers(20, 400), st.sampled_from([None, 1]))
def test_the_parts_are_the_delivery(events, limit, indent):
    """INVARIANT: no event is lost, doubled, changed or out of order, and every part fits."""
    parts = split_array(json.dumps(events, ensure_ascii=False, indent=indent).encode(errors="surrogatepass"), limit)
    if parts is None:
        return
    assert all(len(part) <= limit for part in parts)
    assert [one for part in parts for one in json.loads(part)] == events


def test_an_events_bytes_stay_as_they_were():
    odd = b'{ "a":1.50,  "b" : "\\u00e4\xc3\xa4" }'
    assert split_array(b" [ " + odd + b" ,\n" + odd + b"] ", len(odd) + 2) == [b"[" + odd + b"]"] * 2


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[", b"[1", b"[1,]", b"[1 2]", b"[1]x", b"nothing", b"\xff[1]", b"[" * 100_000, b'[{"a":' * 50_000, b"[]",
])  # fmt: skip
def test_what_is_no_array_of_events_is_not_cut(body):
    assert split_array(body, 100) is None


def test_one_event_larger_than_a_message_stops_it_all():
    assert split_array(json.dumps(["a", "b" * 200]).encode(), 100) is None


def test_no_delivery_becomes_more_messages_than_a_call_may_hold():
    assert split_array(json.dumps(["a" * 50] * 200).encode(), 60) is None
