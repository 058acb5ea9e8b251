"""How much two insights differ, and what is shown of it."""

from __future__ import annotations

from processors.replay.diff import SHOWN, Difference, distance, score_of
from schemas.insight import Insight, LeadIntel, Usage
from tests.sinks.making import insight, lead, quality, requirements


def of(payload: object, record: str = "1", cost: float = 0.0) -> Insight:
    return insight(payload, record=record, usage=Usage(input_tokens=10 if cost else 0, cost_usd=cost))


def test_what_is_told_as_changed_since_last_time_is_no_difference() -> None:
    same = lead(72).model_copy(update={"changes": ("budget doubled",)})
    assert distance(of(lead(72)), of(same)) == 0


def test_scores_weigh_by_points_items_by_number_and_words_least() -> None:
    assert distance(of(lead(72)), of(lead(60))) == 12
    assert distance(of(lead(72)), of(lead(72, summary="Other words."))) == 0.5
    assert distance(of(quality(80)), of(quality(60))) == 20
    fewer = requirements().model_copy(update={"items": ()})
    assert distance(of(requirements()), of(fewer)) == len(requirements().items)
    thin = LeadIntel(status="not_enough_data")
    assert distance(of(lead(72)), of(thin)) == 100


def test_the_histogram_counts_every_compared_insight_and_the_list_holds_the_largest() -> None:
    found = Difference("lead_intel")
    for number in range(50):
        found.add(of(lead(80), str(number), cost=0.002), of(lead(80 - number), str(number), cost=0.001))
    assert (found.compared, found.changed) == (50, 49)
    assert sum(found.shifts.values()) == 50
    assert found.shifts[-10] == 10
    assert found.shifts[0] == 1
    top = found.top()
    assert [score_of(pair.shadow) for pair in top] == list(range(31, 31 + SHOWN))
    told = found.as_json()
    assert told["cost_per_insight_live"] == 0.002
    assert told["cost_per_insight_shadow"] == 0.001
    assert len(told["largest"]) == SHOWN


def test_an_answer_of_the_cache_says_nothing_of_the_price() -> None:
    found = Difference("lead_intel")
    cached = of(lead(70)).model_copy(update={"usage": Usage(cached=True)})
    found.add(of(lead(80), cost=0.002), cached)
    assert found.as_json()["cost_per_insight_shadow"] is None
