"""An answer that was paid for: in the accounts of this process and in what all replicas share, once each.

Law: never waits, never raises. The accounts are written first: Redis is never the only one that knows.
"""

from __future__ import annotations

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
    day = grant.day
    ledger.call(question, usage, day=day, repair=repair)
    core.settle(
        grant,
        usage,
        sealed=sealed,
        error=error,
        done=lambda generation: ledger.settled(question, usage, day=day, generation=generation),
    )
