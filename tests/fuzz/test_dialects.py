"""A short selection of the campaign, and every body that ever was a finding."""

from __future__ import annotations

import pytest

from tests.fuzz.dialects import DIALECTS, check, seeds
from tests.fuzz.mutate import Mutator


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_corpus_keeps_the_promises_of_a_dialect(dialect):
    """INVARIANT: no body makes a dialect raise, dawdle or repeat its content. If this fails, one delivery stops a partition."""
    outcomes = {check(dialect, body) for body in seeds(dialect)}
    assert any(kind not in {"untranslatable", "ignored"} for outcome in outcomes for kind, _ in outcome)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_near_to_real_ones_keep_them_too(dialect):
    mutator = Mutator(seeds(dialect), 1)
    for _ in range(1_500):
        check(dialect, mutator.draw())
