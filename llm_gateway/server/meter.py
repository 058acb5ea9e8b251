"""What a chat request means for limits, quotas and accounts, and what an answer took.

Law: counts by length before, by what the provider told after. A request that cannot fit into its model is refused here, with
its size, before anything is reserved or sent. Settling never waits and never fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_gateway import cache, pricing
from llm_gateway.accounting import Ledger
from llm_gateway.answered import answered
from llm_gateway.cache import Entry
from llm_gateway.core import Core
from llm_gateway.models import facts_of, is_known
from llm_gateway.policy import nano
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Grant, Line, Question, Usage
from llm_gateway.server.asked import Asked
from llm_gateway.server.call import Call
from llm_gateway.server.errors import Refusal
from llm_gateway.server.stream import Assembly
from llm_gateway.server.upstream import Upstream

ANALYSIS = "chat"
"""What the accounts call all that comes through the server; their prompt version is the virtual key."""
BYTES_PER_TOKEN = 4.0
"""First guess, and what a request is measured with before it is refused; for limits afterwards what the model's were."""
_USUAL_OUTPUT = 500.0
_LEARNS = 0.2
_MOST_NAMES = 1_000
TOO_LONG = "context_length_exceeded"


@dataclass(slots=True)
class _Learned:
    bytes_per_token: float = BYTES_PER_TOKEN
    output: float = _USUAL_OUTPUT


class Meter:
    """One per server and provider."""

    def __init__(self, core: Core, ledger: Ledger, upstream: Upstream, ttl: int) -> None:
        """`ttl`: seconds that an answer is kept, at most."""
        self._core = core
        self._ledger = ledger
        self.upstream = upstream
        self._ttl = ttl
        self._lines: dict[str, Line] = {}
        self._learned: dict[str, _Learned] = {}

    def question(self, call: Call) -> Question:
        """What the core must know. Raises Refusal when it cannot fit into the model."""
        asked = call.asked
        facts, listed = facts_of(asked.model), is_known(asked.model)
        said = asked.tokens(BYTES_PER_TOKEN)
        if listed and said + asked.most_output > facts.context_tokens:
            room = f" and {asked.most_output} for the answer" if asked.most_output else ""
            raise Refusal(
                400,
                TOO_LONG,
                f"about {said} tokens{room}, but {asked.model} holds {facts.context_tokens}: shorten the messages, allow a shorter "
                "answer, or choose a model with a larger context. Nothing was sent",
                param="messages",
            )
        learned = self._of(asked.model)
        most = asked.most_output or facts.max_output_tokens
        if listed:
            most = min(most, facts.context_tokens - said)
        line = self._lines.get(asked.model)
        if line is None:
            line = self._lines[asked.model] = Line(self.upstream.name, asked.model, self.upstream.key)
        tokens = asked.tokens(learned.bytes_per_token)
        usual = min(int(learned.output), most)
        digest = None
        if call.keep:
            digest = cache.named(call.data_key, asked.canonical(call.tenant, self.upstream.name))
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
            input_tokens=tokens,
            another=call.another,
        )

    def counted(self, asked: Asked, assembly: Assembly) -> Completed:
        """What a stream took, as far as it came."""
        inputs, outputs, cached = assembly.counted()
        if not inputs:
            # It ended before the provider told: what was read and said is counted by its length.
            inputs, outputs = asked.tokens(self._of(asked.model).bytes_per_token), assembly.said // 4 + 1
        finishes = assembly.finishes
        return Completed(
            "", assembly.model or asked.model, inputs, outputs, cached, finish_reason=finishes[0] if finishes else "",
        )  # fmt: skip

    def settle(
        self,
        question: Question,
        grant: Grant,
        asked: Asked,
        usage: Usage,
        body: bytes,
        *,
        whole: bool,
        error: BaseException | None = None,
        repair: bool = False,
    ) -> None:
        """Count an answer, here and in Redis, and keep it if there is a `body`; one that is not `whole` is told to who waits for
        it, and not kept.
        """
        learned = self._of(asked.model)
        learned.output += _LEARNS * (usage.output_tokens / asked.choices - learned.output)
        if usage.input_tokens and asked.size > 100:
            ratio = min(8.0, max(1.0, asked.size / usage.input_tokens))
            learned.bytes_per_token += _LEARNS * (ratio - learned.bytes_per_token)
        sealed = b""
        if body and question.digest is not None and question.key is not None:
            entry = Entry(body.decode(), usage.model, question.line.provider, usage.cost_usd)
            sealed = cache.sealed(question.key, question.digest, entry)
            if not whole:
                question.ttl = 0
        answered(self._core, self._ledger, question, grant, usage, sealed=sealed, error=error, repair=repair)

    def _of(self, model: str) -> _Learned:
        found = self._learned.get(model)
        if found is None:
            if len(self._learned) > _MOST_NAMES:  # names come from clients
                self._learned.clear()
                self._lines.clear()
            found = self._learned[model] = _Learned()
        return found
