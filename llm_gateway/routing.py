"""Which models answer, in which order: tiers with fallbacks, and rules that choose tiers by what is known of a question.

Law: decides by what it is told about the question, never by its content; talks to nobody. Reading the file tells `pricing`
the prices that stand in it. A rule names one tier, or several:
then the answer of each but the last must be borne out by the caller's judge, otherwise the next is asked (a cascade). A tier
is one model, or several: then the next is asked when one cannot answer (a fallback). What is wrong in the file is told when
the process starts, with its place.

    accept_grounded = 0.9
    accept_confidence = 0.6
    [tiers]
    cheap = ["openai/gpt-oss-20b"]
    strong = ["openai/gpt-oss-120b", {provider = "second", model = "openai/gpt-oss-120b"}]
    [providers.second]
    base_url = "https://llm.example.com"
    key_variable = "SECOND_API_KEY"
    priced_as = "groq"          # what genai-prices calls it
    [prices."second/our/own"]   # dollars of a million tokens, before genai-prices'
    input = 0.2
    cached_input = 0.1          # as `input`, unless said
    output = 0.8
    since = 2026-11-01
    [[rules]]
    analyses = ["lead_intel"]
    max_input_tokens = 3000
    tiers = ["cheap", "strong"]
    [[rules]]
    tiers = ["strong"]
    [models]                    # for clients of the server: a name of yours, and the tiers that answer to it
    best = ["strong"]
    thrifty = ["cheap", "strong"]
    auto = "rules"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.plugins import load
from infra.settings import Settings, SettingsError, variable
from infra.telemetry import log
from llm_gateway import pricing
from llm_gateway.models import retired
from llm_gateway.prompt import Judgement, Lane
from llm_gateway.providers.provider import Provider, ProviderPlugin

STRONG_MODEL = "openai/gpt-oss-120b"
CHEAP_MODEL = "openai/gpt-oss-20b"
"""Asked first where nothing else is said and the strong one is STRONG_MODEL: half its price, the same context."""
SIMPLE_TOKENS = 3_000
"""Input up to so many tokens is simple, where no file says otherwise."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question goes."""

    provider: Provider
    model: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a question."""

    analysis: str
    input_tokens: int
    """About, instructions included."""
    language: str = ""
    """ISO 639-1; empty: not known."""
    plan: str = ""
    """The customer's (`hookline gateway limits set TENANT '{"plan": "gold"}'`); empty: none."""
    lane: Lane = "live"


Tier = tuple[Route, ...]
"""The first is asked; the others when it cannot answer."""

_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(_Strict):
    """A model somewhere else than with the default provider."""

    provider: _Name = "groq"
    model: _Name


class Elsewhere(_Strict):
    """Another server: one that speaks Groq's API under /openai/v1, or OpenAI's under an address that ends in /v1."""

    base_url: str = Field(pattern=r"^https?://\S+$")
    key_variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="Environment variable that holds the key.")
    priced_as: str = Field(default="", description="What genai-prices calls it, where that is not our name for it.")


class Charged(_Strict):
    """A price of your own, in US dollars of a million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    cached_input: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="As `input`, unless said.")
    output: float = Field(ge=0, allow_inf_nan=False)
    since: date = Field(description="It holds from this day (UTC) on; before, the list's does.")


class Rule(_Strict):
    """Conditions, all of which must hold, and the tiers that are asked then. Without conditions it holds always."""

    analyses: tuple[_Name, ...] = ()
    min_input_tokens: int = Field(default=0, ge=0)
    max_input_tokens: int | None = Field(default=None, ge=1)
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}$")], ...] = ()
    plans: tuple[_Name, ...] = ()
    lanes: tuple[Lane, ...] = ()
    tiers: tuple[_Name, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Rule:
        if self.max_input_tokens is not None and self.max_input_tokens < self.min_input_tokens:
            raise ValueError("max_input_tokens is less than min_input_tokens: no question would ever match")
        return self

    @property
    def always(self) -> bool:
        """Whether it holds for every question."""
        return not (
            self.analyses
            or self.min_input_tokens
            or self.max_input_tokens
            or self.languages
            or self.plans
            or self.lanes
        )

    def holds(self, traits: Traits) -> bool:
        """Whether it speaks about such a question."""
        return (
            (not self.analyses or traits.analysis in self.analyses)
            and traits.input_tokens >= self.min_input_tokens
            and (self.max_input_tokens is None or traits.input_tokens <= self.max_input_tokens)
            and (not self.languages or traits.language in self.languages)
            and (not self.plans or traits.plan in self.plans)
            and (not self.lanes or traits.lane in self.lanes)
        )


class Routes(_Strict):
    """The file, read."""

    accept_grounded: float = Field(default=0.9, ge=0, le=1)
    """Share of its claims that the judge must find borne out, for a tier's answer to be taken."""
    accept_confidence: float = Field(default=0.6, ge=0, le=1)
    tiers: Mapping[_Name, tuple[Place, ...]]
    providers: Mapping[_Name, Elsewhere] = {}
    prices: Mapping[_Name, Charged] = Field(default={}, description="By `provider/model`; before genai-prices'.")
    rules: tuple[Rule, ...] = Field(min_length=1)
    models: Mapping[_Name, tuple[_Name, ...] | Literal["rules"]] = Field(
        default={}, description="Names that clients of the server may ask for: tiers in order, or `rules`."
    )

    @field_validator("tiers", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """A name alone is a model of Groq's."""
        if not isinstance(given, dict):
            return given
        return {
            tier: [{"model": each} if isinstance(each, str) else each for each in models]
            if isinstance(models, list | tuple)
            else models
            for tier, models in given.items()
        }

    @field_validator("providers")
    @classmethod
    def _not_groq(cls, given: Mapping[str, Elsewhere]) -> Mapping[str, Elsewhere]:
        if "groq" in given:
            raise ValueError("groq is set by GROQ_API_KEY and GROQ_BASE_URL: give another server another name")
        return given

    @model_validator(mode="after")
    def _known_prices(self) -> Routes:
        for name in self.prices:
            provider, _, model = name.partition("/")
            if not model or (provider != "groq" and provider not in self.providers):
                raise ValueError(
                    f'prices."{name}" names no provider of this file: write provider/model, as in "groq/{STRONG_MODEL}"'
                )
        for provider, elsewhere in self.providers.items():
            if elsewhere.priced_as and not pricing.listed(elsewhere.priced_as):
                raise ValueError(
                    f"providers.{provider}.priced_as is {elsewhere.priced_as}, which {pricing.PRICE_LIST} does not know: "
                    "leave it out, and say prices in [prices]"
                )
        return self

    @model_validator(mode="after")
    def _known_models(self) -> Routes:
        for tier, places in self.tiers.items():
            if not places:
                raise ValueError(f"tiers.{tier} is empty: name at least one model")
            for place in places:
                if place.provider != "groq" and place.provider not in self.providers:
                    raise ValueError(f"tiers.{tier} names the provider {place.provider}, which is not in [providers]")
                if place.provider == "groq" and (why := retired(place.model)):
                    raise ValueError(f"tiers.{tier} names {place.model}: {why}")
        return self

    @model_validator(mode="after")
    def _reachable_rules(self) -> Routes:
        for number, rule in enumerate(self.rules):
            for tier in rule.tiers:
                if tier not in self.tiers:
                    raise ValueError(f"rules.{number} names the tier {tier}; there are {', '.join(sorted(self.tiers))}")
            if rule.always and number < len(self.rules) - 1:
                raise ValueError(f"rules.{number} has no condition, so the rules after it never hold: put it last")
        if not self.rules[-1].always:
            raise ValueError("the last rule must have no condition, so that every question has a model")
        return self

    @model_validator(mode="after")
    def _reachable_models(self) -> Routes:
        for name, tiers in self.models.items():
            if not tiers:
                raise ValueError(f'models.{name} is empty: name at least one tier, or say "rules"')
            for tier in () if tiers == "rules" else tiers:
                if tier not in self.tiers:
                    raise ValueError(f"models.{name} names the tier {tier}; there are {', '.join(sorted(self.tiers))}")
        return self


class Routing:
    """One per gateway; asked for every question."""

    def __init__(self, routes: Routes, tiers: Mapping[str, Tier]) -> None:
        self._routes = routes
        self._rules = [(rule, tuple(tiers[name] for name in rule.tiers)) for rule in routes.rules]
        self.everywhere = tuple(dict.fromkeys(route for tier in tiers.values() for route in tier))
        """Every model that may be asked."""

        self.reads_language = any(rule.languages for rule in routes.rules)
        """Whether a rule asks for it."""

    @property
    def main(self) -> Route:
        """The model of last resort of the last rule: what is meant where one model is named."""
        return self._rules[-1][1][-1][0]

    def plan(self, traits: Traits, *, judged: bool) -> tuple[Tier, ...]:
        """Tiers in the order in which they are asked. Where nobody judges answers, the last one alone."""
        tiers = next(tiers for rule, tiers in self._rules if rule.holds(traits))
        return tiers if judged else tiers[-1:]

    def accepts(self, judgement: Judgement) -> bool:
        """Whether an answer of a tier that is not the last may be taken."""
        return (
            judgement.grounded >= self._routes.accept_grounded
            and judgement.confidence >= self._routes.accept_confidence
        )


def chosen(settings: Settings) -> str:
    """The provider that these settings mean: `groq` when there is a key, `offline` otherwise, unless one is named."""
    if settings.provider != "auto":
        return settings.provider
    return "offline" if settings.groq_api_key is None else "groq"


def route(settings: Settings) -> Route:
    """The model that settings name; raises SettingsError when the provider lacks a setting."""
    name = chosen(settings)
    plugin = load("llm_gateway.providers", ProviderPlugin, [name])[name]  # type: ignore[type-abstract]  # a protocol is what the loader checks against
    return Route(plugin.open(settings), plugin.model(settings))


def alone(only: Route) -> Routing:
    """One model for every question."""
    routes = Routes(tiers={"only": (Place(model=STRONG_MODEL),)}, rules=(Rule(tiers=("only",)),))
    return Routing(routes, {"only": (only,)})


def routing(settings: Settings) -> Routing:
    """From the file that settings name, or else the model and the cheap model that they name. Blocks (reads a file), once.

    Raises SettingsError.
    """
    main = route(settings)
    if main.provider.name != "groq":
        return alone(main)
    found = _chosen(settings, main)
    priced(settings, found)
    return found


def _chosen(settings: Settings, main: Route) -> Routing:
    if settings.routes is not None:
        return _opened(read(Path(settings.routes)), main.provider)
    cheap = cheap_model(settings)
    if not cheap:
        return alone(main)
    if why := retired(cheap):
        raise SettingsError(f"{variable('model_cheap')} is {cheap}: {why}")
    places = {"cheap": (Place(model=cheap),), "strong": (Place(model=STRONG_MODEL),)}
    rules = (Rule(max_input_tokens=SIMPLE_TOKENS, tiers=("cheap", "strong")), Rule(tiers=("strong",)))
    return Routing(Routes(tiers=places, rules=rules), {"cheap": (Route(main.provider, cheap),), "strong": (main,)})


def cheap_model(settings: Settings) -> str:
    """What is asked first about simple input; '' when nothing is."""
    if settings.model_cheap is not None:
        return "" if settings.model_cheap == settings.model else settings.model_cheap
    return CHEAP_MODEL if settings.model == STRONG_MODEL else ""


def read(path: Path) -> Routes:
    """Read a routes file; raises SettingsError with the place and what to do."""
    where = variable("routes")
    try:
        routes = Routes.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{where}: {path} cannot be read ({type(error).__name__})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: {path} is no TOML: {error}") from None
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in each['loc']) or 'the file'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise SettingsError(f"{where}: {path}: " + "; ".join(lines)) from None
    pricing.hold(
        {
            (name.partition("/")[0], name.partition("/")[2]): pricing.Price(
                each.input,
                each.input if each.cached_input is None else each.cached_input,
                each.output,
                each.since,
                pricing.ROUTES_FILE,
            )
            for name, each in routes.prices.items()
        },
        {name: each.priced_as for name, each in routes.providers.items() if each.priced_as},
    )
    return routes


def tell_prices(settings: Settings) -> None:
    """For whoever reckons without routes: the prices of the routes file, if there is one. Blocks. Raises SettingsError."""
    if settings.routes is not None:
        read(Path(settings.routes))


def priced(settings: Settings, routing_: Routing) -> None:
    """Say which models have no price. Raises SettingsError where settings limit dollars: such a limit would not hold."""
    without = [
        f"{route.provider.name}/{route.model}"
        for route in routing_.everywhere
        if pricing.price_of(route.provider.name, route.model) is None
    ]
    limits = ("model_dollars_per_day", "model_dollars_per_month", "user_dollars_per_day")
    limiting = [variable(name) for name in limits if getattr(settings, name)]
    remedy = f"""say one in {variable("routes")}: [prices."{without[0] if without else ""}"] with input, output (dollars of a million tokens) and since (a date); 0 for one that costs nothing"""
    if without and limiting:
        raise SettingsError(
            f"{' and '.join(limiting)} cannot be kept, as {', '.join(without)} has no price in {pricing.PRICE_LIST}: {remedy}"
        )
    for name in without:
        log("llm_gateway").warning("model_without_price", model=name, price_list=pricing.PRICE_LIST, do=remedy)


@dataclass(frozen=True, slots=True)
class Served:
    """What the server's clients may ask for by names of the routes file."""

    routing: Routing
    models: Mapping[str, tuple[Tier, ...] | None]
    """Tiers in order (several: a cascade); None: the rules choose."""


Open = Callable[[str, str, str], Provider]
"""Builds a provider from its key, the address of its API and its name; no traffic."""


def served(settings: Settings, groq: Provider, open_: Open) -> Served | None:
    """The names that the routes file gives to the server's clients; None without a file. Blocks (reads a file), once.

    Raises SettingsError.
    """
    if settings.routes is None:
        return None
    routes = read(Path(settings.routes))
    tiers = _tiers(routes, groq, open_)
    routing_ = Routing(routes, tiers)
    priced(settings, routing_)
    if "rules" in routes.models.values():
        for number, rule in enumerate(routes.rules):
            if rule.languages:
                log("llm_gateway").warning(
                    "rule_never_holds",
                    rule=f"rules.{number}",
                    why="it names languages, and nobody tells the server the language of a request: it counts for analyses alone",
                )
    models = {
        name: None if chosen_ == "rules" else tuple(tiers[tier] for tier in chosen_)
        for name, chosen_ in routes.models.items()
    }
    return Served(routing_, models)


def _opened(routes: Routes, groq: Provider) -> Routing:
    from llm_gateway.providers.groq import GroqProvider  # noqa: PLC0415 -- the vendor's package loads only where it is used

    def opened(key: str, url: str, name: str) -> Provider:
        return GroqProvider(key, url, name=name, where=f"[providers.{name}] of {variable('routes')}")

    return Routing(routes, _tiers(routes, groq, opened))


def _tiers(routes: Routes, groq: Provider, open_: Open) -> dict[str, Tier]:
    opened: dict[str, Provider] = {"groq": groq}
    for name, elsewhere in routes.providers.items():
        key = os.environ.get(elsewhere.key_variable, "")
        if not key:
            raise SettingsError(
                f"{elsewhere.key_variable} is not set, and the provider {name} of {variable('routes')} needs it"
            )
        opened[name] = open_(key, elsewhere.base_url, name)
    return {
        name: tuple(Route(opened[place.provider], place.model) for place in places)
        for name, places in routes.tiers.items()
    }
