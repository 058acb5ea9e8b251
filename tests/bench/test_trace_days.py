"""The drawn days and the stand-in model of `bench-trace`: alike from day to day, and answers to every kind of question."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bench.trace import days, naive
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


def test_the_naive_bill_asks_about_the_whole_record_at_every_delivery():
    record_of = ("hubspot:1", "deal", "1")
    first = days.Delivery(1.0, *record_of, "CRM_UI", (("note", "note-v1"), ("amount", "amount-v1")))
    same = days.Delivery(2.0, *record_of, "CRM_UI", (("last_synced_at", "x"),))
    more = days.Delivery(3.0, *record_of, "CRM_UI", (("email_body", "email_body-v1"),))
    bills = [naive.bill([first, same, more][:count], "openai/gpt-oss-120b") for count in (1, 2, 3)]
    assert [each.calls for each in bills] == [3, 6, 9]
    wanted = [each.by_analysis["requirements"] for each in bills]
    assert wanted[1] == {name: 2 * value for name, value in wanted[0].items()}, "nothing new is asked again as well"
    assert wanted[2]["output_tokens"] - wanted[1]["output_tokens"] > wanted[0]["output_tokens"], "both texts are read"
    asked = sum(found["dollars"] for found in bills[0].by_analysis.values())
    assert bills[0].dollars == pytest.approx(1.5 * asked), "data quality is as long as the mean of the two"


def test_the_least_bill_folds_what_may_wait_and_reads_each_text_once():
    def edit(t: float, *events: tuple[str, str]) -> days.Delivery:
        return days.Delivery(t, "hubspot:1", "deal", "1", "CRM_UI", events)

    first = edit(0.0, ("note", "note-v1"), ("amount", "amount-v1"))
    model = "openai/gpt-oss-20b"
    alone = naive.least([first], model, 60.0)
    assert naive.least([first, edit(1.0, ("last_synced_at", "x"))], model, 60.0) == alone
    assert naive.least([first, edit(120.0, ("last_synced_at", "x"))], model, 60.0) == alone
    again = edit(120.0, ("email_body", "email_body-v1"))
    folded, apart = naive.least([first, again], model, 150.0), naive.least([first, again], model, 60.0)
    assert alone < folded < apart, "within the time both are one question"
    assert naive.bill([first, again], model).dollars > apart
