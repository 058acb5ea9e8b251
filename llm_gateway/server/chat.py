"""A chat request through the core: cache, others who ask the same, quotas, limits, the provider, accounts.

Law: what the provider says reaches the client byte by byte; nothing waits for the accounts. What was reserved comes back
or is settled, whatever ends the request: the provider, a deadline, a client who hangs up. An answer that broke off, or was
cut off, is never kept; one that was paid for is accounted even if nobody is left to read it, and a question that was sent and
not heard of by its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Any

from infra import metrics
from llm_gateway import cache, pricing
from llm_gateway.accounting import Ledger
from llm_gateway.answered import unanswered
from llm_gateway.asking import cause_of
from llm_gateway.attempts import Attempts
from llm_gateway.core import Core
from llm_gateway.genai import Operation
from llm_gateway.prompt import GatewayError, ModelUnavailable, OutputInvalid, RateLimited
from llm_gateway.providers.provider import ProviderFailure
from llm_gateway.question import Grant, Hit, Question
from llm_gateway.server import emulated
from llm_gateway.server.call import BrokenOff, Call
from llm_gateway.server.flights import Answered, Dropped, Flight
from llm_gateway.server.meter import ANALYSIS, Meter
from llm_gateway.server.schema import WHOLE
from llm_gateway.server.stream import Assembly
from llm_gateway.server.upstream import Passed, Passing, blocks

_GRACE_SECONDS = 1.0
"""For who leads to say himself that it took too long."""


@dataclass(slots=True)
class Sent:
    """A provider's answer to one request, or its beginning."""

    passed: Passed
    attempts: int
    began: float
    operation: Operation | None = None
    """Of a stream that has begun: ended with it."""


class Chat:
    """One per server."""

    def __init__(self, core: Core, ledger: Ledger, *, spans_hold_content: bool = False) -> None:
        self._core = core
        self._ledger = ledger
        self._attempts = Attempts(
            monotonic,
            breakers=core.breakers,
            content=spans_hold_content,
            named_by_clients=True,
        )
        self._flights: dict[bytes, Flight] = {}
        self._alone: set[Flight] = set()

    def quiet(self, provider: str, model: str) -> float:
        """See `Attempts.quiet`."""
        return self._attempts.quiet(provider, model)

    async def close(self) -> None:
        """Drop what is under way, and settle it."""
        for flight in (*self._flights.values(), *self._alone):
            await flight.ended()

    async def answer(self, meter: Meter, call: Call) -> Answered:
        """One model's answer, whole; a stream has then been sent already, if it is not a cached or a shared one. Raises Refusal,
        GatewayError, and Gone when the client hangs up.
        """
        try:
            return await self.one(meter, call)
        except GatewayError as error:
            withheld(error)
            raise

    async def one(self, meter: Meter, call: Call) -> Answered:
        """The same, for who asks another model when this one cannot answer: an error is not yet a question without an answer."""
        try:
            question = meter.question(call)
            if question.digest is None:
                return await self._lead(meter, question, call, None)
            name = question.digest + b"r" if call.refresh else question.digest
            if call.another:
                # Who can ask another model does not wait as long as who cannot.
                name += b"a"
            while True:
                flight = self._flights.get(name)
                if flight is None:
                    return await self._lead(meter, question, call, name)
                found = await self._follow(flight, question, call)
                if found is not None:
                    return found
        except Dropped:
            raise ModelUnavailable("STOPPING", "this process is stopping; another one will be asked") from None

    # one flight

    async def _lead(self, meter: Meter, question: Question, call: Call, name: bytes | None) -> Answered:
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
        flight.carry(self._asked(meter, question, held, call))
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
            if isinstance(error, RateLimited) or (late and monotonic() < call.deadline):
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

    # the provider

    async def _asked(self, meter: Meter, question: Question, grant: Grant, call: Call) -> Answered:
        asked = call.asked
        if asked.emulated:
            return await emulated.answer(self, meter, question, grant, call)
        try:
            sent = await self.sent(meter, grant, call, asked.passed(), stream=asked.stream)
        except BaseException as error:
            self.give_back(grant, error)
            raise
        passed = sent.passed
        if passed.opened is not None:
            return await self._streamed(meter, question, grant, call, sent)
        usage = pricing.usage_of(meter.upstream.name, passed, sent.attempts, monotonic() - sent.began, asked.model)
        meter.settle(question, grant, asked, usage, passed.body, whole=WHOLE.issuperset(passed.finishes))
        return Answered(passed.body, "miss", grant.warnings, usage.model, usage.cost_usd)

    async def sent(self, meter: Meter, grant: Grant, call: Call, body: bytes, *, stream: bool = False) -> Sent:
        """The provider's answer to `body`; the grant stays with the caller, whatever is raised."""
        asked = call.asked
        began = monotonic()
        handed: list[Operation] = []
        completed, attempts = await self._attempts.complete(
            meter.upstream,
            lambda left: Passing(
                asked.model, (), _NO_FORMAT, asked.most_output, 0.0, left, body=body, stream=stream, handed=handed.append,
                asked=asked,
            ),
            asked.model,
            call.deadline,
            turn=lambda: self._core.again(grant, call.deadline),
            told=lambda headroom, quiet: self._core.heard(grant, headroom, quiet),
            sent=grant,
            another=grant.question.another,
        )  # fmt: skip
        assert isinstance(completed, Passed)
        return Sent(completed, attempts, began, handed[0] if handed else None)

    def give_back(self, grant: Grant, error: BaseException) -> None:
        """It was not answered. Never waits, never fails."""
        unanswered(self._core, self._ledger, grant, error)

    async def again(self, question: Question, deadline: float) -> Hit | Grant:
        """The right to ask once more: a repair counts like any question."""
        question.refresh = True
        return await self._core.enter(question, deadline)

    async def _streamed(self, meter: Meter, question: Question, grant: Grant, call: Call, sent: Sent) -> Answered:
        response, operation = sent.passed.opened, sent.operation
        assert response is not None
        assert operation is not None
        assert call.begin is not None
        assert call.sink is not None
        assert call.end is not None
        assembly = Assembly(wants_usage=call.asked.wants_usage)
        failed: ModelUnavailable | None = None
        try:
            await call.begin(grant.warnings)
            async for block in blocks(response):
                passed = assembly.add(block)
                if passed:
                    await call.sink(passed)
                    operation.said()
            response.release()
            if assembly.done:
                # Counting and keeping it is nothing that the client should wait for.
                await call.end()
            else:
                failed = BrokenOff("SERVER_ERROR", "the stream ended before it was finished")
        except ProviderFailure as failure:
            self._core.breakers.failed(f"{meter.upstream.name}:{call.asked.model}", str(failure))
            failed = BrokenOff(failure.cause, failure.detail)
        except ValueError:
            failed = BrokenOff("SERVER_ERROR", "the stream was not the API's")
        finally:
            # Closed unless it is at its end: the provider stops when nobody reads.
            if not response.closed:
                response.close()
            completed = meter.counted(call.asked, assembly)
            usage = pricing.usage_of(
                meter.upstream.name,
                completed,
                sent.attempts,
                monotonic() - sent.began,
                call.asked.model,
            )
            whole = assembly.done and failed is None
            body = assembly.body() if whole else b""
            operation.ended(completed, None if whole else failed.cause if failed is not None else "dropped", body)
            meter.settle(
                question, grant, call.asked, usage, body, whole=WHOLE.issuperset(assembly.finishes), error=failed
            )
        if failed is not None:
            raise failed
        return Answered(body, "miss", grant.warnings, usage.model, usage.cost_usd, streamed=True)


_NO_FORMAT: dict[str, Any] = {}


def withheld(error: GatewayError) -> None:
    """Count a question without an answer."""
    metrics.MODEL_WITHHELD.labels(ANALYSIS, cause_of(error)).inc()
