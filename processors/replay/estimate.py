"""What a replay will ask of a model, found out without asking it.

Law: the questions are built as they will be built, and counted by the estimate that the gateway reserves by. Nothing is
reserved, asked or kept. What the estimate is off by, how long answers are, how many share a call and how often a cheap
model's answer is not taken is learned from what was accounted for lately, of replays where there is enough of them; where
there is nothing yet, the plan says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import llm_usage
from llm_gateway import cache, pricing
from llm_gateway.models import estimated_tokens, facts_of
from llm_gateway.policy import REPLAYS
from llm_gateway.prompt import Answer, Caller, OutputInvalid, Prompt, T
from llm_gateway.shape import shape_of
from processors.replay.seams import Tally

HISTORY_DAYS = 7
ENOUGH_CALLS = 20
"""Fewer accounted calls tell nothing of the next ones."""
GUESSED_OUTPUT = 500
"""Tokens of an answer where none was accounted for: the gateway's own first guess."""
GUESSED_PASSED_ON = 0.2
"""Share of a cheap model's answers that are not taken, where nothing was accounted for."""


class Planned(OutputInvalid):
    """The question was counted, and nobody was asked: to the analyst an answer of no use, which it passes over."""

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt, "EMPTY", "planned only")


@dataclass(slots=True)
class Asked:
    """The questions of one analysis that go the same way."""

    models: tuple[str, ...]
    """One after the other, until an answer is taken."""
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
    tenant: str
    analysis: str
    models: tuple[str, ...]
    entry: str
    tokens: int


@dataclass(slots=True)
class Questions:
    """Asks (see `processors.analyst`) that counts. `look` after each page finds out what the cache would have answered."""

    provider: str
    models_of: Callable[[Prompt[Any], Caller], tuple[str, ...]]
    """The models that would be asked, one after the other until an answer is taken."""
    ttl: int
    tally: Tally
    asked: dict[tuple[str, tuple[str, ...]], Asked] = field(default_factory=dict)
    """By analysis and way."""
    tenants: Counter[str] = field(default_factory=Counter)
    """Questions that the cache does not answer, by tenant."""
    _page: list[_Question] = field(default_factory=list)

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:  # noqa: ARG002 -- the protocol's signature
        """See Asks; raises Planned."""
        shape = shape_of(prompt.answer)
        models = self.models_of(prompt, caller)
        model = models[0]
        digest = cache.question(prompt, caller, provider=self.provider, model=model, shape=shape)
        told = shape.told(facts_of(model).structured)
        tokens = estimated_tokens(prompt.system + told) + estimated_tokens(prompt.user)
        asked = self.asked.setdefault((caller.analysis, models), Asked(models))
        asked.room, asked.system, asked.version = prompt.max_output_tokens, prompt.system, prompt.version
        self._page.append(
            _Question(caller.tenant, caller.analysis, models, cache.entry_key(caller.tenant, digest), tokens)
        )
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
            asked = self.asked[question.analysis, question.models]
            asked.questions += 1
            self.tally("insights")
            if hit:
                asked.hits += 1
            else:
                asked.tokens += question.tokens
                self.tenants[question.tenant] += 1


@dataclass(frozen=True, slots=True)
class History:
    """What one model's calls for one analysis were like: means per answer, which may have shared a call."""

    calls: int
    input_tokens: float
    output_tokens: float
    of_replays: bool = False


Histories = Mapping[tuple[str, str], History]
"""By analysis and model."""


async def histories(engine: AsyncEngine, tenant: str = "") -> dict[tuple[str, str], History]:
    """Of the last HISTORY_DAYS: of replays, where there were enough calls of theirs, else of all."""
    since = (datetime.now(UTC) - timedelta(days=HISTORY_DAYS)).date()
    ours = (llm_usage.c.user == REPLAYS).label("ours")
    sums = (llm_usage.c.calls, llm_usage.c.input_tokens, llm_usage.c.output_tokens)
    asked = (
        sa.select(llm_usage.c.analysis, llm_usage.c.model, ours, *(sa.func.sum(each) for each in sums))
        .where(llm_usage.c.day >= since, llm_usage.c.calls > 0)
        .group_by(llm_usage.c.analysis, llm_usage.c.model, sa.text("ours"))
    )
    if tenant:
        asked = asked.where(llm_usage.c.tenant == tenant)
    async with engine.connect() as connection:
        rows = (await connection.execute(asked)).all()
    of_replays = {(row[0], row[1]): row[3:] for row in rows if row[2]}
    of_all: dict[tuple[str, str], Sequence[Any]] = {}
    for row in rows:
        before = of_all.get((row[0], row[1]), (0, 0, 0))
        of_all[row[0], row[1]] = [one + other for one, other in zip(before, row[3:], strict=True)]
    # Of one analysis either all or none: how many answers were passed on is told by two models' calls together.
    enough = {
        analysis
        for analysis in {row[0] for row in rows}
        if sum(calls for (of, _), (calls, _, _) in of_replays.items() if of == analysis) >= ENOUGH_CALLS
    }
    found: dict[tuple[str, str], History] = {}
    for (analysis, model), whole in of_all.items():
        kept = of_replays.get((analysis, model)) if analysis in enough else whole
        if kept is not None and kept[0] and kept[1]:
            calls, inputs, outputs = (float(each) for each in kept)
            found[analysis, model] = History(int(calls), inputs / calls, outputs / calls, analysis in enough)
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
    models: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Calls and tokens of each."""


def bill(
    provider: str,
    asked: Mapping[tuple[str, tuple[str, ...]], Asked],
    history: Histories,
    replaced: Mapping[str, str],
    free: Iterable[str] = ("offline",),
    *,
    batched: bool = False,
) -> Bill:
    """Reckon. `batched`: the questions go into the provider's batches, each alone, at a part of the price. `replaced`: analysis → the instructions that its questions had before a candidate's; history is of those."""
    calls = hits = inputs = outputs = 0
    cost = 0.0
    basis: list[str] = []
    by_model: dict[str, tuple[int, int]] = {}
    for (analysis, models), each in sorted(asked.items()):
        hits += each.hits
        going = float(each.questions - each.hits)
        if not going or provider in free:
            calls += round(going)
            continue
        for place, model in enumerate(models):
            number = round(going)
            per_call, length, why = _per_call(analysis, model, each, history, replaced.get(analysis))
            if batched:
                # History is of calls that questions shared; in a batch none does.
                per_call = max(per_call, each.tokens / max(1, each.questions - each.hits))
                why += f"; in batches, at {pricing.BATCH_PRICE:.0%} of the list price, what is not answered there at the full one"
            more_in, more_out = round(number * per_call), round(number * length)
            calls, inputs, outputs = calls + number, inputs + more_in, outputs + more_out
            before = by_model.get(model, (0, 0))
            by_model[model] = before[0] + number, before[1] + more_in + more_out
            full = pricing.most_usd(provider, model, more_in, more_out)
            cost += full * pricing.BATCH_PRICE if batched else full
            basis.append(f"{analysis}, {number:,} to {model}: {why}")
            if place + 1 < len(models):
                going *= _passed_on(analysis, model, models[place + 1], asked, history)
    return Bill(calls, hits, inputs, outputs, cost, tuple(basis), by_model)


def _per_call(
    analysis: str, model: str, asked: Asked, history: Histories, replaced: str | None
) -> tuple[float, float, str]:
    """Tokens in and out of one answer, and what that rests on."""
    mean = asked.tokens / max(1, asked.questions - asked.hits)
    known, whose = history.get((analysis, model)), "of this model"
    if known is None or known.calls < ENOUGH_CALLS:
        others = [found for (of, _), found in history.items() if of == analysis and found.calls >= ENOUGH_CALLS]
        known, whose = max(others, key=lambda found: found.calls, default=None), "of another model"
    if known is None:
        return (
            mean,
            float(min(asked.room, GUESSED_OUTPUT)),
            "no calls accounted for lately, so by characters and a guessed length of answers, none sharing a call",
        )
    before = mean
    if replaced is not None:
        before += estimated_tokens(replaced) - estimated_tokens(asked.system)
    by = "replays" if known.of_replays else "all traffic"
    return (
        mean * known.input_tokens / max(1.0, before),
        known.output_tokens,
        f"scaled by {known.calls} calls {whose} in the last {HISTORY_DAYS} days, {by}",
    )


def _passed_on(
    analysis: str,
    model: str,
    following: str,
    asked: Mapping[tuple[str, tuple[str, ...]], Asked],
    history: Histories,
) -> float:
    """Share of `model`'s answers that are not taken, so that `following` is asked as well.

    Lately it was asked for those and for what goes to it at once; of the latter there was as much as there is now.
    """
    first, second = history.get((analysis, model)), history.get((analysis, following))
    if first is None or first.calls < ENOUGH_CALLS:
        return GUESSED_PASSED_ON
    through = sum(each.questions for (of, way), each in asked.items() if of == analysis and way[0] == model)
    at_once = sum(each.questions for (of, way), each in asked.items() if of == analysis and way[0] == following)
    share = (second.calls if second else 0) / first.calls - at_once / max(1, through)
    return min(1.0, max(0.0, share))
