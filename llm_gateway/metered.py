"""A model's words, metered: reserved before they are asked for, settled and accounted when they are there.

Law: what was reserved and brought no answer comes back, whatever ends the question. An answer that was paid for is
accounted even when its caller has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from llm_gateway import pricing
from llm_gateway.accounting import Ledger
from llm_gateway.attempts import Attempts
from llm_gateway.limits import Grant, Hit, Limits
from llm_gateway.models import estimated_tokens, facts_of
from llm_gateway.prompt import Caller, InputRefused, Prompt, T
from llm_gateway.providers.provider import Completed, Completion, Message
from llm_gateway.round_trips import Command
from llm_gateway.routing import Route
from llm_gateway.shape import shape_of
from schemas.insight import Usage

_EXPECTED_OUTPUT_TOKENS = 500
"""First guess of an answer's length; afterwards what the prompt's answers have been."""

_WAITING_SHARE = 0.7
"""Of the time that is left, what may go into waiting for the tenant's turn: the model needs some, too."""
_THINKING_TOKENS = 1_024
"""Room for what a reasoning model thinks, at low effort, before it answers: it counts as output."""

Turns = tuple[Message, ...]


class Metered:
    """One per gateway."""

    def __init__(self, route: Route, limits: Limits, ledger: Ledger, attempts: Attempts) -> None:
        self._route = route
        self._facts = facts_of(route.model)
        self._limits = limits
        self._ledger = ledger
        self._attempts = attempts
        self._usual_output: dict[str, float] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    def turns(self, prompt: Prompt[T]) -> Turns:
        """The question as the model is told it."""
        told = shape_of(prompt.answer).told(self._facts.structured)
        return (Message("system", prompt.system + told), Message("user", prompt.user))

    async def reserve(
        self, prompt: Prompt[Any], caller: Caller, turns: Turns, deadline: float, *, entry: str | None
    ) -> Hit | Grant:
        """The answer cached under `entry`, or the right to ask. Raises InputRefused when question and answer cannot fit
        into the model, and what `Limits.reserve` raises.
        """
        question = sum(estimated_tokens(turn.content) for turn in turns)
        if question + prompt.max_output_tokens > self._facts.context_tokens:
            raise InputRefused(
                f"{prompt.name}: about {question} tokens and {prompt.max_output_tokens} for the answer, but {self._facts.name} holds "
                f"{self._facts.context_tokens}: shorten what the prompt is given, or choose a model with a larger context"
            )
        usual = int(self._usual_output.get(prompt.name, _EXPECTED_OUTPUT_TOKENS))
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        return await self._limits.reserve(
            caller,
            entry=entry,
            tokens=question + min(usual, prompt.max_output_tokens),
            patience=left * _WAITING_SHARE,
            life=left,
        )

    async def ask(self, prompt: Prompt[T], turns: Turns, grant: Grant, deadline: float) -> Completed:
        """The model's words, after the wait that was granted. Raises ModelUnavailable and InputRefused."""
        response_format = shape_of(prompt.answer).response_format(self._facts.structured)
        rules = _as_text(prompt)
        room = prompt.max_output_tokens + (_THINKING_TOKENS if self._facts.reasons else 0)
        room = min(room, self._facts.max_output_tokens)

        def completion(seconds: float) -> Completion:
            return Completion(
                model=self._route.model,
                messages=turns,
                response_format=response_format,
                max_output_tokens=room,
                temperature=prompt.temperature,
                timeout=seconds,
                rules=rules,
            )

        try:
            if grant.wait > 0:
                await asyncio.sleep(grant.wait)
            return await self._attempts.complete(self._route.provider, completion, self._route.model, deadline)
        except BaseException:
            # Its own task: the one that held the reservation may be on its way out.
            task = asyncio.create_task(self._limits.release(grant))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)
            raise

    async def settle(
        self,
        prompt: Prompt[Any],
        caller: Caller,
        grant: Grant,
        completed: Completed,
        *along: Command,
        repair: bool = False,
    ) -> Usage:
        """Count an answer, here and in Redis; `along` goes in the same round trip. Never fails for Redis' sake."""
        provider = self._route.provider.name
        taken = completed.input_tokens - completed.cached_input_tokens + completed.output_tokens
        cost = pricing.cost_usd(provider, completed)
        usual = self._usual_output.get(prompt.name, _EXPECTED_OUTPUT_TOKENS)
        self._usual_output[prompt.name] = 0.8 * usual + 0.2 * completed.output_tokens
        generation = grant.generation
        try:
            answers = await asyncio.shield(self._limits.run(self._limits.settled(grant, taken), *along))
            if answers and isinstance(answers[0], bytes):
                generation = answers[0].decode()
        finally:
            self._ledger.call(
                *(caller, provider, prompt.version, completed, cost),
                day=grant.day,
                generation=generation,
                repair=repair,
            )
        return Usage(input_tokens=completed.input_tokens, output_tokens=completed.output_tokens, cost_usd=cost)

    async def close(self) -> None:
        """Wait until what was given up is released."""
        if self._releasing:
            await asyncio.gather(*self._releasing, return_exceptions=True)


def _as_text(prompt: Prompt[Any]) -> Callable[[], str] | None:
    rules = prompt.rules
    return None if rules is None else lambda: rules(prompt.facts).model_dump_json()
