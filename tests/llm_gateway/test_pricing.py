from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from llm_gateway import pricing
from llm_gateway.providers.provider import Completed


def test_tokens_times_price():
    # Groq's list: $0.15 and $0.60 a million tokens, half price for what its prompt cache held.
    completed = Completed(
        "", "openai/gpt-oss-120b", input_tokens=10_000, output_tokens=1_000, cached_input_tokens=4_000
    )
    assert pricing.cost_usd("groq", completed) == pytest.approx(6_000 * 0.15e-6 + 4_000 * 0.075e-6 + 1_000 * 0.60e-6)


def test_the_offline_rules_cost_nothing():
    assert pricing.cost_usd("offline", Completed("", "offline-rules", input_tokens=10, output_tokens=10)) == 0


def test_an_unknown_model_costs_nothing_and_that_is_said_once():
    with capture_logs() as said:
        for _ in range(3):
            assert pricing.cost_usd("groq", Completed("", "nobody/knows-this", input_tokens=10)) == 0
        assert pricing.cost_usd("my-own-server", Completed("", "mine", input_tokens=10)) == 0
    assert [line["model"] for line in said if line["event"] == "model_without_price"] == ["nobody/knows-this", "mine"]


def test_the_list_says_which_one_it_is():
    assert pricing.PRICE_LIST.startswith("genai-prices ")
