"""What Groq's headers say of its limits: https://console.groq.com/docs/rate-limits.

Law: pure; imports no vendor's package, so that the server needs none. Groq's `x-ratelimit-*-requests` speaks of the day, OpenAI's
of the minute (https://platform.openai.com/docs/guides/rate-limits), so that it is left out; `*-tokens` of the minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llm_gateway.providers.provider import Headroom

GONE = frozenset({"model_not_found", "model_decommissioned", "model_terms_required", "model_not_active"})
"""Codes for a model that is not served."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(text: str | None) -> float | None:
    """Groq's durations (`2m59.56s`, `7.66s`, `120ms`, `1d2h`) and plain seconds; None for anything else."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        parts = _DURATION.findall(text)
    return (
        sum(float(number) * _UNITS[unit] for number, unit in parts) if parts and _DURATION.sub("", text) == "" else None
    )


def wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal of the limit asks for: `retry-after`, or until there is something again where nothing is left."""
    named = seconds(headers.get("retry-after"))
    return (headroom(headers).spent_for() or None) if named is None else named


def headroom(headers: Mapping[str, str], *, groqs: bool = True) -> Headroom:
    """What the headers say is left; `groqs`: they are Groq's."""
    if not groqs:
        return Headroom(
            tokens=_whole(headers.get("x-ratelimit-remaining-tokens")),
            tokens_reset=seconds(headers.get("x-ratelimit-reset-tokens")),
            tokens_limit=_whole(headers.get("x-ratelimit-limit-tokens")),
        )
    return Headroom(
        requests=_whole(headers.get("x-ratelimit-remaining-requests")),
        tokens=_whole(headers.get("x-ratelimit-remaining-tokens")),
        requests_reset=seconds(headers.get("x-ratelimit-reset-requests")),
        tokens_reset=seconds(headers.get("x-ratelimit-reset-tokens")),
        requests_limit=_whole(headers.get("x-ratelimit-limit-requests")),
        tokens_limit=_whole(headers.get("x-ratelimit-limit-tokens")),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
