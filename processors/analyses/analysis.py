"""What an analysis is: a function of one snapshot that says what it reads, asks at most one question and claims with evidence.

Law: an analysis performs no I/O of its own; it reaches a model only through `Context.ask`, and never delivers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from llm_gateway.prompt import Answer, Prompt
from processors.matching import Match
from schemas.insight import DataQuality, Insight, LeadIntel, Requirements, Usage
from schemas.record import RecordSnapshot

T = TypeVar("T", bound=BaseModel)

RULES_MODEL = "rules"
"""`Finding.model` where no model was asked."""


class Ask(Protocol):
    """The one door to a model, already bound to tenant, user and record."""

    def __call__(self, prompt: Prompt[T], /) -> Awaitable[Answer[T]]:
        """May wait for quota and network; raises the gateway's errors, which an analysis lets pass; safe to call twice."""
        ...


def by_rules(prompt: Prompt[T]) -> Answer[T]:
    """What the prompt's own rules answer, without a gateway; it must have some. No version is named: no prompt was put to anybody."""
    assert prompt.rules is not None, f"{prompt.name} has no rules"
    value = prompt.rules(prompt.facts)
    return Answer(value, RULES_MODEL, RULES_MODEL, Usage(), cached=False, prompt_version="")


@dataclass(frozen=True, slots=True)
class Context:
    """All that an analysis may look at."""

    snapshot: RecordSnapshot
    previous: Insight | None
    """The newest insight of this analysis on this record, if there is one."""
    ask: Ask
    matches: Sequence[Match]
    """Likely duplicates, best first; empty for an analysis that does not want them."""
    today: date
    known: frozenset[str] = frozenset()
    """Which of its `pieces` `previous` was made from, as they stand now: they need not be read again."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an analysis says, before grounding."""

    payload: LeadIntel | Requirements | DataQuality
    model: str
    prompt_version: str = ""
    usage: Usage = field(default_factory=Usage)
    dropped_claims: int = 0
    """Claims that the analysis itself left out; grounding adds its own."""
    confidence: float = 1.0


class Analysis(Protocol):
    """A plug-in of this folder."""

    name: str
    objects: frozenset[str]
    """The kinds of records that it applies to."""
    wants_matches: bool
    """Whether it reads `Context.matches`; one that does not need not wait for them."""

    @property
    def version(self) -> str:
        """Of its prompt and rules; part of what decides whether it runs again."""
        ...

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """Exactly what it reads but its pieces, as canonical JSON values: no today's date, no field of ours. Must not block or raise."""
        ...

    def pieces(self, snapshot: RecordSnapshot) -> Mapping[str, Any]:
        """What it reads one by one, by name, as `inputs` are; empty for an analysis that reads all of a record at once. See
        `Context.known`.
        """
        ...

    async def analyse(self, context: Context) -> Finding:
        """Judge. May wait on `context.ask`; raises only what that raises; calling it twice gives the same finding."""
        ...
