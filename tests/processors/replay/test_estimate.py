"""What questions will come to, from what was accounted for."""

from __future__ import annotations

import pytest

from llm_gateway.models import estimated_tokens
from processors.replay.estimate import GUESSED_OUTPUT, Asked, History, bill

MODEL = "openai/gpt-oss-120b"


def test_an_estimate_is_scaled_by_what_calls_have_taken() -> None:
    asked = {"lead_intel": Asked(MODEL, questions=110, hits=10, tokens=100 * 600)}
    found = bill("groq", asked, {"lead_intel": History(50, 450.0, 120.0, same_model=True)}, {})
    assert (found.model_calls, found.cache_hits) == (100, 10)
    assert (found.input_tokens, found.output_tokens) == (45_000, 12_000)
    assert found.cost_usd > 0
    assert "50 calls of this model" in found.basis[0]


def test_another_prompts_length_counts_and_not_only_the_history() -> None:
    old, new = "x" * 300, "y" * 1_500
    tokens = 500 + estimated_tokens(new)
    asked = {"lead_intel": Asked(MODEL, questions=1, tokens=tokens, system=new)}
    before = 500 + estimated_tokens(old)
    found = bill("groq", asked, {"lead_intel": History(50, before * 0.75, 100.0, same_model=True)}, {"lead_intel": old})
    assert found.input_tokens == pytest.approx(tokens * 0.75, abs=1)


def test_without_history_it_says_that_it_guesses() -> None:
    found = bill("groq", {"lead_intel": Asked(MODEL, questions=2, tokens=1_000, room=1_500)}, {}, {})
    assert (found.input_tokens, found.output_tokens) == (1_000, 2 * GUESSED_OUTPUT)
    assert "guessed" in found.basis[0]


def test_the_offline_rules_take_no_tokens_and_no_money() -> None:
    found = bill("offline", {"lead_intel": Asked("offline-rules", questions=7, tokens=900)}, {}, {})
    assert (found.model_calls, found.input_tokens, found.cost_usd) == (7, 0, 0.0)
