"""A question that was paid for: in the accounts of this process and in what all replicas share, once each.

Law: never waits, never raises. The accounts are written first: Redis is never the only one that knows. What was sent and never
heard of (the time was over, the caller left) is paid for as well: its input, by estimate, and no request; what was said to nobody
is known to nobody.
"""

from __future__ import annotations

from dataclasses import replace

from llm_gateway import pricing
from llm_gateway.accounting import Ledger
from llm_gateway.core import Core
from llm_gateway.question import Grant, Question, Usage


def answered(
    core: Core,
    ledger: Ledger,
    question: Question,
    grant: Grant,
    usage: Usage,
    *,
    sealed: bytes = b"",
    error: BaseException | None = None,
    repair: bool = False,
) -> None:
    """Count what it took and end `grant`. `sealed`, `error`: see `Core.settle`; `repair`: see `Ledger.call`."""
    if grant.unheard:
        usage = _with_unheard(question, grant, usage)
    day = grant.day
    ledger.call(question, usage, day=day, repair=repair)
    core.settle(
        grant,
        usage,
        sealed=sealed,
        error=error,
        done=lambda generation: ledger.settled(question, usage, day=day, generation=generation),
    )


def unanswered(core: Core, ledger: Ledger, grant: Grant, error: BaseException) -> None:
    """It was not answered: what was reserved comes back, but for what was sent and not heard of. May be called twice."""
    if grant.over or not grant.unheard:
        core.give_back(grant, error)
        return
    question = grant.question
    answered(core, ledger, question, grant, Usage(question.line.model, attempts=grant.unheard, calls=0), error=error)


def _with_unheard(question: Question, grant: Grant, usage: Usage) -> Usage:
    tokens = grant.unheard * question.input_tokens
    cost = pricing.most_usd(question.line.provider, question.line.model, tokens, 0)
    return replace(usage, input_tokens=usage.input_tokens + tokens, cost_usd=usage.cost_usd + cost)
