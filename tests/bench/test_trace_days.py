"""The drawn days and the stand-in model of `bench-trace`: alike from day to day, and answers to every kind of question."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bench.trace import days
from bench.trace.model import says
from llm_gateway.packing import mixed_pack_of
from processors.analyses.lead_intel import PLUGIN as LEAD
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.requirements import PLUGIN as REQUIREMENTS
from processors.analyses.requirements.answer import RequirementsAnswer
from tests.processors.lures import record


def test_a_day_is_a_function_of_its_seed():
    assert days.draw(3, deliveries=500) == days.draw(3, deliveries=500)
    assert days.draw(3, deliveries=500) != days.draw(4, deliveries=500)


@pytest.mark.parametrize("seed", [3, 11, 29])
def test_a_drawn_day_is_one_of_short_sessions_on_few_records(seed: int):
    day = days.draw(seed, deliveries=6_000)
    assert day == sorted(day, key=lambda each: each.t)
    last: dict[tuple[str, str, str], float] = {}
    gaps: Counter[str] = Counter()
    for each in day:
        if any(name not in days.UNREAD for name, _ in each.events):
            gap = each.t - last.get(each.record, -1e9)
            last[each.record] = each.t
            gaps["first" if gap > 60 else "later"] += 1
    unread = sum(all(name in days.UNREAD for name, _ in each.events) for each in day)
    assert 2.2 < (gaps["first"] + gaps["later"]) / gaps["first"] < 5
    assert 0.04 < unread / len(day) < 0.2
    busiest = sum(count for _, count in Counter(each.record for each in day).most_common(20))
    assert busiest > 0.15 * len(day), "a few records have most of the edits"


def test_the_stand_in_answers_questions_of_two_prompts_in_one_call():
    snapshot = record("We need single sign-on by March.")
    lead, wanted = LEAD.prompt(snapshot), REQUIREMENTS.prompt(snapshot)
    lines = [
        {"id": "a", "kind": lead.name, "input": lead.user},
        {"id": "b", "kind": wanted.name, "input": wanted.user},
    ]
    request = {
        "model": "openai/gpt-oss-120b",
        "response_format": {"json_schema": {"name": "MixedPack"}},
        "messages": [{"content": ""}, {"content": "\n".join(map(json.dumps, lines))}],
    }
    pack = mixed_pack_of((("lead_intel", LeadIntelAnswer), ("requirements", RequirementsAnswer)))
    found = pack.model_validate_json(says(request)).model_dump()["answers"]
    assert [each["id"] for each in found] == ["a", "b"]
    assert found[0]["answer"]["summary"]
    assert any("single sign-on" in item["quote"] for item in found[1]["answer"]["items"])
