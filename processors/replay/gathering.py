"""The questions of a replay on their way into a provider's batches: put there, and passed over.

Law: asks nobody. To the analyst each question ends without an answer of use, so that nothing is said and nothing kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from llm_gateway.policy import REPLAYS
from llm_gateway.prompt import Answer, Caller, Prompt, QuotaSpent, T
from processors.replay.estimate import Planned
from processors.replay.seams import later


class Later(Protocol):
    """`llm_gateway.gateway.Gateway`."""

    async def later(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> bool:
        """Whether it waits in a batch now; raises the errors of `llm_gateway.prompt`; safe to call again."""
        ...


@dataclass(slots=True)
class Gathered:
    """What came of them."""

    waiting: int = 0


class Gathering:
    """Asks (see `processors.analyst`) that puts questions where they wait, on the quota that all replays of a tenant have."""

    def __init__(self, inner: Later, replay: str, put: Gathered) -> None:
        self._inner = inner
        self._replay = replay
        self._put = put

    async def ask(self, prompt: Prompt[T], caller: Caller, *, deadline_seconds: float | None = None) -> Answer[T]:
        """See Asks; raises Planned, and ModelUnavailable."""
        patient = replace(caller, lane="bulk", user=REPLAYS, can_wait="yes", asker=self._replay)
        try:
            waits = await self._inner.later(prompt, patient, deadline_seconds=deadline_seconds)
        except QuotaSpent as spent:
            raise later(spent) from spent
        self._put.waiting += waits
        raise Planned(prompt.name)
