"""Which model answers. Today one rule for every question: the one that settings name.

Law: decides by what it is told about the question, never by its content; talks to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.plugins import load
from infra.settings import Settings
from llm_gateway.providers.provider import Provider, ProviderPlugin


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question goes."""

    provider: Provider
    model: str


def chosen(settings: Settings) -> str:
    """The provider that these settings mean: `groq` when there is a key, `offline` otherwise, unless one is named."""
    if settings.provider != "auto":
        return settings.provider
    return "offline" if settings.groq_api_key is None else "groq"


def route(settings: Settings) -> Route:
    """The one rule; raises SettingsError when the provider lacks a setting."""
    name = chosen(settings)
    plugin = load("llm_gateway.providers", ProviderPlugin, [name])[name]  # type: ignore[type-abstract]  # a protocol is what the loader checks against
    return Route(plugin.open(settings), plugin.model(settings))
