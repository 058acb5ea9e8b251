"""A chat request through the core: cache, others who ask the same, quotas, limits, the provider, accounts.

Law: what the provider says reaches the client byte by byte; nothing waits for the accounts. What was reserved comes back
or is settled, whatever ends the request: the provider, a deadline, a client who hangs up. An answer that broke off, or was
cut off, is never kept; one that was paid for is accounted even if nobody is left to read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from infra import metrics
from infra.keyring import DataKey
from infra.settings import Settings
from llm_gateway import cache, pricing
from llm_gateway.accounting import Ledger
from llm_gateway.attempts import Attempts
from llm_gateway.cache import Entry
from llm_gateway.core import Core
from llm_gateway.models import known
from llm_gateway.policy import nano
from llm_gateway.prompt import GatewayError, Lane, ModelUnavailable, OutputInvalid, RateLimited
from llm_gateway.providers.provider import Completed, Headroom, ProviderFailure
from llm_gateway.question import Grant, Hit, Line, Question, Usage
from llm_gateway.server.asked import Asked
from llm_gateway.server.errors import Refusal
from llm_gateway.server.flights import Answered, Dropped, Flight
from llm_gateway.server.stream import Assembly
from llm_gateway.server.upstream import Passed, Passing, Upstream, blocks

ANALYSIS = "chat"
"""What the accounts call all that comes through the server; their prompt version is the virtual key."""
_BYTES_PER_TOKEN = 4.0
"""First guess, and what a request is measured with before it is refused; for limits afterwards what the model's were."""
_USUAL_OUTPUT = 500.0
_LEARNS = 0.2
_GRACE_SECONDS = 1.0
"""For who leads to say himself that it took too long."""
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})
_KNOWN = {facts.name: facts for facts in known()}
_MOST_OUTPUT = 8_192
"""Of a model that is not known here."""

Begin = Callable[[tuple[str, ...]], Awaitable[None]]
"""Told once, before the first block of a stream: the quotas that are nearly spent."""
Sink = Callable[[bytes], Awaitable[None]]
"""Takes events as they come. Must not raise when the client is gone."""


@dataclass(slots=True)
class Call:
    """One request, and whose it is."""

    asked: Asked = field(repr=False)
    tenant: str
    user: str
    key_id: str
    lane: Lane
    data_key: DataKey = field(repr=False)
    deadline: float
    """A moment of the loop's clock."""
    refresh: bool = False
    keep: bool = True
    ttl: int | None = None
    begin: Begin | None = None
    sink: Sink | None = None
    """Where a stream goes."""
    gone: Callable[[], Awaitable[object]] | None = None
    """Returns when the client hangs up."""


@dataclass(slots=True)
class _Learned:
    bytes_per_token: float = _BYTES_PER_TOKEN
    output: float = _USUAL_OUTPUT


class Chat:
    """One per server."""

    def __init__(self, settings: Settings, core: Core, ledger: Ledger, upstream: Upstream) -> None:
        self._core = core
        self._ledger = ledger
        self._upstream = upstream
        self._ttl = settings.cache_ttl_seconds
        self._attempts = Attempts(lambda: asyncio.get_running_loop().time(), breakers=core.breakers)
        self._lines: dict[str, Line] = {}
        self._learned: dict[str, _Learned] = {}
        self._flights: dict[bytes, Flight] = {}
        self._alone: set[Flight] = set()

    async def close(self) -> None:
        """Drop what is under way, and settle it."""
        for flight in (*self._flights.values(), *self._alone):
            await flight.ended()

    async def answer(self, call: Call) -> Answered:
        """The answer, whole; a stream has then been sent already, if it is not a cached or a shared one. Raises Refusal,
        GatewayError, and Gone when the client hangs up.
        """
        try:
            question = self._question(call)
            if question.digest is None:
                return await self._lead(question, call, None)
            name = question.digest + b"r" if call.refresh else question.digest
            while True:
                flight = self._flights.get(name)
                if flight is None:
                    return await self._lead(question, call, name)
                found = await self._follow(flight, question, call)
                if found is not None:
                    return found
        except Dropped:
            raise ModelUnavailable("STOPPING", "this process is stopping; another one will be asked") from None
        except GatewayError as error:
            cause = error.cause if isinstance(error, ModelUnavailable) else type(error).__name__
            metrics.MODEL_WITHHELD.labels(ANALYSIS, cause).inc()
            raise

    # one flight

    async def _lead(self, question: Question, call: Call, name: bytes | None) -> Answered:
        flight = Flight(lambda: self._landed(flight, name))
        if name is None:
            self._alone.add(flight)
        else:
            self._flights[name] = flight
        try:
            held = await self._core.enter(question, call.deadline)
            if isinstance(held, Hit):
                found = self._kept(question, held)
                if found is not None:
                    flight.land(found)
                    return found
                # Sealed with another key, or by another release: asked anew.
                question.refresh = True
                held = await self._core.enter(question, call.deadline)
                if isinstance(held, Hit):
                    raise OutputInvalid(ANALYSIS, "SCHEMA", "what another process answered cannot be read here")  # noqa: TRY301 -- told to who waits, like all that fails here
        except BaseException as error:
            flight.fail(error)
            raise
        flight.carry(self._asked(question, held, call))
        return await self._awaited(flight, call)

    def _landed(self, flight: Flight, name: bytes | None) -> None:
        if name is None:
            self._alone.discard(flight)
        elif self._flights.get(name) is flight:
            del self._flights[name]

    async def _follow(self, flight: Flight, question: Question, call: Call) -> Answered | None:
        """Another's answer; None: it failed by an affair of its own, ask yourself."""
        try:
            found = await self._awaited(flight, call)
        except Dropped:
            return None
        except GatewayError as error:
            late = isinstance(error, ModelUnavailable) and error.cause == "TIMEOUT"
            if isinstance(error, RateLimited) or (late and asyncio.get_running_loop().time() < call.deadline):
                return None
            raise
        self._ledger.hit(question, found.model, found.cost_usd)
        return Answered(found.body, "joined", model=found.model)

    async def _awaited(self, flight: Flight, call: Call) -> Answered:
        # A stream may last; who leads is held to the deadline by the attempts.
        deadline = None if call.sink is not None else call.deadline + _GRACE_SECONDS
        try:
            return await flight.wait(call.gone, deadline)
        except TimeoutError:
            raise ModelUnavailable("TIMEOUT", f"{call.asked.model} gave no answer in the time given") from None

    # the provider

    async def _asked(self, question: Question, grant: Grant, call: Call) -> Answered:
        asked = call.asked
        body = asked.passed()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            completed, attempts = await self._attempts.complete(
                self._upstream,
                lambda left: Passing(asked.model, (), {}, asked.most_output, 0.0, left, body=body, stream=asked.stream),
                asked.model,
                call.deadline,
                turn=lambda: self._core.again(grant, call.deadline),
                told=lambda headroom, quiet: self._told(question.line, headroom, quiet),
            )
        except BaseException as error:
            sent = not (isinstance(error, ModelUnavailable) and error.cause == "CIRCUIT_OPEN")
            self._core.release(grant, error, sent=sent)
            raise
        assert isinstance(completed, Passed)
        if completed.opened is not None:
            return await self._streamed(question, grant, call, completed, attempts, began)
        usage = self._usage(completed, attempts, clock() - began)
        self._settle(question, grant, call, usage, completed.body, whole=_WHOLE.issuperset(completed.finishes))
        return Answered(completed.body, "miss", grant.warnings, usage.model, usage.cost_usd)

    async def _streamed(  # noqa: PLR0917 -- what an answer that has begun is made of
        self, question: Question, grant: Grant, call: Call, completed: Passed, attempts: int, began: float
    ) -> Answered:
        response = completed.opened
        assert response is not None
        assert call.begin is not None
        assert call.sink is not None
        assembly = Assembly(wants_usage=call.asked.wants_usage)
        failed: ModelUnavailable | None = None
        try:
            await call.begin(grant.warnings)
            async for block in blocks(response):
                passed = assembly.add(block)
                if passed:
                    await call.sink(passed)
            response.release()
            if not assembly.done:
                failed = ModelUnavailable("SERVER_ERROR", "the stream ended before it was finished")
        except ProviderFailure as failure:
            self._core.breakers.failed(f"{self._upstream.name}:{call.asked.model}", str(failure))
            failed = ModelUnavailable(failure.cause, failure.detail)
        except ValueError:
            failed = ModelUnavailable("SERVER_ERROR", "the stream was not the API's")
        finally:
            # Closed unless it is at its end: the provider stops when nobody reads.
            if not response.closed:
                response.close()
            usage = self._usage(
                self._counted(call.asked, assembly), attempts, asyncio.get_running_loop().time() - began
            )
            whole = assembly.done and failed is None
            body = assembly.body() if whole else b""
            self._settle(question, grant, call, usage, body, whole=_WHOLE.issuperset(assembly.finishes), error=failed)
        if failed is not None:
            raise failed
        return Answered(body, "miss", grant.warnings, usage.model, usage.cost_usd, streamed=True)

    def _counted(self, asked: Asked, assembly: Assembly) -> Completed:
        inputs, outputs, cached = assembly.counted()
        if not inputs:
            # It ended before the provider told: what was read and said is counted by its length.
            inputs, outputs = asked.tokens(self._of(asked.model).bytes_per_token), assembly.said // 4 + 1
        return Completed("", assembly.model or asked.model, inputs, outputs, cached)

    # what it means for limits and accounts

    def _question(self, call: Call) -> Question:
        asked = call.asked
        facts = _KNOWN.get(asked.model)
        said = asked.tokens(_BYTES_PER_TOKEN)
        if facts is not None and said + asked.most_output > facts.context_tokens:
            room = f" and {asked.most_output} for the answer" if asked.most_output else ""
            raise Refusal(
                400,
                "context_length_exceeded",
                f"about {said} tokens{room}, but {asked.model} holds {facts.context_tokens}: shorten the messages, allow a shorter "
                "answer, or choose a model with a larger context. Nothing was sent",
                param="messages",
            )
        learned = self._of(asked.model)
        most = asked.most_output or (facts.max_output_tokens if facts is not None else _MOST_OUTPUT)
        if facts is not None:
            most = min(most, facts.context_tokens - said)
        line = self._lines.get(asked.model)
        if line is None:
            line = self._lines[asked.model] = Line(self._upstream.name, asked.model, self._upstream.key)
        tokens = asked.tokens(learned.bytes_per_token)
        usual = min(int(learned.output), most)
        digest = None
        if call.keep:
            digest = cache.named(call.data_key, asked.canonical(call.tenant, self._upstream.name))
        return Question(
            call.tenant,
            call.user,
            ANALYSIS,
            line,
            tokens=tokens + usual * asked.choices,
            most_tokens=said + most * asked.choices,
            most_nano=nano(pricing.most_usd(line.provider, line.model, said, most * asked.choices)),
            lane=call.lane,
            prompt=ANALYSIS,
            version=call.key_id,
            digest=digest,
            key=call.data_key,
            ttl=self._ttl if call.ttl is None else min(call.ttl, self._ttl),
            refresh=call.refresh,
        )

    def _of(self, model: str) -> _Learned:
        found = self._learned.get(model)
        if found is None:
            if len(self._learned) > 1_000:  # names come from clients
                self._learned.clear()
                self._lines.clear()
            found = self._learned[model] = _Learned()
        return found

    def _kept(self, question: Question, hit: Hit) -> Answered | None:
        assert question.key is not None
        assert question.digest is not None
        entry = cache.opened(question.key, question.digest, hit.sealed)
        if entry is None:
            return None
        self._ledger.hit(question, entry.model, entry.cost_usd)
        return Answered(
            entry.text.encode(), "joined" if hit.joined else "hit", model=entry.model, cost_usd=entry.cost_usd
        )

    def _settle(
        self,
        question: Question,
        grant: Grant,
        call: Call,
        usage: Usage,
        body: bytes,
        *,
        whole: bool,
        error: BaseException | None = None,
    ) -> None:
        learned = self._of(call.asked.model)
        learned.output += _LEARNS * (usage.output_tokens / call.asked.choices - learned.output)
        if usage.input_tokens and call.asked.size > 100:
            ratio = min(8.0, max(1.0, call.asked.size / usage.input_tokens))
            learned.bytes_per_token += _LEARNS * (ratio - learned.bytes_per_token)
        sealed = b""
        if body and question.digest is not None and question.key is not None:
            entry = Entry(body.decode(), usage.model, question.line.provider, usage.cost_usd)
            sealed = cache.sealed(question.key, question.digest, entry)
            if not whole:
                # Told to who waits for the same, and not kept.
                question.ttl = 0
        day, ledger = grant.day, self._ledger
        ledger.call(question, usage, day=day)
        self._core.settle(
            grant,
            usage,
            sealed=sealed,
            error=error,
            done=lambda generation: ledger.settled(question, usage, day=day, generation=generation),
        )

    def _usage(self, completed: Completed, attempts: int, seconds: float) -> Usage:
        provider = self._upstream.name
        return Usage(
            completed.model, completed.input_tokens, completed.output_tokens, completed.cached_input_tokens,
            pricing.cost_usd(provider, completed), pricing.saved_usd(provider, completed), seconds, attempts,
        )  # fmt: skip

    def _told(self, line: Line, headroom: Headroom | None, quiet: float) -> None:
        if quiet > 0:
            self._core.quiet(line, quiet)
        if headroom is not None:
            self._core.told(line, headroom)
