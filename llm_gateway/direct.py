"""One model, asked without a gateway: no cache, no limits, no accounts, no servers; for trying prompts and for their tests.

Law: what the model is told, how its words are read and the one repair are the gateway's own. It spends nobody's quota and is
seen by no limit: never for traffic.
"""

from __future__ import annotations

from dataclasses import replace

from llm_gateway import pricing
from llm_gateway.asking import Turns, added, completion_of, turns_of
from llm_gateway.models import estimated_tokens, facts_of
from llm_gateway.prompt import Answer, InputRefused, ModelUnavailable, OutputInvalid, Prompt, T
from llm_gateway.providers.provider import Completed, Message, ProviderFailure, QuestionRefused
from llm_gateway.routing import Route
from llm_gateway.validation import InvalidOutput, read
from schemas.insight import Usage


class Direct:
    """Asks a route's model, and counts how often."""

    def __init__(self, route: Route, *, timeout: float = 60.0) -> None:
        """`timeout`: seconds of one attempt; there is one, and one repair."""
        self._route = route
        self._facts = facts_of(route.model)
        self._timeout = timeout
        self.calls = 0

    async def ask(self, prompt: Prompt[T], /) -> Answer[T]:
        """The validated answer. Raises ModelUnavailable, OutputInvalid, InputRefused; calling it twice asks twice."""
        turns = turns_of(prompt, self._facts)
        said = sum(estimated_tokens(turn.content) for turn in turns)
        if said + prompt.max_output_tokens > self._facts.context_tokens:
            raise InputRefused(f"{prompt.name}: about {said} tokens do not fit into {self._facts.name}")
        first = await self._once(prompt, turns)
        try:
            return self._answered(prompt, read(first, prompt.answer), first)
        except InvalidOutput as invalid:
            if not invalid.advice:
                raise OutputInvalid(prompt.name, invalid.outcome, invalid.detail) from None
            second = await self._once(prompt, (*turns, Message("user", invalid.advice)))
        try:
            answer = self._answered(prompt, read(second, prompt.answer), second)
        except InvalidOutput as invalid:
            raise OutputInvalid(prompt.name, invalid.outcome, invalid.detail) from None
        return replace(answer, usage=added(self._usage(first), answer.usage))

    async def close(self) -> None:
        """Give up connections; may be called twice."""
        await self._route.provider.close()

    async def _once(self, prompt: Prompt[T], turns: Turns) -> Completed:
        self.calls += 1
        request = completion_of(prompt, turns, self._route.model, self._facts, self._timeout)
        try:
            return await self._route.provider.complete(request)
        except ProviderFailure as failure:
            raise ModelUnavailable(failure.cause, failure.detail, failure.retry_after) from failure
        except QuestionRefused as refused:
            raise InputRefused(str(refused)) from refused

    def _usage(self, completed: Completed) -> Usage:
        return Usage(
            input_tokens=completed.input_tokens,
            output_tokens=completed.output_tokens,
            cost_usd=pricing.cost_usd(self._route.provider.name, completed, self._route.model),
        )

    def _answered(self, prompt: Prompt[T], value: T, completed: Completed) -> Answer[T]:
        return Answer(
            value,
            completed.model,
            self._route.provider.name,
            self._usage(completed),
            cached=False,
            prompt_version=prompt.version,
        )
