"""What an answer cost, from a price list that others maintain: genai-prices, the copy that is installed.

Law: never fetches anything. An unknown model costs nothing, and that is said once; the offline rules cost nothing
because nobody is paid. A price is a function of provider, model, tokens and day: a new list reprices nothing written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from infra.telemetry import log
from llm_gateway.providers.provider import Completed

PRICE_LIST = f"genai-prices {version('genai-prices')}"
"""The list that costs are computed from; which prices hold on which day stands in it."""
_FREE = frozenset({"offline"})


def cost_usd(provider: str, completed: Completed) -> float:
    """US dollars of one answer."""
    if provider in _FREE:
        return 0.0
    inputs, cached, outputs = (
        completed.input_tokens,
        min(completed.cached_input_tokens, completed.input_tokens),
        completed.output_tokens,
    )
    today = datetime.now(UTC).date().isoformat()
    per_input, per_cached, per_output = _per_token(provider, completed.model, today)
    return (inputs - cached) * per_input + cached * per_cached + outputs * per_output


@lru_cache(maxsize=128)
def _per_token(provider: str, model: str, day: str) -> tuple[float, float, float]:
    """Dollars per input, cached input and output token; linear prices, so a million tell what one costs."""
    at = datetime.fromisoformat(day).replace(tzinfo=UTC)
    million = 1_000_000

    def price(usage: PricedUsage) -> float:
        return float(calc_price(usage, model, provider_id=provider, genai_request_timestamp=at).total_price) / million

    try:
        return (
            price(PricedUsage(input_tokens=million)),
            price(PricedUsage(input_tokens=million, cache_read_tokens=million)),
            price(PricedUsage(output_tokens=million)),
        )
    except LookupError:
        _say_once(provider, model)
        return (0.0, 0.0, 0.0)


@lru_cache(maxsize=128)
def _say_once(provider: str, model: str) -> None:
    log("llm_gateway").warning(
        "model_without_price", provider=provider, model=model, price_list=PRICE_LIST, cost_counted_as=0
    )
