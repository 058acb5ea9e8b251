"""A model's words, metered: what a prompt means for limits and quotas, and what an answer took.

Law: what was reserved and brought no answer comes back, whatever ends the question, but for the input of what was sent and not
heard of. An answer that was paid for is accounted even when its caller has left.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from llm_gateway import pricing
from llm_gateway.accounting import Ledger
from llm_gateway.answered import answered, unanswered
from llm_gateway.asking import Turns, completion_of, room_of, turns_of
from llm_gateway.attempts import Attempts
from llm_gateway.core import Core
from llm_gateway.models import Structured, estimated_tokens, facts_of
from llm_gateway.policy import nano
from llm_gateway.prompt import Caller, InputRefused, Prompt, T
from llm_gateway.providers.provider import Completed, Completion
from llm_gateway.question import Grant, Hit, Line, Question, Usage
from llm_gateway.routing import Route

_EXPECTED_OUTPUT_TOKENS = 500
"""First guess of an answer's length; afterwards what the prompt's answers have been."""
_LEARNS = 0.2


@dataclass(slots=True)
class Asked:
    """A model's words and what they took."""

    completed: Completed
    usage: Usage


class Metered:
    """One per gateway and route."""

    def __init__(self, route: Route, core: Core, ledger: Ledger, attempts: Attempts) -> None:
        self._route = route
        self._facts = facts_of(route.model)
        self._core = core
        self._ledger = ledger
        self._attempts = attempts
        self._line = Line(route.provider.name, route.model, getattr(route.provider, "key", ""))
        self._usual_output: dict[str, float] = {}
        self._guessed: dict[str, float] = {}
        """By prompt: how many tokens the provider counts for one of ours."""

    @property
    def route(self) -> Route:
        """Where it asks."""
        return self._route

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self._route.provider.name

    @property
    def line(self) -> Line:
        """Where its questions queue."""
        return self._line

    @property
    def structured(self) -> Structured:
        """How the model is told what its answer must look like."""
        return self._facts.structured

    def turns(self, prompt: Prompt[T]) -> Turns:
        """The question as the model is told it."""
        return turns_of(prompt, self._facts)

    def completion(self, prompt: Prompt[Any], turns: Turns) -> Completion:
        """The question as the provider is told it, without a time limit."""
        return completion_of(prompt, turns, self._route.model, self._facts, 0.0)

    def question(
        self,
        prompt: Prompt[Any],
        caller: Caller,
        turns: Turns,
        *,
        digest: bytes | None,
        ttl: int,
        refresh: bool = False,
        another: bool = False,
    ) -> Question:
        """What the core must know. Raises InputRefused when question and answer cannot fit into the model."""
        said = sum(estimated_tokens(turn.content) for turn in turns)
        if said + prompt.max_output_tokens > self._facts.context_tokens:
            raise InputRefused(
                f"{prompt.name}: about {said} tokens and {prompt.max_output_tokens} for the answer, but {self._facts.name} holds "
                f"{self._facts.context_tokens}: shorten what the prompt is given, or choose a model with a larger context"
            )
        usual = min(int(self._usual_output.get(prompt.name, _EXPECTED_OUTPUT_TOKENS)), prompt.max_output_tokens)
        room = room_of(prompt, self._facts)
        tokens = int(said * self._guessed.get(prompt.name, 1.0))
        return Question(
            caller.tenant,
            caller.user,
            caller.analysis,
            self._line,
            tokens=tokens + usual,
            most_tokens=said + room,
            most_nano=nano(pricing.most_usd(self._line.provider, self._line.model, said, room)),
            lane=caller.lane,
            prompt=prompt.name,
            version=prompt.version,
            digest=digest,
            key=caller.key,
            ttl=ttl,
            refresh=refresh,
            input_tokens=tokens,
            another=another,
        )

    async def enter(self, question: Question, deadline: float) -> Hit | Grant:
        """See `Core.enter`."""
        return await self._core.enter(question, deadline)

    async def ask(self, prompt: Prompt[T], turns: Turns, grant: Grant, deadline: float) -> Asked:
        """The model's words. Raises ModelUnavailable and InputRefused; then everything has been given back."""
        try:
            return await self.ask_unsettled(prompt, turns, grant, deadline)
        except BaseException as error:
            self.give_back(grant, error)
            raise

    def give_back(self, grant: Grant, error: BaseException) -> None:
        """It was not answered. Never waits, never fails; may be called twice."""
        unanswered(self._core, self._ledger, grant, error)

    async def ask_unsettled(self, prompt: Prompt[T], turns: Turns, grant: Grant, deadline: float) -> Asked:
        """The same, and the grant stays with the caller, whatever is raised: several may share the call."""
        first = self.completion(prompt, turns)
        clock = asyncio.get_running_loop().time
        began = clock()
        completed, attempts = await self._attempts.complete(
            self._route.provider,
            lambda seconds: replace(first, timeout=seconds),
            self._route.model,
            deadline,
            turn=lambda: self._core.again(grant, deadline),
            told=lambda headroom, quiet: self._core.heard(grant, headroom, quiet),
            sent=grant,
            another=grant.question.another,
        )
        usage = pricing.usage_of(self._line.provider, completed, attempts, clock() - began, self._line.model)
        return Asked(completed, usage)

    def settle(
        self,
        question: Question,
        grant: Grant,
        asked: Asked,
        *,
        sealed: bytes = b"",
        error: BaseException | None = None,
        repair: bool = False,
    ) -> None:
        """Count an answer, here and in Redis, and keep it if it is given sealed. Never waits, never fails."""
        usage, name = asked.usage, question.prompt
        usual = self._usual_output.get(name, _EXPECTED_OUTPUT_TOKENS)
        self._usual_output[name] = (1 - _LEARNS) * usual + _LEARNS * usage.output_tokens
        if usage.input_tokens:
            guess = self._guessed.get(name, 1.0)
            expected = max(1.0, (question.tokens - min(usual, question.tokens)) / guess)
            ratio = min(3.0, max(0.3, usage.input_tokens / expected))
            self._guessed[name] = (1 - _LEARNS) * guess + _LEARNS * ratio
        answered(self._core, self._ledger, question, grant, usage, sealed=sealed, error=error, repair=repair)
