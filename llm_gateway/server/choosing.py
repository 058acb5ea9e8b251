"""Names of our own that clients may ask for (`[models]` of the routes file): a model with others to fall back to, a cascade, or
whatever the rules choose.

Law: the name decides; a request that names a provider's model goes there and nowhere else. The next model is asked when one
cannot answer, and never after the client has seen the beginning of a stream. In a cascade an answer of each tier but the last
is taken only if it is whole and what was asked for (JSON after the schema, where there is one); who judges content is the
library's caller, and here there is none. So the tiers before the last are not streamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from infra import metrics
from infra.telemetry import log
from llm_gateway.asking import able, cause_of, is_ours, part_of
from llm_gateway.core import Core
from llm_gateway.policy import Policies
from llm_gateway.prompt import GatewayError, InputRefused, ModelUnavailable, OutputInvalid, RateLimited
from llm_gateway.routing import Route, Served, Tier, Traits
from llm_gateway.server.call import BrokenOff, Call
from llm_gateway.server.chat import Chat, withheld
from llm_gateway.server.errors import Refusal, TakenBack
from llm_gateway.server.flights import Answered
from llm_gateway.server.meter import ANALYSIS, BYTES_PER_TOKEN, TOO_LONG, Meter
from llm_gateway.server.schema import Checker, Mismatch, judged

_THIS_MODELS = frozenset({TOO_LONG, "request_too_large", "json_validate_failed", "tool_use_failed"})
"""What a provider has against a request that another model might take."""
_CANNOT = (ModelUnavailable, InputRefused, OutputInvalid, RateLimited, Refusal)


class Choosing:
    """One per server."""

    def __init__(
        self, served: Served | None, core: Core, policies: Policies, chat: Chat, meters: Mapping[str, Meter]
    ) -> None:
        """`meters`: by the provider's name, each that a route may name."""
        self._served = served
        self._core = core
        self._policies = policies
        self._chat = chat
        self._meters = meters
        self.names: frozenset[str] = frozenset() if served is None else frozenset(served.models)

    async def answer(self, call: Call) -> Answered:
        """See `Chat.answer`; raises the last model's error."""
        try:
            return await self._answered(call)
        except GatewayError as error:
            withheld(error)
            raise

    async def _answered(self, call: Call) -> Answered:
        tiers = self._tiers(call)
        asked = call.asked
        if len(tiers) == 1:
            return await self._tier(tiers[0], call)
        checker = Checker(asked.schema) if asked.schema is not None else None
        for tier in tiers[:-1]:
            try:
                found = await self._tier(
                    tier,
                    # Nobody waits for bulk work, and the next tier costs more: it waits for its turn.
                    replace(
                        call,
                        deadline=part_of(call.deadline),
                        begin=None,
                        sink=None,
                        end=None,
                        another=call.lane != "bulk",
                    ),
                    whole=True,
                )
                judged(found.body, checker, wants_json=asked.wants_json)
            except Mismatch:
                metrics.MODEL_CASCADES.labels(ANALYSIS, "passed_on").inc()
            except _CANNOT as error:
                if not _another_may(error):
                    raise
                metrics.MODEL_CASCADES.labels(ANALYSIS, "unanswered").inc()
            else:
                metrics.MODEL_CASCADES.labels(ANALYSIS, "accepted").inc()
                return found
        return await self._tier(tiers[-1], call)

    def _tiers(self, call: Call) -> Sequence[Tier]:
        assert self._served is not None
        tiers = self._served.models[call.asked.model]
        if tiers is not None:
            return tiers
        traits = Traits(
            call.analysis or ANALYSIS,
            call.asked.tokens(BYTES_PER_TOKEN),
            plan=self._policies.of(call.tenant).plan,
            lane=call.lane,
        )
        return self._served.routing.plan(traits, judged=True)

    async def _tier(self, tier: Tier, call: Call, *, whole: bool = False) -> Answered:
        models = able(tier, self._core.breakers.allows, self._chat.quiet)
        for route in models[:-1]:
            try:
                return await self._one(route, replace(call, deadline=part_of(call.deadline), another=True), whole=whole)
            except _CANNOT as error:
                if not _another_may(error):
                    raise
                cause = cause_of(error)
                metrics.MODEL_FALLBACKS.labels(route.provider.name, route.model, cause).inc()
                log("llm_gateway").warning(
                    "model_passed_over", provider=route.provider.name, model=route.model, why=cause
                )
        return await self._one(models[-1], call, whole=whole)

    async def _one(self, route: Route, call: Call, *, whole: bool) -> Answered:
        asked = call.asked.to(route.model, whole=whole)
        return await self._chat.one(self._meters[route.provider.name], replace(call, asked=asked))


def _another_may(error: Exception) -> bool:
    match error:
        case BrokenOff():
            return False
        case ModelUnavailable():
            return not is_ours(error)
        case Refusal():
            return error.code == TOO_LONG
        case InputRefused():
            back = error.__cause__
            return not isinstance(back, TakenBack) or back.status == 413 or back.code in _THIS_MODELS
    return True
