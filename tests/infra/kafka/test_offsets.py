from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from infra.kafka.offsets import Offsets


@given(st.lists(st.integers(0, 500), min_size=1, unique=True).map(sorted), st.randoms(use_true_random=False))
def test_commits_the_lowest_unfinished_offset_in_any_order_of_completion(offsets, random) -> None:
    """INVARIANT: what is committed has nothing unfinished below it; else a crash loses that message."""
    found = Offsets()
    for offset in offsets:
        assert found.received(offset)
    order = list(offsets)
    random.shuffle(order)
    done: set[int] = set()
    commits = []
    for offset in order:
        found.finished(offset)
        done.add(offset)
        commit = found.committable
        if commit is not None:
            assert {each for each in offsets if each < commit} <= done
            found.committed = commit
            commits.append(commit)
    assert all(low < high for low, high in pairwise(commits))
    assert found.committed == offsets[-1] + 1
    assert found.committable is None
    assert found.unfinished == 0


def test_nothing_is_committed_where_nothing_was_finished() -> None:
    found = Offsets()
    assert found.committable is None
    found.received(7)
    assert found.committable is None


def test_a_lost_partition_is_never_committed() -> None:
    found = Offsets()
    found.received(1)
    found.finished(1)
    found.lost = True
    assert found.committable is None
