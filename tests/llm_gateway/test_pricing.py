from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest
from structlog.testing import capture_logs

from llm_gateway import pricing
from llm_gateway.providers.provider import Completed


@pytest.fixture
def held() -> Iterator[None]:
    """Prices are the process': none stay."""
    yield
    pricing.hold({}, {})


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


@pytest.mark.usefixtures("held")
def test_a_price_of_ones_own_goes_before_the_lists_from_its_day_on():
    model, since = "openai/gpt-oss-120b", date(2026, 11, 1)
    pricing.hold({("groq", model): pricing.Price(1.0, 0.5, 2.0, since, pricing.ROUTES_FILE)}, {})
    completed = Completed("", model, input_tokens=3_000_000, output_tokens=1_000_000, cached_input_tokens=1_000_000)
    assert pricing.cost_usd("groq", completed) == pytest.approx(2 * 1.0 + 0.5 + 2.0)
    assert pricing.saved_usd("groq", completed) == pytest.approx(0.5)
    assert pricing.price_of("groq", model, date(2026, 10, 31)) == pricing.Price(0.15, 0.075, 0.6)


@pytest.mark.usefixtures("held")
def test_a_provider_of_another_name_is_priced_as_the_list_calls_it():
    assert pricing.price_of("second", "openai/gpt-oss-120b") is None
    pricing.hold({}, {"second": "groq"})
    assert pricing.price_of("second", "openai/gpt-oss-120b") == pricing.price_of("groq", "openai/gpt-oss-120b")


@pytest.mark.usefixtures("held")
def test_an_answer_under_a_name_without_a_price_costs_what_the_model_that_was_asked_does():
    pricing.hold({("second", "large"): pricing.Price(1.0, 1.0, 1.0)}, {})
    dated = Completed("", "large-2026-10-01", input_tokens=500_000, output_tokens=500_000)
    assert pricing.usage_of("second", dated, 1, 0.1, "large").cost_usd == pytest.approx(1.0)
    assert pricing.batch_usage("second", dated, "large").cost_usd == pytest.approx(0.5)
