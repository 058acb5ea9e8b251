"""What a replay will ask of a model, found out without asking it.

Law: the questions are built as they will be built, and counted by the estimate that the gateway reserves by. Nothing is
reserved, asked or kept. What the estimate is off by, and how long answers are, is taken from what was accounted for
lately; where there is nothing yet, the plan says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import llm_usage
from llm_gateway import cache, pricing
from llm_gateway.models import estimated_tokens, facts_of
from llm_gateway.prompt import Answer, Caller, OutputInvalid, Prompt, T
from llm_gateway.providers.provider import Completed
from llm_gateway.shape import shape_of
from processors.replay.seams import Tally

HISTORY_DAYS = 7
ENOUGH_CALLS = 20
"""Fewer accounted calls tell nothing of the next ones."""
GUESSED_OUTPUT = 500
"""Tokens of an answer where none was accounted for: the gateway's own first guess."""


class Planned(OutputInvalid):
    """The question was counted, and nobody was asked: to the analyst an answer of no use, which it passes over."""

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt, "EMPTY", "planned only")


@dataclass(slots=True)
class Asked:
    """The questions of one analysis."""

    model: str
    questions: int = 0
    hits: int = 0
    tokens: int = 0
    """Estimated, of the questions that the cache does not answer."""
    room: int = GUESSED_OUTPUT
    """The longest answer that its prompt allows."""
    system: str = ""
    version: str = ""


@dataclass(slots=True)
class _Question:
    analysis: str
    entry: str
    tokens: int


@dataclass(slots=True)
class Questions:
    """Asks (see `processors.analyst`) that counts. `look` after each page finds out what the cache would have answered."""

    provider: str
    model_of: Callable[[Caller], str]
    """The model that would be asked."""
    ttl: int
    tally: Tally
    by_analysis: dict[str, Asked] = field(default_factory=dict)
    _page: list[_Question] = field(default_factory=list)

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:  # noqa: ARG002 -- the protocol's signature
        """See Asks; raises Planned."""
        shape = shape_of(prompt.answer)
        model = self.model_of(caller)
        digest = cache.question(prompt, caller, provider=self.provider, model=model, shape=shape)
        told = shape.told(facts_of(model).structured)
        tokens = estimated_tokens(prompt.system + told) + estimated_tokens(prompt.user)
        asked = self.by_analysis.setdefault(caller.analysis, Asked(model))
        asked.room, asked.system, asked.version = prompt.max_output_tokens, prompt.system, prompt.version
        self._page.append(_Question(caller.analysis, cache.entry_key(caller.tenant, digest), tokens))
        raise Planned(prompt.name)

    async def look(self, redis: Redis) -> None:
        """Sort the page's questions into answered and to be asked; one round trip. Raises RedisError."""
        page, self._page = self._page, []
        if not page:
            return
        there: list[int] = [0] * len(page)
        if self.ttl:
            async with redis.pipeline(transaction=False) as pipeline:
                for question in page:
                    pipeline.exists(question.entry)
                there = await pipeline.execute()
        for question, hit in zip(page, there, strict=True):
            asked = self.by_analysis[question.analysis]
            asked.questions += 1
            self.tally("insights")
            if hit:
                asked.hits += 1
            else:
                asked.tokens += question.tokens


@dataclass(frozen=True, slots=True)
class History:
    """What one analysis' calls were like: means per call."""

    calls: int
    input_tokens: float
    output_tokens: float
    same_model: bool


async def histories(engine: AsyncEngine, model: str, tenant: str = "") -> dict[str, History]:
    """By analysis, of the last HISTORY_DAYS; of `model` where it was asked often enough, else of any model."""
    since = (datetime.now(UTC) - timedelta(days=HISTORY_DAYS)).date()
    same = (llm_usage.c.model == model).label("same")
    asked = (
        sa.select(
            llm_usage.c.analysis,
            same,
            sa.func.sum(llm_usage.c.calls),
            sa.func.sum(llm_usage.c.input_tokens),
            sa.func.sum(llm_usage.c.output_tokens),
        )
        .where(llm_usage.c.day >= since, llm_usage.c.calls > 0)
        .group_by(llm_usage.c.analysis, sa.text("same"))
    )
    if tenant:
        asked = asked.where(llm_usage.c.tenant == tenant)
    async with engine.connect() as connection:
        rows = (await connection.execute(asked)).all()
    found: dict[str, History] = {}
    for analysis, of_model, calls, inputs, outputs in sorted(rows, key=lambda row: bool(row[1])):
        if calls >= ENOUGH_CALLS and inputs:
            found[analysis] = History(int(calls), float(inputs / calls), float(outputs / calls), bool(of_model))
    return found


@dataclass(frozen=True, slots=True)
class Bill:
    """What the model's part will come to."""

    model_calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    basis: tuple[str, ...]
    """How it was reckoned, a line an analysis."""


def bill(
    provider: str,
    by_analysis: Mapping[str, Asked],
    history: Mapping[str, History],
    replaced: Mapping[str, str],
    free: Iterable[str] = ("offline",),
) -> Bill:
    """Reckon. `replaced`: analysis → the instructions that its questions had before a candidate's; history is of those."""
    calls = hits = inputs = outputs = 0
    cost = 0.0
    basis: list[str] = []
    for analysis, asked in sorted(by_analysis.items()):
        number = asked.questions - asked.hits
        calls, hits = calls + number, hits + asked.hits
        if not number or provider in free:
            continue
        known = history.get(analysis)
        mean = asked.tokens / number
        per_call, length = mean, float(min(asked.room, GUESSED_OUTPUT))
        if known is not None:
            before = mean
            if analysis in replaced:
                before += estimated_tokens(replaced[analysis]) - estimated_tokens(asked.system)
            per_call, length = mean * known.input_tokens / max(1.0, before), known.output_tokens
            whose = "of this model" if known.same_model else "of another model"
            basis.append(f"{analysis}: scaled by {known.calls} calls {whose} in the last {HISTORY_DAYS} days")
        else:
            basis.append(f"{analysis}: no calls accounted for lately, so by characters and a guessed length of answers")
        more_in, more_out = round(number * per_call), round(number * length)
        inputs, outputs = inputs + more_in, outputs + more_out
        cost += pricing.cost_usd(
            provider, Completed(text="", model=asked.model, input_tokens=more_in, output_tokens=more_out)
        )
    return Bill(calls, hits, inputs, outputs, cost, tuple(basis))
