"""What is known of the models that may be asked: the one place to change when Groq's list changes.

Sources, looked up on 2026-11-22: https://console.groq.com/docs/models (names, context window, largest completion),
https://console.groq.com/docs/structured-outputs (`strict`: which models decode under a JSON schema),
https://console.groq.com/docs/deprecations (what was shut down, and what to take instead). Where no largest completion was
found, a small one is written here. Prices are not here: see `pricing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Structured = Literal["strict", "json_object"]
"""`strict`: `response_format` with a JSON schema that the model cannot leave. `json_object`: some JSON object; the
schema stands in the instructions, and validation does the rest."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model's limits."""

    name: str
    context_tokens: int
    """Question and answer together."""
    max_output_tokens: int
    structured: Structured
    reasons: bool = False
    """It thinks before it answers; what it thinks counts as output, so it needs room, and takes `reasoning_effort`."""


_KNOWN = {
    facts.name: facts
    for facts in (
        ModelFacts("openai/gpt-oss-120b", 131_072, 65_536, "strict", reasons=True),
        ModelFacts("openai/gpt-oss-20b", 131_072, 65_536, "strict", reasons=True),
        ModelFacts("qwen/qwen3.8-27b", 131_072, 16_384, "strict"),
        ModelFacts("llama-3.3-70b-versatile", 131_072, 32_768, "json_object"),
        ModelFacts("offline-rules", 1_000_000, 1_000_000, "json_object"),
    )
}


_RETIRED = {
    # https://console.groq.com/docs/deprecations; free and developer plans, some enterprise contracts go on.
    "llama-3.3-70b-versatile": ("2026-08-16", "openai/gpt-oss-120b"),
    "llama-3.1-8b-instant": ("2026-08-16", "openai/gpt-oss-20b"),
    "meta-llama/llama-4-scout-17b-16e-instruct": ("2026-07-17", "openai/gpt-oss-120b"),
}


def advice(model: str) -> str:
    """What to do when a provider does not serve `model`."""
    if model in _RETIRED:
        day, instead = _RETIRED[model]
        return f"Groq retired it on {day}: set HOOKLINE_MODEL={instead}"
    return "set HOOKLINE_MODEL to one of https://console.groq.com/docs/models, or give the key access to it"


def retired(model: str) -> str:
    """When a model was shut down and what to take instead, for people; '' for one that was not, as far as is known."""
    if model not in _RETIRED:
        return ""
    day, instead = _RETIRED[model]
    return f"Groq retired it on {day}: take {instead}"


def facts_of(model: str) -> ModelFacts:
    """What is known of `model`; for one that is not listed, what every current chat model can do."""
    return _KNOWN.get(model) or ModelFacts(model, 131_072, 8_192, "json_object")


def is_known(model: str) -> bool:
    """Whether it is listed here."""
    return model in _KNOWN


def known() -> tuple[ModelFacts, ...]:
    """Every model that is listed here."""
    return tuple(_KNOWN.values())


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: a token per three characters, which is more than English needs and about what
    dense JSON takes. Good for reserving; the provider's own count settles it.
    """
    return (len(text) + 2) // 3
