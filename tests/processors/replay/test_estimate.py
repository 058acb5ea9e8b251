"""What questions will come to, from what was accounted for."""

from __future__ import annotations

import pytest

from llm_gateway.models import estimated_tokens
from processors.replay.estimate import GUESSED_OUTPUT, Asked, History, bill

MODEL = "openai/gpt-oss-120b"


def test_an_estimate_is_scaled_by_what_calls_have_taken() -> None:
    asked = {("lead_intel", (MODEL,)): Asked((MODEL,), questions=110, hits=10, tokens=100 * 600)}
    found = bill("groq", asked, {("lead_intel", MODEL): History(50, 450.0, 120.0)}, {})
    assert (found.model_calls, found.cache_hits) == (100, 10)
    assert (found.input_tokens, found.output_tokens) == (45_000, 12_000)
    assert found.cost_usd > 0
    assert "50 calls of this model" in found.basis[0]


def test_another_prompts_length_counts_and_not_only_the_history() -> None:
    old, new = "x" * 300, "y" * 1_500
    tokens = 500 + estimated_tokens(new)
    asked = {("lead_intel", (MODEL,)): Asked((MODEL,), questions=1, tokens=tokens, system=new)}
    before = 500 + estimated_tokens(old)
    found = bill("groq", asked, {("lead_intel", MODEL): History(50, before * 0.75, 100.0)}, {"lead_intel": old})
    assert found.input_tokens == pytest.approx(tokens * 0.75, abs=1)


def test_without_history_it_says_that_it_guesses() -> None:
    found = bill("groq", {("lead_intel", (MODEL,)): Asked((MODEL,), questions=2, tokens=1_000, room=1_500)}, {}, {})
    assert (found.input_tokens, found.output_tokens) == (1_000, 2 * GUESSED_OUTPUT)
    assert "guessed" in found.basis[0]


def test_the_offline_rules_take_no_tokens_and_no_money() -> None:
    rules = ("offline-rules",)
    found = bill("offline", {("lead_intel", rules): Asked(rules, questions=7, tokens=900)}, {}, {})
    assert (found.model_calls, found.input_tokens, found.cost_usd) == (7, 0, 0.0)


CHEAP = "openai/gpt-oss-20b"
BOTH = (CHEAP, MODEL)


def test_tiers_are_priced_one_by_one_and_the_strong_one_for_what_is_passed_on_alone() -> None:
    asked = {("lead_intel", BOTH): Asked(BOTH, questions=100, tokens=100 * 600)}
    history = {("lead_intel", CHEAP): History(200, 600.0, 100.0), ("lead_intel", MODEL): History(30, 600.0, 100.0)}
    found = bill("groq", asked, history, {})
    strong = bill("groq", {("lead_intel", (MODEL,)): Asked((MODEL,), questions=100, tokens=100 * 600)}, history, {})
    assert found.model_calls == 115
    assert found.input_tokens == 115 * 600
    assert found.cost_usd < strong.cost_usd


def test_what_goes_to_the_strong_model_at_once_is_not_taken_for_passed_on() -> None:
    asked = {
        ("lead_intel", BOTH): Asked(BOTH, questions=100, tokens=100 * 600),
        ("lead_intel", (MODEL,)): Asked((MODEL,), questions=50, tokens=50 * 4_000),
    }
    history = {("lead_intel", CHEAP): History(200, 600.0, 100.0), ("lead_intel", MODEL): History(120, 600.0, 100.0)}
    assert bill("groq", asked, history, {}).model_calls == 100 + 10 + 50


def test_without_a_cheap_models_history_the_share_passed_on_is_guessed() -> None:
    asked = {("lead_intel", BOTH): Asked(BOTH, questions=100, tokens=100 * 600)}
    assert bill("groq", asked, {}, {}).model_calls == 120
