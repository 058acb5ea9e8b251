"""The gateway: one question in, one validated answer out, within the caller's budget and time.

Law: the order is fixed: cache, others who ask the same, quotas and limits (one trip to Redis) → wait for the turn → the
model (with others of its kind in one call, where the prompt allows it) → validation, with one repair → settle and keep the
answer (one trip, off the caller's path). Which models are asked, and in which order, `routing` says. Every error is one of `llm_gateway.prompt`'s, and holds no
word of question or answer. What was reserved and not used comes back, whatever happens.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import redis.asyncio
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.settings import Settings
from infra.telemetry import log
from infra.unavailable import Unavailable
from llm_gateway import cache, routing
from llm_gateway.accounting import Ledger, Stats
from llm_gateway.asking import able, added, cause_of, is_ours, part_of
from llm_gateway.attempts import Attempts
from llm_gateway.batch.waiting import Waiting
from llm_gateway.cache import Entry
from llm_gateway.core import Core
from llm_gateway.metered import Asked, Metered
from llm_gateway.models import estimated_tokens
from llm_gateway.packing import Packer
from llm_gateway.policy import Policies
from llm_gateway.prompt import (
    Answer,
    Caller,
    GatewayError,
    InputRefused,
    ModelUnavailable,
    OutputInvalid,
    Prompt,
    RateLimited,
    T,
    WaitsForBatch,
)
from llm_gateway.providers.provider import BatchProvider, Completed, Message, Provider
from llm_gateway.question import Hit, Line, Question
from llm_gateway.shape import shape_of
from llm_gateway.single_flight import SingleFlight
from llm_gateway.validation import InvalidOutput, read
from schemas.insight import Usage

_LEAST_DEADLINE_SECONDS = 0.1
_log = log("llm_gateway")


class Gateway:
    """The one door. Used by many tasks of one loop; build, `start`, `ask`, `stop`."""

    def __init__(
        self, settings: Settings, redis: redis.asyncio.Redis, engine: AsyncEngine, provider: Provider | None = None
    ) -> None:
        """`redis` must return bytes (no `decode_responses`). A `provider` given is asked instead of the one that settings
        mean, for the model that settings name. Raises SettingsError.
        """
        self._routing = (
            routing.routing(settings) if provider is None else routing.alone(routing.Route(provider, settings.model))
        )
        self._ttl = settings.cache_ttl_seconds
        self._seconds = settings.model_timeout_seconds
        self._ledger = Ledger(engine)
        self.policies = Policies(settings, engine)
        self.core = Core(settings, redis, self.policies, self._ledger.counted)
        self._ledger.confirm_with(self.core.catch_up)
        self._attempts = Attempts(
            lambda: asyncio.get_running_loop().time(),
            breakers=self.core.breakers,
            content=settings.gateway_content_in_spans,
        )
        self._doors = {
            route: Metered(route, self.core, self._ledger, self._attempts) for route in self._routing.everywhere
        }
        self._packer = Packer(
            seconds=settings.pack_seconds, most_items=settings.pack_items, most_tokens=settings.pack_tokens
        )
        self._flights: SingleFlight[Answer[Any]] = SingleFlight(_own_affair)
        self._waiting = Waiting(settings, engine, redis, self.core)

    @property
    def model(self) -> str:
        """The model that is asked where no rule says otherwise, and the last one of a cascade."""
        return self._routing.main.model

    def batch_providers(self) -> list[BatchProvider]:
        """Those of its providers that take batches: for the collector."""
        found = {id(route.provider): route.provider for route in self._doors}
        return [each for each in found.values() if isinstance(each, BatchProvider)]

    def stats(self) -> Stats:
        """What this process asked since it started."""
        return self._ledger.stats()

    async def start(self) -> None:
        """Begin to write the accounts; needs no server to be there."""
        self._ledger.start()
        await self.policies.start()
        await self._waiting.start()

    async def stop(self) -> None:
        """Drop what is under way, settle it, write the accounts, close the provider. Redis and engine stay their owner's."""
        await self._flights.close()
        await self._packer.close()
        await self.policies.stop()
        await self._ledger.stop()
        await self.core.close()
        for provider in {id(route.provider): route.provider for route in self._doors}.values():
            await provider.close()

    async def ask(
        self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None, refresh: bool = False
    ) -> Answer[T]:
        """The answer; waits at most `deadline_seconds` (by default `model_timeout_seconds`), retries and waiting for
        the turn included. Asking twice costs once, while the answer is kept; `refresh` asks anew and keeps that answer.

        Raises QuotaSpent (RateLimited), ModelUnavailable, OutputInvalid, InputRefused, and WaitsForBatch for a question of the bulk
        lane that stands in a provider's batch, or may be put into one (`Caller.can_wait`).
        """
        seconds = max(_LEAST_DEADLINE_SECONDS, self._seconds if deadline_seconds is None else deadline_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            return await self._routed(prompt, caller, self._traits(prompt, caller), deadline, refresh=refresh)
        except WaitsForBatch:
            raise
        except GatewayError as error:
            metrics.MODEL_WITHHELD.labels(caller.analysis, cause_of(error)).inc()
            raise

    async def later(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> bool:
        """Put the question into a provider's batch, if it may wait and has no answer yet: True while it waits there. No model is asked.

        Raises QuotaSpent, ModelUnavailable, InputRefused. Calling it twice puts it there once.
        """
        seconds = max(_LEAST_DEADLINE_SECONDS, self._seconds if deadline_seconds is None else deadline_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._put(prompt, caller, deadline)
        except WaitsForBatch:
            return True
        except TimeoutError:
            raise ModelUnavailable("TIMEOUT", f"{prompt.name} found no place to wait within {seconds:.3g} s") from None

    async def _put(self, prompt: Prompt[T], caller: Caller, deadline: float) -> bool:
        """Raises WaitsForBatch; returns False when an answer will be taken, or has to be asked for."""
        judge = prompt.judge
        for tier in self._routing.plan(self._traits(prompt, caller), judged=judge is not None):
            door = self._doors[able(tier, self.core.breakers.allows)[0]]
            if not self._waiting.concerns(door, caller):
                return False
            shape = shape_of(prompt.answer)
            digest = cache.question(prompt, caller, provider=door.provider, model=door.route.model, shape=shape)
            found = await self._waiting.answer(door, prompt, caller, digest, deadline)
            if found is None:
                return False
            with suppress(InvalidOutput):
                value = read(found[1].completed, prompt.answer)
                if judge is None or self._routing.accepts(judge(value)):
                    return False
        return False

    def line_of(self, model: str) -> Line | None:
        """Where questions to this model queue; None for one that it does not ask."""
        return next((door.line for route, door in self._doors.items() if route.model == model), None)

    def models_for(self, prompt: Prompt[T], caller: Caller) -> tuple[str, ...]:
        """The models that this question goes to, one tier after the other until an answer may be taken. Asks nobody."""
        tiers = self._routing.plan(self._traits(prompt, caller), judged=prompt.judge is not None)
        return tuple(tier[0].model for tier in tiers)

    def _traits(self, prompt: Prompt[T], caller: Caller) -> routing.Traits:
        return routing.Traits(
            caller.analysis,
            estimated_tokens(prompt.system) + estimated_tokens(prompt.user),
            prompt.language() if prompt.language is not None and self._routing.reads_language else "",
            self.policies.of(caller.tenant).plan,
            caller.lane,
        )

    async def _routed(
        self, prompt: Prompt[T], caller: Caller, traits: routing.Traits, deadline: float, *, refresh: bool
    ) -> Answer[T]:
        """The first answer that may be taken, tier by tier."""
        judge = prompt.judge
        tiers = self._routing.plan(traits, judged=judge is not None)
        spent = Usage()
        for tier in tiers[:-1]:
            assert judge is not None
            try:
                # Nobody waits for bulk work, and the next tier costs more: it waits for its turn.
                answer = await self._tier(
                    tier, prompt, caller, part_of(deadline), refresh=refresh, another=caller.lane != "bulk"
                )
            except (OutputInvalid, InputRefused, ModelUnavailable, RateLimited) as error:
                if is_ours(error):
                    raise
                metrics.MODEL_CASCADES.labels(prompt.name, "unanswered").inc()
                continue
            spent = added(spent, answer.usage)
            # What could wait for the small model can wait for the large one.
            if answer.batched and not caller.asker:
                caller = replace(caller, can_wait="yes")
            if self._routing.accepts(judge(answer.value)):
                metrics.MODEL_CASCADES.labels(prompt.name, "accepted").inc()
                return replace(answer, usage=spent.model_copy(update={"cached": answer.cached}))
            metrics.MODEL_CASCADES.labels(prompt.name, "passed_on").inc()
        answer = await self._tier(tiers[-1], prompt, caller, deadline, refresh=refresh, another=False)
        if len(tiers) == 1 and answer.usage.cached == answer.cached:
            return answer
        free = answer.cached and not (spent.input_tokens or spent.output_tokens)
        return replace(answer, usage=added(spent, answer.usage).model_copy(update={"cached": free}), cached=free)

    async def _tier(
        self, tier: routing.Tier, prompt: Prompt[T], caller: Caller, deadline: float, *, refresh: bool, another: bool
    ) -> Answer[T]:
        """The answer of the first of its models that can answer. Raises the last one's error. `another`: a tier comes after it."""
        # A provider's batch has limits of its own, and is found again by its model.
        quiet = self._attempts.quiet if caller.can_wait == "no" else None
        models = able(tier, self.core.breakers.allows, quiet)
        for route in models[:-1]:
            try:
                return await self._one(
                    self._doors[route], prompt, caller, part_of(deadline), refresh=refresh, another=True
                )
            except (ModelUnavailable, InputRefused, RateLimited) as error:
                if is_ours(error):
                    raise
                metrics.MODEL_FALLBACKS.labels(route.provider.name, route.model, cause_of(error)).inc()
                _log.warning("model_passed_over", provider=route.provider.name, model=route.model, why=str(error))
        return await self._one(self._doors[models[-1]], prompt, caller, deadline, refresh=refresh, another=another)

    async def _one(
        self, door: Metered, prompt: Prompt[T], caller: Caller, deadline: float, *, refresh: bool, another: bool
    ) -> Answer[T]:
        """One model's answer, from the cache or asked."""
        began = asyncio.get_running_loop().time()
        shape = shape_of(prompt.answer)
        model = door.route.model
        digest = cache.question(prompt, caller, provider=door.provider, model=model, shape=shape)
        # Who can ask another model does not wait as long as who cannot.
        flight = digest + (b"r" if refresh else b"") + (b"a" if another else b"")
        try:
            async with asyncio.timeout_at(deadline):
                answer, joined = await self._flights.join(
                    flight,
                    lambda: self._answer(door, prompt, caller, digest, deadline, refresh=refresh, another=another),
                )
        except TimeoutError:
            raise ModelUnavailable(
                "TIMEOUT", f"{model} gave no answer to {prompt.name} within {deadline - began:.3g} s"
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # It was the question that was dropped, and not who asked it.
            raise ModelUnavailable("STOPPING", "this process is stopping; another one will be asked") from None
        found = cast("Answer[T]", answer)
        if not joined:
            return found
        self._ledger.hit(door.question(prompt, caller, (), digest=None, ttl=0), found.model, found.usage.cost_usd)
        return replace(found, value=found.value.model_copy(deep=True), usage=Usage(cached=True), cached=True)

    async def _answer(
        self,
        door: Metered,
        prompt: Prompt[T],
        caller: Caller,
        digest: bytes,
        deadline: float,
        *,
        refresh: bool,
        another: bool,
    ) -> Answer[T]:
        if not refresh and self._waiting.concerns(door, caller):
            brought = await self._brought(door, prompt, caller, digest, deadline)
            if brought is not None:
                return brought
        turns = door.turns(prompt)
        ttl = self._ttl if prompt.cache_ttl_seconds is None else prompt.cache_ttl_seconds
        question = door.question(prompt, caller, turns, digest=digest, ttl=ttl, refresh=refresh, another=another)
        held = await door.enter(question, deadline)
        if isinstance(held, Hit):
            kept = self._kept(prompt, question, held)
            if kept is not None:
                return kept
            question.refresh = True
            held = await door.enter(question, deadline)
            if isinstance(held, Hit):
                raise OutputInvalid(prompt.name, "SCHEMA", "what another process answered cannot be read here")
        if self._packer.takes(door, prompt, caller.lane):
            asked = await self._packer.ask(door, prompt, turns, held, deadline)
        else:
            asked = await door.ask(prompt, turns, held, deadline)
        try:
            value = _read(asked.completed, prompt)
        except InvalidOutput as invalid:
            given_up = None if invalid.advice else OutputInvalid(prompt.name, invalid.outcome, invalid.detail)
            door.settle(question, held, asked, error=given_up)
            return await self._repaired(door, prompt, caller, question, deadline, first=invalid, spent=_spent(asked))
        door.settle(question, held, asked, sealed=self._sealed(door, question, asked, value))
        return self._answered(door, prompt, asked, value, _spent(asked))

    async def _brought(
        self, door: Metered, prompt: Prompt[T], caller: Caller, digest: bytes, deadline: float
    ) -> Answer[T] | None:
        """What a batch brought, read as any answer; None: it is asked now. It was settled when the batch was read."""
        found = await self._waiting.answer(door, prompt, caller, digest, deadline)
        if found is None:
            return None
        id_, asked = found
        try:
            value = _read(asked.completed, prompt)
        except InvalidOutput as invalid:
            with suppress(Unavailable):
                await self._waiting.no_use(id_, invalid.outcome)
            return None
        self._ledger.took(caller.analysis, asked.usage)
        return replace(self._answered(door, prompt, asked, value, _spent(asked)), batched=True)

    async def _repaired(
        self,
        door: Metered,
        prompt: Prompt[T],
        caller: Caller,
        first_question: Question,
        deadline: float,
        *,
        first: InvalidOutput,
        spent: Usage,
    ) -> Answer[T]:
        if not first.advice:
            raise OutputInvalid(prompt.name, first.outcome, first.detail)
        # The question again with what was wrong, and not the answer that was wrong: it may be long, and is of no use.
        turns = (*door.turns(prompt), Message("user", first.advice))
        question = door.question(
            prompt, caller, turns, digest=first_question.digest, ttl=first_question.ttl, refresh=True,
            another=first_question.another,
        )  # fmt: skip
        held = await door.enter(question, deadline)
        if isinstance(held, Hit):
            kept = self._kept(prompt, question, held)
            if kept is None:
                raise OutputInvalid(prompt.name, first.outcome, first.detail)
            return replace(kept, usage=spent)
        asked = await door.ask(prompt, turns, held, deadline)
        try:
            value = _read(asked.completed, prompt)
        except InvalidOutput as second:
            given_up = OutputInvalid(
                prompt.name, second.outcome, f"{second.detail} (at first {first.outcome}: {first.detail})"
            )
            door.settle(question, held, asked, error=given_up, repair=True)
            raise given_up from None
        door.settle(question, held, asked, sealed=self._sealed(door, question, asked, value), repair=True)
        return self._answered(door, prompt, asked, value, added(spent, _spent(asked)))

    def _answered(self, door: Metered, prompt: Prompt[T], asked: Asked, value: T, usage: Usage) -> Answer[T]:
        return Answer(value, asked.completed.model, door.provider, usage, cached=False, prompt_version=prompt.version)

    def _sealed(self, door: Metered, question: Question, asked: Asked, value: BaseModel) -> bytes:
        assert question.key is not None
        assert question.digest is not None
        entry = Entry(value.model_dump_json(), asked.completed.model, door.provider, asked.usage.cost_usd)
        return cache.sealed(question.key, question.digest, entry)

    def _kept(self, prompt: Prompt[T], question: Question, hit: Hit) -> Answer[T] | None:
        assert question.key is not None
        assert question.digest is not None
        entry = cache.opened(question.key, question.digest, hit.sealed)
        if entry is None:
            return None
        try:
            value = prompt.answer.model_validate_json(entry.text)
        except ValidationError:
            return None
        self._ledger.hit(question, entry.model, entry.cost_usd)
        return Answer(
            value, entry.model, entry.provider, Usage(cached=True), cached=True, prompt_version=prompt.version
        )


def _spent(asked: Asked) -> Usage:
    usage = asked.usage
    return Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cost_usd=usage.cost_usd)


def _read(completed: Completed, prompt: Prompt[T]) -> T:
    try:
        value = read(completed, prompt.answer)
    except InvalidOutput as invalid:
        metrics.MODEL_OUTPUTS.labels(prompt.name, invalid.outcome).inc()
        raise
    metrics.MODEL_OUTPUTS.labels(prompt.name, "VALID").inc()
    return value


def _own_affair(error: BaseException) -> bool:
    """Failures that come of one caller's deadline or lane: another's may be longer, and a live one waits for no batch."""
    return isinstance(error, RateLimited | WaitsForBatch) or (
        isinstance(error, ModelUnavailable) and error.cause == "TIMEOUT"
    )
