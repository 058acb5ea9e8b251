"""What a provider promises: one question to one model, once.

Law: a provider makes one attempt. Retries, budgets, caching, validation and accounting are the gateway's, so that they
are the same for every provider. A provider's errors carry no word of the question or of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from infra.settings import Settings
from llm_gateway.prompt import Trouble

if TYPE_CHECKING:
    from llm_gateway.genai import Operation

_DAY_SECONDS = 86_400.0
_LONGEST_PAUSE_SECONDS = 60.0
"""A day that is spent is looked at again after so long: without a question nobody learns that it is not."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """One question as it goes out."""

    model: str
    messages: tuple[Message, ...] = field(repr=False)
    response_format: Mapping[str, Any] = field(repr=False)
    """OpenAI's `response_format`, in the mode that the model supports."""
    max_output_tokens: int
    temperature: float
    timeout: float
    """Seconds for this attempt, connection included."""
    rules: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """For the offline provider: computes the answer, as JSON text."""
    handed: Callable[[Operation], None] | None = field(default=None, repr=False, compare=False)
    """Takes over the span of an attempt whose answer is a stream, and ends it with the stream."""

    @property
    def user(self) -> str:
        """The user part, without the turns of a repair."""
        return next(message.content for message in self.messages if message.role == "user")

    def traits(self) -> Mapping[str, Any]:
        """What a span tells of it, under OpenTelemetry's names; no content."""
        return {
            "gen_ai.request.max_tokens": self.max_output_tokens,
            "gen_ai.request.temperature": self.temperature,
            "gen_ai.output.type": "json",
        }

    def said(self) -> Iterable[tuple[str, str]]:
        """Role and text of every message: for spans, where content is switched on."""
        return ((message.role, message.content) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Headroom:
    """What the provider says is left; None where it says nothing."""

    requests: int | None = None
    tokens: int | None = None
    requests_reset: float | None = None
    """Seconds until the requests are all back (Groq: of the day)."""
    tokens_reset: float | None = None
    """Seconds until the tokens are all back (Groq: of the minute)."""
    requests_limit: int | None = None
    """The whole (Groq: of the day)."""
    tokens_limit: int | None = None
    """The whole (Groq: of the minute)."""

    def spent_for(self) -> float:
        """Seconds for which nothing is left, 0 where something is. A day's requests come back one by one: it is until one is there."""
        if self.tokens != 0 and self.requests != 0:
            return 0.0
        tokens = (self.tokens_reset or 0.0) if self.tokens == 0 else 0.0
        if self.requests != 0 or (self.requests_reset is None and not self.requests_limit):
            return tokens
        whole = _DAY_SECONDS if self.requests_reset is None else self.requests_reset
        return max(tokens, min(_LONGEST_PAUSE_SECONDS, whole / (self.requests_limit or 1)))


@dataclass(frozen=True, slots=True)
class Completed:
    """What a model said."""

    text: str = field(repr=False)
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Of the input tokens, those that the provider had in its own prompt cache."""
    finish_reason: str = "stop"
    refused: bool = False
    """The model declined to answer."""
    headroom: Headroom | None = None

    @property
    def begun(self) -> bool:
        """It is a stream, whose end is not here yet."""
        return False

    def texts(self) -> list[str]:
        """What was said: for spans, where content is switched on."""
        return [self.text]


class ProviderFailure(Exception):  # noqa: N818 -- reads as what happened
    """One attempt failed. `retry` says whether another may fare better; `retry_after` (seconds) when, if it was said."""

    def __init__(self, cause: Trouble, detail: str, *, retry: bool, retry_after: float | None = None) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause: Trouble = cause
        self.detail = detail
        self.retry = retry
        self.retry_after = retry_after


class QuestionRefused(Exception):  # noqa: N818 -- reads as what happened
    """The provider will not take this question, now or later: it is too long, or not allowed."""


class BatchRefused(Exception):  # noqa: N818 -- reads as what happened
    """The provider will not make this batch, now or later: its plan or model does not allow it, or the file does not suit it."""

    def __init__(self, code: str) -> None:
        super().__init__(f"no batch: {code}")
        self.code = code
        """The provider's, with the HTTP status; never its message."""


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """A batch as the provider tells of it."""

    id: str
    status: str
    """validating, in_progress, finalizing, cancelling; over: completed, failed, expired, cancelled."""
    output_file_id: str = ""
    error_file_id: str = ""
    error: str = ""
    """The code of what is wrong with its file."""


class Provider(Protocol):
    """Answers questions. Used by many tasks at once."""

    name: str
    """Also the provider's id in the price list."""
    key: str
    """Fingerprint of its key (`llm_gateway.question.fingerprint`), '' without one: limits are kept by it."""

    async def complete(self, request: Completion) -> Completed:
        """Ask once. Waits at most `request.timeout`, raises ProviderFailure and QuestionRefused, nothing else; each call
        costs, so calling it twice asks twice.
        """
        ...

    async def close(self) -> None:
        """Give up connections; may be called twice."""
        ...


@runtime_checkable
class BatchProvider(Protocol):
    """A provider that also takes many questions at once, and answers within a day. Methods raise ProviderFailure and nothing else,
    unless said otherwise; each waits for the network at most.
    """

    name: str
    key: str

    def body(self, request: Completion) -> Mapping[str, Any]:
        """The question as the API wants it. Pure, never raises."""
        ...

    async def upload(self, name: str, content: bytes) -> str:
        """Upload a file of questions; its id. Raises BatchRefused too. Calling it twice makes two files."""
        ...

    async def files_named(self, name: str) -> Sequence[str]:
        """The ids of all files of this name. Raises BatchRefused too."""
        ...

    async def content(self, file_id: str) -> bytes | None:
        """What a file holds; None when it is gone."""
        ...

    async def delete_file(self, file_id: str) -> None:
        """Delete a file; safe to call again."""
        ...

    async def create_batch(self, file_id: str, label: str) -> ProviderBatch:
        """Have a file's questions answered. Raises BatchRefused too. Calling it twice has them answered, and paid for, twice; when it
        raises RATE_LIMITED or AUTHENTICATION nothing was made, after any other failure nobody knows.
        """
        ...

    async def batch_of(self, file_id: str, label: str) -> ProviderBatch | None:
        """The batch that was made of this file or under this label, if there is one. Raises BatchRefused too."""
        ...

    async def batch(self, id: str) -> ProviderBatch | None:  # noqa: A002 -- the provider's word
        """How a batch stands; None when there is none of this id."""
        ...


@runtime_checkable
class ProviderPlugin(Protocol):
    """What a provider's module ends in."""

    name: str

    def model(self, settings: Settings) -> str:
        """The model that is asked under these settings."""
        ...

    def open(self, settings: Settings) -> Provider:
        """Build the provider; no traffic yet. Raises SettingsError."""
        ...
