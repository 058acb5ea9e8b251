"""Asks a model until it answers, until the error forbids another attempt, or until the caller's time is over.

Law: waits are jittered and never reach past the deadline: a caller whose time would be spent waiting is told at once
how long the wait is, and so is one who has another model to ask. Every attempt after the first takes a turn of its own: limits
count attempts. A provider that names a time (`retry-after`, `x-ratelimit-*`) is left alone until then, by everybody in this
process and, told through the core, by everybody. An attempt has all the time that is left: an answer that was not waited for
is paid for, and a second one would have less time than the first.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from infra.telemetry import tracer
from llm_gateway.breaker import Breaker
from llm_gateway.breakers import LocalBreakers
from llm_gateway.genai import OTHER, Operation
from llm_gateway.models import is_known
from llm_gateway.prompt import InputRefused, ModelUnavailable
from llm_gateway.providers.provider import Completed, Completion, Headroom, Provider, ProviderFailure, QuestionRefused
from llm_gateway.question import SHORT_WAIT_SECONDS

MOST_ATTEMPTS = 4
FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
_LEAST_SECONDS = 0.05
_LAST_WORD_SECONDS = 0.25
"""An attempt ends this much before its caller's time does (or a twentieth of it), so that it is told how it ended."""
_MOST_LINES = 10_000


@dataclass
class _Line:
    """The line to one model: the name of its circuit, and until when the provider asked for quiet."""

    name: str
    shown: str = ""
    """How the model is called in metrics; empty: by its name."""
    quiet_until: float = 0.0


class Sent(Protocol):
    """Who is told whether a question is with the provider."""

    unheard: int
    """One more from when it is sent until something is heard of it; it stays when nothing is: after a timeout, or when dropped."""


Turn = Callable[[], Awaitable[None]]
"""Waits for the right to one more attempt; raises when it does not come in time."""
Told = Callable[[Headroom | None, float], None]
"""What a provider said of its limits, and for how many seconds it wants quiet (0: for none). Never raises."""


class Attempts:
    """One per gateway. `clock` is the event loop's; deadlines are moments of it."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breakers: LocalBreakers | None = None,
        content: bool = False,
        named_by_clients: bool = False,
    ) -> None:
        """`content`: spans hold questions and answers. `named_by_clients`: names of models come from outside: one that does not
        exist is nobody's trouble (it opens no circuit), and metrics do not repeat it until it has answered.
        """
        self._content = content
        self._by_clients = named_by_clients
        self._clock = clock
        # Jitter spreads retries; nobody must be unable to guess it.
        self._rng = rng or random.Random()  # noqa: S311 -- jitter, not a secret
        self._sleep = sleep
        self._lines: dict[tuple[str, str], _Line] = {}
        self._breakers = breakers or LocalBreakers(clock)

    def breaker(self, provider: str, model: str) -> Breaker:
        """The breaker of one model."""
        return self._breakers.of(f"{provider}:{model}")

    def quiet(self, provider: str, model: str) -> float:
        """Seconds for which the provider wants no questions to this model, as far as this process was told."""
        line = self._lines.get((provider, model))
        return 0.0 if line is None else max(0.0, line.quiet_until - self._clock())

    async def complete(  # noqa: C901 -- one branch a way that an attempt can end
        self,
        provider: Provider,
        make: Callable[[float], Completion],
        model: str,
        deadline: float,
        *,
        turn: Turn | None = None,
        told: Told | None = None,
        sent: Sent | None = None,
        another: bool = False,
    ) -> tuple[Completed, int]:
        """The model's answer to `make(seconds for the attempt)`, and how many attempts it took. Raises ModelUnavailable,
        InputRefused, and what `turn` raises, which is awaited before every attempt but the first. `sent` is told what is with
        the provider. `another`: another model can be asked, so that a wait of more than SHORT_WAIT_SECONDS is not begun.
        """
        line = self._line(provider.name, model)
        patience = SHORT_WAIT_SECONDS if another else math.inf
        delay = FIRST_DELAY
        for attempt in range(1, MOST_ATTEMPTS + 1):
            left = await self._turn(line, provider.name, model, deadline, patience)
            if attempt > 1 and turn is not None:
                try:
                    await turn()
                except BaseException:
                    self._breakers.gave_up(line.name)
                    raise
                left = deadline - self._clock()
            allowed = left - min(_LAST_WORD_SECONDS, left / 20)
            began = self._clock()
            try:
                completed = await self._once(line, provider, make(allowed), allowed, sent)
            except ProviderFailure as failure:
                if told is not None and failure.cause == "RATE_LIMITED":
                    told(None, failure.retry_after or 0.0)
                pause = failure.retry_after if failure.retry_after is not None else self._rng.uniform(delay / 2, delay)
                delay = min(delay * 2, LONGEST_DELAY)
                now = self._clock()
                fits = pause <= patience and now + pause + _LEAST_SECONDS < deadline
                if failure.cause == "TIMEOUT" and deadline - now < now - began:
                    # What took so long will not be faster.
                    fits = False
                if not failure.retry or attempt == MOST_ATTEMPTS or not fits:
                    raise ModelUnavailable(failure.cause, failure.detail, failure.retry_after) from failure
                if failure.retry_after is None:
                    await self._sleep(pause)
            except QuestionRefused as refused:
                raise InputRefused(str(refused)) from refused
            else:
                if completed.headroom is not None:
                    self._heard(line, completed.headroom, told)
                return completed, attempt
        raise AssertionError("the last attempt returns or raises")

    def _heard(self, line: _Line, headroom: Headroom, told: Told | None) -> None:
        spent_for = headroom.spent_for()
        if spent_for:
            line.quiet_until = max(line.quiet_until, self._clock() + spent_for)
        if told is not None:
            told(headroom, spent_for)

    async def _turn(self, line: _Line, provider: str, model: str, deadline: float, patience: float) -> float:
        """Wait until a question may go out; seconds that are left then."""
        while (quiet := line.quiet_until - self._clock()) > 0:
            if quiet > patience or self._clock() + quiet + _LEAST_SECONDS >= deadline:
                raise ModelUnavailable(
                    "RATE_LIMITED", f"{provider} asks for {quiet:.1f} s without questions to {model}", quiet
                )
            # Spread over a tenth more, so that those who wait do not all come back at once.
            await self._sleep(quiet * self._rng.uniform(1.0, 1.1))
        left = deadline - self._clock()
        if left < _LEAST_SECONDS:
            raise ModelUnavailable("TIMEOUT", f"{model} was not reached in the time given")
        closed_for = await self._breakers.wait(line.name, left)
        if closed_for > 0:
            raise ModelUnavailable(
                "CIRCUIT_OPEN",
                f"{model} at {provider} is left alone for now, it failed repeatedly: {self._breakers.why(line.name)}",
                closed_for,
            )
        return left

    async def _once(
        self, line: _Line, provider: Provider, request: Completion, allowed: float, sent: Sent | None
    ) -> Completed:
        operation = Operation(tracer(), provider.name, getattr(provider, "host", ""), request, content=self._content)
        outcome = "dropped"
        if sent is not None:
            sent.unheard += 1
        try:
            completed = await self._judged(line, provider, request, allowed)
        except ProviderFailure as failure:
            outcome = failure.cause
            raise
        except QuestionRefused:
            outcome = "refused"
            raise
        else:
            outcome = ""
            line.shown = ""
            if request.handed is None or not completed.begun:
                operation.ended(completed, None)
            else:
                request.handed(operation)
            return completed
        finally:
            if sent is not None and outcome != "dropped" and outcome != "TIMEOUT":  # noqa: PLR1714 -- cheaper than a set
                sent.unheard -= 1
            if outcome:
                operation.ended(None, outcome, named=line.shown)

    async def _judged(self, line: _Line, provider: Provider, request: Completion, allowed: float) -> Completed:
        """One attempt, and what it tells about the model's health."""
        try:
            async with asyncio.timeout(allowed):
                completed = await provider.complete(request)
        except TimeoutError:
            late = ProviderFailure("TIMEOUT", f"{request.model} did not answer within {allowed:.1f} s", retry=True)
            self._breakers.failed(line.name, str(late))
            raise late from None
        except ProviderFailure as failure:
            if failure.cause == "MODEL_GONE" and self._by_clients:
                self._breakers.gave_up(line.name)
                raise
            if failure.cause != "RATE_LIMITED":
                self._breakers.failed(line.name, str(failure))
                raise
            # It is there and well; it wants fewer questions.
            self._breakers.succeeded(line.name)
            if failure.retry_after is not None:
                line.quiet_until = max(line.quiet_until, self._clock() + failure.retry_after)
            raise
        except QuestionRefused:
            self._breakers.succeeded(line.name)
            raise
        except BaseException:
            self._breakers.gave_up(line.name)
            raise
        self._breakers.succeeded(line.name)
        return completed

    def _line(self, provider: str, model: str) -> _Line:
        line = self._lines.get((provider, model))
        if line is None:
            if len(self._lines) >= _MOST_LINES:
                self._lines.clear()
            shown = OTHER if self._by_clients and not is_known(model) else ""
            line = self._lines[provider, model] = _Line(f"{provider}:{model}", shown)
        return line
