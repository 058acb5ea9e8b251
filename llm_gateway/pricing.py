"""What an answer cost: by the prices of the routes file, or else by a list that others maintain, the installed genai-prices.

Law: never fetches anything. A process has one price list: the routes file's prices are told to it once (`hold`). A model
without a price costs nothing, and that is said once (where dollars are limited it is not asked: `Core.enter`); the offline
rules cost nothing because nobody is paid. A price is a function of provider, model, tokens and day: a new list reprices
nothing written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
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
ROUTES_FILE = "routes file"
_FREE = frozenset({"offline"})


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars of a million tokens."""

    input: float
    cached_input: float
    output: float
    since: date | None = None
    """It holds from then on; None: as long as is known."""
    source: str = PRICE_LIST


_own: dict[tuple[str, str], Price] = {}
_listed_as: dict[str, str] = {}


def hold(own: Mapping[tuple[str, str], Price], listed_as: Mapping[str, str]) -> None:
    """Prices by (provider, model) that go before the list's, and what the list calls providers that it knows by another
    name. In place of what was held before.
    """
    for held, told in ((_own, own), (_listed_as, listed_as)):
        held.clear()
        held.update(told)  # type: ignore[arg-type]  # each is told its own kind
    _per_token.cache_clear()


def listed(provider: str) -> bool:
    """Whether genai-prices knows a provider of that name."""
    return any(each.id == provider for each in get_snapshot().providers)


def cost_usd(provider: str, completed: Completed, asked: str = "") -> float:
    """US dollars of one answer; `asked` is the model that was asked, whose price holds if the name that answered has none."""
    if provider in _FREE:
        return 0.0
    inputs, cached, outputs = (
        completed.input_tokens,
        min(completed.cached_input_tokens, completed.input_tokens),
        completed.output_tokens,
    )
    per_input, per_cached, per_output = _per_token(provider, completed.model, asked, datetime.now(UTC).date())
    return (inputs - cached) * per_input + cached * per_cached + outputs * per_output


def saved_usd(provider: str, completed: Completed, asked: str = "") -> float:
    """US dollars that the provider's own prompt cache saved on one answer; `asked` as above."""
    if provider in _FREE or not completed.cached_input_tokens:
        return 0.0
    per_input, per_cached, _ = _per_token(provider, completed.model, asked, datetime.now(UTC).date())
    return min(completed.cached_input_tokens, completed.input_tokens) * (per_input - per_cached)


def usage_of(provider: str, completed: Completed, attempts: int, seconds: float, asked: str = "") -> Usage:
    """What an answer of the model `asked` took, `seconds` from the first attempt on."""
    return Usage(
        completed.model,
        completed.input_tokens,
        completed.output_tokens,
        completed.cached_input_tokens,
        cost_usd(provider, completed, asked),
        saved_usd(provider, completed, asked),
        seconds,
        attempts,
    )


def batch_usage(provider: str, completed: Completed, asked: str = "") -> Usage:
    """What an answer of the model `asked` from a batch took: half the list price, whatever the provider had in its prompt cache (that both savings
    add up is said nowhere; in doubt too much is counted).
    """
    full = most_usd(provider, completed.model, completed.input_tokens, completed.output_tokens, asked)
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


def most_usd(provider: str, model: str, input_tokens: int, output_tokens: int, asked: str = "") -> float:
    """US dollars of an answer of this size, if nothing of it were cached."""
    return cost_usd(provider, Completed("", model, input_tokens=input_tokens, output_tokens=output_tokens), asked)


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


def price_of(provider: str, model: str, day: date | None = None) -> Price | None:
    """The price on a day (today, unless said); None: nobody knows one."""
    if provider in _FREE:
        return Price(0.0, 0.0, 0.0)
    today = day or datetime.now(UTC).date()
    own = _own.get((provider, model))
    if own is not None and (own.since is None or own.since <= today):
        return own
    return _from_list(_listed_as.get(provider, provider), model, today)


@lru_cache(maxsize=512)
def _from_list(provider: str, model: str, day: date) -> Price | None:
    """Linear prices, so what a million costs tells what one does."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    million = 1_000_000

    def price(usage: PricedUsage) -> float:
        return float(calc_price(usage, model, provider_id=provider, genai_request_timestamp=at).total_price)

    try:
        return Price(
            price(PricedUsage(input_tokens=million)),
            price(PricedUsage(input_tokens=million, cache_read_tokens=million)),
            price(PricedUsage(output_tokens=million)),
        )
    except LookupError:
        return None


@lru_cache(maxsize=512)
def _per_token(provider: str, model: str, asked: str, day: date) -> tuple[float, float, float]:
    """Dollars per input, cached input and output token."""
    price = price_of(provider, model, day) or (price_of(provider, asked, day) if asked else None)
    if price is None:
        _say_once(provider, model)
        return (0.0, 0.0, 0.0)
    return price.input / 1e6, price.cached_input / 1e6, price.output / 1e6


@lru_cache(maxsize=128)
def _say_once(provider: str, model: str) -> None:
    log("llm_gateway").warning(
        "model_without_price", provider=provider, model=model, price_list=PRICE_LIST, cost_counted_as=0
    )
