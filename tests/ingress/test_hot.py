"""Heavy hitters: named whatever else comes by, in memory that does not grow."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.hot import CAPACITY, HeavyHitters, HotSpots
from schemas.change import Change


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=300), st.integers(1, 12))
def test_counts_are_never_too_low_and_too_high_by_the_streams_length_over_capacity_at_most(stream, capacity):
    """INVARIANT: Space-Saving's two bounds. If they fail, `status` names the wrong record, or misses the hot one."""
    hitters: HeavyHitters[int] = HeavyHitters(capacity)
    true: Counter[int] = Counter()
    for key, times in stream:
        hitters.note(key, times)
        true[key] += times
        assert len(hitters) <= capacity
    length = true.total()
    found = dict(hitters.take(capacity))
    assert all(true[key] <= count <= true[key] + length / capacity for key, count in found.items())
    assert all(key in found for key, count in true.items() if count > length / capacity)


def test_a_hot_record_is_found_among_a_hundred_thousand_others():
    hitters: HeavyHitters[str] = HeavyHitters()
    for number in range(100_000):
        hitters.note(f"r{number}")
        if number % 50 == 0:
            hitters.note("hot")
    assert len(hitters) == CAPACITY
    assert hitters.take(1)[0][0] == "hot"
    assert len(hitters) == 0


class BrokenRedis:
    def pipeline(self, transaction=True):
        raise OSError("gone")


async def test_what_cannot_be_written_is_dropped_and_disturbs_nobody():
    spots = HotSpots(BrokenRedis())
    spots.note([Change(tenant="a", account="hubspot:1", object="contact", id="1", kind="updated", occurred_at=datetime.now(UTC))], {"a": 1})  # fmt: skip
    await spots.flush()
    await spots.flush()
