"""What was accepted a moment ago."""

from __future__ import annotations

import pytest

from ingress.declared.schemes import MAX_TOLERANCE_SECONDS
from ingress.replays import Replays, SignedOnce
from tests.ingress.fakes import sources


def test_what_was_noted_is_known_until_its_time_is_over():
    replays = Replays(hold_seconds=10)
    replays.note(("e", b"s"), 0.0)
    assert replays.known(("e", b"s"))
    assert not replays.known(("f", b"s"))
    replays.note(("e", b"t"), 11.0)
    assert not replays.known(("e", b"s"))


def test_memory_is_bounded_and_the_oldest_go_first():
    """INVARIANT: if this fails, a busy endpoint fills the memory."""
    replays = Replays(max_noted=100, hold_seconds=370)
    for number in range(1_000):
        replays.note(("e", str(number)), 0.0)
    assert len(replays) == 100
    assert replays.known(("e", "999"))
    assert not replays.known(("e", "899"))


def test_noting_twice_counts_once():
    replays = Replays(max_noted=2, hold_seconds=370)
    for _ in range(5):
        replays.note(("e", b"s"), 0.0)
    assert len(replays) == 1


@pytest.mark.parametrize("name", [name for name, found in sources().items() if isinstance(found, SignedOnce)])
def test_what_was_accepted_is_known_for_as_long_as_its_signature_holds(name):
    """INVARIANT: if this fails, a request passes twice in the minutes in between."""
    source = sources()[name]
    window = {"hubspot": 300 + 60, "standard_webhooks": 2 * 300, "custom": 2 * MAX_TOLERANCE_SECONDS}[name]
    assert source.signature_holds_seconds > window
    replays = Replays(hold_seconds=source.signature_holds_seconds)
    replays.note(("e", b"s"), 0.0)
    replays.note(("e", b"t"), float(window))
    assert replays.known(("e", b"s"))
