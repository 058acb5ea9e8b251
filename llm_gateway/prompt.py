"""What is asked, by whom, and what comes back: the words that the gateway and its callers share.

Law: nothing here talks to anything. No error's text holds a word of the question or of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from infra.keyring import DataKey
from schemas.insight import Usage

T = TypeVar("T", bound=BaseModel)

Lane = Literal["interactive", "live", "bulk"]
"""Who is served first when there is not enough for all: a waiting person, live traffic, replays and backfills."""

CanWait = Literal["no", "if_there", "yes"]
"""Somebody waits for the answer; nobody does, and what stands in a batch is waited for; it may be put into one as well."""

Outcome = Literal["EMPTY", "PROSE", "TRUNCATED", "SCHEMA", "REFUSED"]
"""Why an answer is of no use: nothing in it; no JSON object; cut off; the wrong shape or value; the model declined."""

Trouble = Literal[
    "TIMEOUT",
    "RATE_LIMITED",
    "SERVER_ERROR",
    "CONNECTION",
    "AUTHENTICATION",
    "MODEL_GONE",
    "CIRCUIT_OPEN",
    "REDIS_AWAY",
    "DATABASE_AWAY",
    "STOPPING",
]
"""Why nobody can be asked now."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good an answer is, held against what was asked; both 0 to 1."""

    grounded: float
    """Share of its claims that the facts bear out; 1 for an answer that claims nothing."""
    confidence: float
    """Whether it says as much as the facts let one say."""


@dataclass(frozen=True, slots=True)
class Prompt(Generic[T]):
    """One question. Two prompts that are equal but for `rules`, `judge`, `language`, `pack` and `alone` are the same question."""

    name: str
    version: str
    system: str
    """Instructions; no word of a customer's, so that it is the same for all (providers cache stable beginnings)."""
    user: str = field(repr=False)
    """The record, as data."""
    answer: type[T]
    facts: Mapping[str, Any] = field(repr=False)
    """The structured input, JSON-able: what the offline rules read; part of what identifies the question."""
    rules: Callable[[Mapping[str, Any]], T] | None = field(default=None, repr=False, compare=False)
    """What the offline provider answers with; pure. Its behaviour belongs to `version`: raise that when it changes."""
    max_output_tokens: int = 2000
    temperature: float = 0.0
    cache_ttl_seconds: int | None = None
    """How long the answer is kept; 0: not at all, None: as settings say."""
    judge: Callable[[T], Judgement] | None = field(default=None, repr=False, compare=False)
    """Whether a small model's answer will do; pure, never raises. None: the strong model is asked at once."""
    language: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Of the record's texts, ISO 639-1, '' where it is not known; asked only where routes choose by it."""
    pack: int = field(default=1, compare=False)
    """At most so many questions of this kind and tenant may share one call; 1: none."""
    alone: Callable[[], bool] | None = field(default=None, repr=False, compare=False)
    """Whether it must not share a call, because its input is suspected to talk to a machine; asked before it would."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose budget, whose key."""

    tenant: str
    account: str
    user: str
    """Who edited the record, or else its owner; bears the per-user quota. Empty: nobody known, the tenant's alone."""
    analysis: str
    key: DataKey = field(repr=False)
    """The record's data key: seals the cached answer, which is gone when the key is destroyed."""
    lane: Lane = "live"
    can_wait: CanWait = "no"
    """Whether it may be answered by a provider's batch, within a day; on the bulk lane alone."""
    reads: bytes = field(default=b"", repr=False)
    """A keyed hash of what the analysis reads of the record: the same while its answer still holds. Names a question that waits."""
    asker: str = ""
    """Who takes back questions that wait: a replay (its id); '' for the analyst, to whom a record comes again."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A validated answer."""

    value: T = field(repr=False)
    model: str
    """The model that answered, as it names itself; `offline-rules` for the offline provider."""
    provider: str
    usage: Usage
    """What this call cost: a cached answer cost nothing."""
    cached: bool
    prompt_version: str
    batched: bool = False
    """It was brought by a provider's batch."""


class GatewayError(Exception):
    """No answer. Each subclass says what its caller does next."""


class QuotaSpent(GatewayError):  # noqa: N818 -- reads as what happened
    """This tenant or user may not ask now; others may. Set the record aside until `resets_at`."""

    def __init__(self, scope: str, resets_at: datetime) -> None:
        super().__init__(
            f"quota spent: {scope}; resets at {resets_at.isoformat(timespec='seconds')}. Raise the limit in settings, or wait."
        )
        self.scope = scope
        self.resets_at = resets_at


class RateLimited(QuotaSpent):
    """The tenant's rate leaves no room before the caller's deadline."""


class WaitsForBatch(GatewayError):  # noqa: N818 -- reads as what happened
    """The question stands in a provider's batch, or will: set the record aside. It is told when the batch is over, and by `due_at`
    the question is asked alone. No fault, and no attempt.
    """

    def __init__(self, prompt: str, due_at: datetime) -> None:
        super().__init__(
            f"{prompt} waits for the provider's batch, until {due_at.isoformat(timespec='seconds')} at the latest"
        )
        self.due_at = due_at


class ModelUnavailable(GatewayError):  # noqa: N818 -- reads as what happened
    """Nobody can ask now: pause, and try again after `retry_after` seconds (None: when you see fit)."""

    def __init__(self, cause: Trouble, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.retry_after = retry_after


class OutputInvalid(GatewayError):  # noqa: N818 -- reads as what happened
    """The model answered, twice, and neither answer is of use. Asking again will not help: a dead letter."""

    def __init__(self, prompt: str, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{prompt}: {outcome}: {detail}")
        self.prompt = prompt
        self.outcome = outcome
        self.detail = detail


class InputRefused(GatewayError):  # noqa: N818 -- reads as what happened
    """The question cannot be asked as it is (too long for the model, or declined by the provider): a dead letter."""
