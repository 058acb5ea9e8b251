"""What a prompt becomes for a model, and whom to ask when that model cannot answer.

Law: pure; asks nobody. Whoever asks a model, within limits or without, tells it the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llm_gateway.models import ModelFacts
from llm_gateway.prompt import ModelUnavailable, Prompt, T
from llm_gateway.providers.provider import Completion, Message
from llm_gateway.question import SHORT_WAIT_SECONDS
from llm_gateway.routing import Route, Tier
from llm_gateway.shape import shape_of
from schemas.insight import Usage

_THINKING_TOKENS = 1_024
"""Room for what a reasoning model thinks, at low effort, before it answers: it counts as output."""
_SHARE = 0.6
"""Of the time that is left, what a model may take while there is another one to ask."""
_OURS = frozenset({"REDIS_AWAY", "DATABASE_AWAY", "STOPPING"})

Turns = tuple[Message, ...]


def turns_of(prompt: Prompt[T], facts: ModelFacts) -> Turns:
    """The question as the model is told it."""
    told = shape_of(prompt.answer).told(facts.structured)
    return (Message("system", prompt.system + told), Message("user", prompt.user))


def room_of(prompt: Prompt[Any], facts: ModelFacts) -> int:
    """Tokens that the model may say, what it thinks included."""
    room = prompt.max_output_tokens + (_THINKING_TOKENS if facts.reasons else 0)
    return min(room, facts.max_output_tokens)


def completion_of(prompt: Prompt[T], turns: Turns, model: str, facts: ModelFacts, seconds: float) -> Completion:
    """One attempt of at most `seconds`."""
    rules = prompt.rules
    return Completion(
        model=model,
        messages=turns,
        response_format=shape_of(prompt.answer).response_format(facts.structured),
        max_output_tokens=room_of(prompt, facts),
        temperature=prompt.temperature,
        timeout=seconds,
        rules=None if rules is None else lambda: rules(prompt.facts).model_dump_json(),
    )


def added(one: Usage, other: Usage) -> Usage:
    """What two calls for one answer took together."""
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost_usd=one.cost_usd + other.cost_usd,
    )


def part_of(deadline: float) -> float:
    """A deadline, by the loop's clock, that leaves time for whoever is asked next."""
    now = asyncio.get_running_loop().time()
    return now + _SHARE * max(0.0, deadline - now)


def able(
    tier: Tier, allows: Callable[[str, str], bool], quiet: Callable[[str, str], float] | None = None
) -> Sequence[Route]:
    """Those to ask, in order: one whose circuit is open is passed over, unless all are: then the first says until when. One whose
    provider wants `quiet` (seconds) comes after all that may be asked now, and the one that wants it longest before the others:
    the last is waited for.
    """
    if len(tier) == 1:
        return tier
    found = [route for route in tier if allows(route.provider.name, route.model)] or [tier[0]]
    if quiet is None:
        return found
    wants = {route: quiet(route.provider.name, route.model) for route in found}
    late = [route for route in found if wants[route] > SHORT_WAIT_SECONDS]
    if not late:
        return found
    return [*(route for route in found if route not in late), *sorted(late, key=lambda route: -wants[route])]


def is_ours(error: Exception) -> bool:
    """Whether it is a trouble of ours, that the next model would meet as well."""
    return isinstance(error, ModelUnavailable) and error.cause in _OURS


def cause_of(error: Exception) -> str:
    """An error by name, for metrics."""
    return error.cause if isinstance(error, ModelUnavailable) else type(error).__name__
