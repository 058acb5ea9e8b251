from __future__ import annotations

from infra.settings import Settings
from llm_gateway.models import advice, estimated_tokens, facts_of


def test_the_default_model_is_known_and_decodes_under_a_schema():
    facts = facts_of(Settings.model_fields["model"].default)
    assert facts.structured == "strict"
    assert facts.context_tokens >= 131_072


def test_an_unknown_model_is_asked_carefully():
    facts = facts_of("my/own")
    assert (facts.name, facts.structured) == ("my/own", "json_object")


def test_a_retired_model_names_its_successor():
    assert advice("llama-3.3-70b-versatile") == "Groq retired it on 2026-08-16: set HOOKLINE_MODEL=openai/gpt-oss-120b"
    assert "HOOKLINE_MODEL" in advice("my/own")


def test_estimates_err_on_the_side_of_too_many():
    english = "The customer asked for a rebate of ten percent before the end of the quarter."
    assert len(english.split()) < estimated_tokens(english) < 3 * len(english.split())
    assert estimated_tokens("") == 0
