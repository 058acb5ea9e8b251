"""What was accepted a moment ago."""

from __future__ import annotations

from ingress.replays import Replays


def test_what_was_noted_is_known_until_its_time_is_over():
    replays = Replays(hold_seconds=10)
    replays.note(("e", b"s"), 0.0)
    assert replays.known(("e", b"s"))
    assert not replays.known(("f", b"s"))
    replays.note(("e", b"t"), 11.0)
    assert not replays.known(("e", b"s"))


def test_memory_is_bounded_and_the_oldest_go_first():
    """INVARIANT: if this fails, a busy endpoint fills the memory."""
    replays = Replays(max_noted=100)
    for number in range(1_000):
        replays.note(("e", str(number)), 0.0)
    assert len(replays) == 100
    assert replays.known(("e", "999"))
    assert not replays.known(("e", "899"))


def test_noting_twice_counts_once():
    replays = Replays(max_noted=2)
    for _ in range(5):
        replays.note(("e", b"s"), 0.0)
    assert len(replays) == 1
