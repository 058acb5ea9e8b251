"""What is reckoned of records that nobody has seen yet."""

from __future__ import annotations

from collections import Counter

from console.replay.downstream import GUESSED_INPUT, _with_unseen
from processors.replay.estimate import Asked, History

MODEL, OTHER = "openai/gpt-oss-120b", "openai/gpt-oss-20b"
WAY = ("lead_intel", (MODEL,))


def test_the_unseen_ask_as_the_seen_ones_do() -> None:
    least = {WAY: Asked((MODEL,), questions=2, hits=1, tokens=600)}
    most = {
        WAY: Asked((MODEL,), questions=50, tokens=30_000),
        ("requirements", (MODEL,)): Asked((MODEL,), 10, 0, 9_000),
    }
    seen, unseen = Counter(lead_intel=100, requirements=100), Counter(lead_intel=20, requirements=20)
    found = _with_unseen(least, most, seen, unseen, {}, {"lead_intel"}, MODEL)
    assert (found[WAY].questions, found[WAY].hits, found[WAY].tokens) == (12, 1, 6_600)
    assert found["requirements", (MODEL,)].questions == 2
    assert least[WAY].questions == 2, "what was counted stays as it was"


def test_where_no_record_was_seen_accounted_calls_tell_and_else_a_guess() -> None:
    unseen = Counter(lead_intel=5, requirements=5, data_quality=5)
    history = {("lead_intel", OTHER): History(30, 800.0, 100.0)}
    found = _with_unseen({}, {}, Counter(), unseen, history, {"lead_intel", "requirements"}, MODEL)
    assert (found["lead_intel", (OTHER,)].questions, found["lead_intel", (OTHER,)].tokens) == (5, 4_000)
    assert found["requirements", (MODEL,)].tokens == 5 * GUESSED_INPUT
    assert not any(analysis == "data_quality" for analysis, _ in found), "rules ask no model"
