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
from genai_prices.data_snapshot import get_snapshot

from infra.telemetry import log
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Usage

PRICE_LIST = f"genai-prices {version('genai-prices')}"
"""The list that costs are computed from; which prices hold on which day stands in it."""
BATCH_PRICE = 0.5
"""Of the list price, for a question in a batch: https://console.groq.com/docs/batch."""
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


def saved_usd(provider: str, completed: Completed) -> float:
    """US dollars that the provider's own prompt cache saved on one answer."""
    if provider in _FREE or not completed.cached_input_tokens:
        return 0.0
    per_input, per_cached, _ = _per_token(provider, completed.model, datetime.now(UTC).date().isoformat())
    return min(completed.cached_input_tokens, completed.input_tokens) * (per_input - per_cached)


def usage_of(provider: str, completed: Completed, attempts: int, seconds: float) -> Usage:
    """What an answer took, `seconds` from the first attempt on."""
    return Usage(
        completed.model,
        completed.input_tokens,
        completed.output_tokens,
        completed.cached_input_tokens,
        cost_usd(provider, completed),
        saved_usd(provider, completed),
        seconds,
        attempts,
    )


def batch_usage(provider: str, completed: Completed) -> Usage:
    """What an answer from a batch took: half the list price, whatever the provider had in its prompt cache (that both savings
    add up is said nowhere; in doubt too much is counted).
    """
    full = most_usd(provider, completed.model, completed.input_tokens, completed.output_tokens)
    cost = full * BATCH_PRICE
    return Usage(
        completed.model,
        completed.input_tokens,
        completed.output_tokens,
        completed.cached_input_tokens,
        cost_usd=cost,
        batched=1,
        batch_saved_usd=full - cost,
    )


def most_usd(provider: str, model: str, input_tokens: int, output_tokens: int) -> float:
    """US dollars of an answer of this size, if nothing of it were cached."""
    return cost_usd(provider, Completed("", model, input_tokens=input_tokens, output_tokens=output_tokens))


@lru_cache(maxsize=1)
def newest_change() -> str:
    """The day of the newest price change up to today that the list knows: how old the list is, at most. ISO 8601."""
    today = datetime.now(UTC).date()
    days = [
        day
        for provider in get_snapshot().providers
        for model in provider.models
        for price in (*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ()))
        if (day := getattr(price.constraint, "start_date", None)) is not None and day <= today
    ]
    return str(max(days).isoformat()) if days else ""


def per_million(provider: str, model: str) -> tuple[float, float, float]:
    """List price of a million input, cached input and output tokens, in US dollars; 0 for a model without one."""
    if model == "offline-rules":
        return (0.0, 0.0, 0.0)
    inputs, cached, outputs = _per_token(provider, model, datetime.now(UTC).date().isoformat())
    return round(inputs * 1e6, 6), round(cached * 1e6, 6), round(outputs * 1e6, 6)


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
