"""The gateway: one question in, one validated answer out, within the caller's budget and time.

Law: the order is fixed: cache and quota (one round trip) → wait for the tenant's turn → the model → validation, with
one repair → settle and keep the answer (one round trip). Every error is one of `llm_gateway.prompt`'s, and holds no
word of question or answer. What was reserved and not used comes back, whatever happens.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import redis.asyncio
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.settings import Settings
from llm_gateway import cache, routing
from llm_gateway.accounting import Ledger, Stats
from llm_gateway.attempts import Attempts
from llm_gateway.cache import Entry
from llm_gateway.limits import SCRIPTS, Grant, Hit, Limits
from llm_gateway.metered import Metered
from llm_gateway.prompt import (
    Answer,
    Caller,
    GatewayError,
    ModelUnavailable,
    OutputInvalid,
    Prompt,
    RateLimited,
    T,
)
from llm_gateway.providers.provider import Completed, Message, Provider
from llm_gateway.round_trips import Command, RoundTrips
from llm_gateway.shape import shape_of
from llm_gateway.single_flight import SingleFlight
from llm_gateway.validation import InvalidOutput, read
from schemas.insight import Usage

_LEAST_DEADLINE_SECONDS = 0.1


class Gateway:
    """The one door. Used by many tasks of one loop; build, `start`, `ask`, `stop`."""

    def __init__(
        self, settings: Settings, redis: redis.asyncio.Redis, engine: AsyncEngine, provider: Provider | None = None
    ) -> None:
        """`redis` must return bytes (no `decode_responses`). A `provider` given is asked instead of the one that settings
        mean, for the model that settings name. Raises SettingsError.
        """
        self._route = routing.route(settings) if provider is None else routing.Route(provider, settings.model)
        self._ttl = settings.cache_ttl_seconds
        self._seconds = settings.model_timeout_seconds
        self._trips = RoundTrips(redis, SCRIPTS)
        self._ledger = Ledger(engine)
        limits = Limits(settings, self._trips, self._ledger.counted)
        self._ledger.confirm_with(limits.catch_up)
        self._metered = Metered(self._route, limits, self._ledger, Attempts(lambda: asyncio.get_running_loop().time()))
        self._flights: SingleFlight[Answer[Any]] = SingleFlight(_own_affair)

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self._route.model

    def stats(self) -> Stats:
        """What this process asked since it started."""
        return self._ledger.stats()

    async def start(self) -> None:
        """Begin to write the accounts; needs no server to be there."""
        self._ledger.start()

    async def stop(self) -> None:
        """Drop what is under way, settle it, write the accounts, close the provider. Redis and engine stay their owner's."""
        await self._flights.close()
        await self._metered.close()
        await self._ledger.stop()
        await self._trips.close()
        await self._route.provider.close()

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:
        """The answer; waits at most `deadline_seconds` (by default `model_timeout_seconds`), retries and waiting for
        the tenant's turn included. Asking twice costs once, while the answer is kept.

        Raises QuotaSpent (RateLimited), ModelUnavailable, OutputInvalid, InputRefused.
        """
        seconds = max(_LEAST_DEADLINE_SECONDS, self._seconds if deadline_seconds is None else deadline_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        shape = shape_of(prompt.answer)
        digest = cache.question(
            prompt, caller, provider=self._route.provider.name, model=self._route.model, shape=shape
        )
        try:
            async with asyncio.timeout_at(deadline):
                answer, joined = await self._flights.join(
                    digest, lambda: self._answer(prompt, caller, digest, deadline)
                )
        except TimeoutError:
            metrics.MODEL_WITHHELD.labels(caller.analysis, "TIMEOUT").inc()
            raise ModelUnavailable(
                "TIMEOUT", f"{self._route.model} gave no answer to {prompt.name} within {seconds:g} s"
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # It was the question that was dropped, and not who asked it.
            raise ModelUnavailable("STOPPING", "this process is stopping; another one will be asked") from None
        except GatewayError as error:
            cause = error.cause if isinstance(error, ModelUnavailable) else type(error).__name__
            metrics.MODEL_WITHHELD.labels(caller.analysis, cause).inc()
            raise
        found = cast("Answer[T]", answer)
        if not joined:
            return found
        self._ledger.hit(caller, found.model, prompt.version)
        return replace(found, value=found.value.model_copy(deep=True), usage=Usage(cached=True), cached=True)

    async def _answer(self, prompt: Prompt[T], caller: Caller, digest: bytes, deadline: float) -> Answer[T]:
        turns = self._metered.turns(prompt)
        entry = cache.entry_key(caller.tenant, digest) if self._ttl else None
        held = await self._metered.reserve(prompt, caller, turns, deadline, entry=entry)
        if isinstance(held, Hit):
            kept = self._kept(prompt, caller, digest, held)
            if kept is not None:
                return kept
            held = await self._metered.reserve(prompt, caller, turns, deadline, entry=None)
        grant = cast("Grant", held)
        completed = await self._metered.ask(prompt, turns, grant, deadline)
        try:
            value = _read(completed, prompt)
        except InvalidOutput as invalid:
            spent = await self._metered.settle(prompt, caller, grant, completed)
            return await self._repaired(prompt, caller, digest, deadline, first=invalid, spent=spent)
        usage = await self._metered.settle(
            prompt, caller, grant, completed, *self._keeping(caller, digest, completed, value)
        )
        return self._answered(prompt, completed, value, usage)

    async def _repaired(
        self, prompt: Prompt[T], caller: Caller, digest: bytes, deadline: float, *, first: InvalidOutput, spent: Usage
    ) -> Answer[T]:
        if not first.advice:
            raise OutputInvalid(prompt.name, first.outcome, first.detail)
        # The question again with what was wrong, and not the answer that was wrong: it may be long, and is of no use.
        turns = (*self._metered.turns(prompt), Message("user", first.advice))
        grant = cast("Grant", await self._metered.reserve(prompt, caller, turns, deadline, entry=None))
        completed = await self._metered.ask(prompt, turns, grant, deadline)
        try:
            value = _read(completed, prompt)
        except InvalidOutput as second:
            await self._metered.settle(prompt, caller, grant, completed, repair=True)
            detail = f"{second.detail} (at first {first.outcome}: {first.detail})"
            raise OutputInvalid(prompt.name, second.outcome, detail) from None
        keeping = self._keeping(caller, digest, completed, value)
        more = await self._metered.settle(prompt, caller, grant, completed, *keeping, repair=True)
        usage = Usage(
            input_tokens=spent.input_tokens + more.input_tokens,
            output_tokens=spent.output_tokens + more.output_tokens,
            cost_usd=spent.cost_usd + more.cost_usd,
        )
        return self._answered(prompt, completed, value, usage)

    def _answered(self, prompt: Prompt[T], completed: Completed, value: T, usage: Usage) -> Answer[T]:
        return Answer(
            value, completed.model, self._route.provider.name, usage, cached=False, prompt_version=prompt.version
        )

    def _keeping(self, caller: Caller, digest: bytes, completed: Completed, value: BaseModel) -> tuple[Command, ...]:
        if not self._ttl:
            return ()
        kept = Entry(value.model_dump_json(), completed.model, self._route.provider.name)
        return (cache.keep(caller, digest, kept, self._ttl),)

    def _kept(self, prompt: Prompt[T], caller: Caller, digest: bytes, hit: Hit) -> Answer[T] | None:
        entry = cache.opened(caller, digest, hit.sealed)
        if entry is None:
            return None
        try:
            value = prompt.answer.model_validate_json(entry.text)
        except ValidationError:
            return None
        self._ledger.hit(caller, entry.model, prompt.version)
        return Answer(
            value, entry.model, entry.provider, Usage(cached=True), cached=True, prompt_version=prompt.version
        )


def _read(completed: Completed, prompt: Prompt[T]) -> T:
    try:
        value = read(completed, prompt.answer)
    except InvalidOutput as invalid:
        metrics.MODEL_OUTPUTS.labels(prompt.name, invalid.outcome).inc()
        raise
    metrics.MODEL_OUTPUTS.labels(prompt.name, "VALID").inc()
    return value


def _own_affair(error: BaseException) -> bool:
    """Failures that come of one caller's deadline: another's may be longer."""
    return isinstance(error, RateLimited) or (isinstance(error, ModelUnavailable) and error.cause == "TIMEOUT")
