"""An event's frame on crm.deliveries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.pubsub.frame import Frame

FRAMES = st.builds(Frame, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.binary(max_size=20), st.text(max_size=9), st.binary(max_size=99))  # fmt: skip


@given(FRAMES)
def test_what_is_packed_is_unpacked(frame):
    assert Frame.unpack(frame.pack()) == frame


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_without_repeating_them(body):
    with pytest.raises(ValueError, match=r"its head|length prefix") as told:
        Frame.unpack(body)
    assert told.value.__cause__ is None


def test_the_same_event_has_the_same_key_however_often_it_comes():
    one = Frame("salesforce:1", "event", "s", b"\x01", "", b"")
    assert one.key == Frame("salesforce:1", "event", "s", b"\x02", "", b"").key
    assert one.key != Frame("salesforce:2", "event", "s", b"\x01", "", b"").key
    assert Frame("a", "", "s", b"\x01", "", b"").key != Frame("a", "", "s", b"\x02", "", b"").key
