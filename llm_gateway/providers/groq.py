"""Groq, through its own package; also any server that speaks the same API, or OpenAI's, under GROQ_BASE_URL.

Law: the only module that imports `groq`. One attempt, no retries of its own. Errors carry the provider's code and our
advice, never the provider's message: it may quote the question. Sources: https://console.groq.com/docs/errors,
https://console.groq.com/docs/rate-limits (`x-ratelimit-*-requests` speaks of the day, `*-tokens` of the minute,
`retry-after` comes with 429 only).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import groq
import httpx
import orjson
from groq import AsyncGroq, DefaultAioHttpClient

from infra.settings import Settings, SettingsError, variable
from llm_gateway.models import advice, facts_of
from llm_gateway.providers.address import GROQS_PATH, api_of, is_groqs
from llm_gateway.providers.headers import GONE, headroom, seconds, wait
from llm_gateway.providers.provider import (
    BatchRefused,
    Completed,
    Completion,
    Headroom,
    Provider,
    ProviderBatch,
    ProviderFailure,
    QuestionRefused,
)
from llm_gateway.question import fingerprint

_CONNECT_SECONDS = 5.0
_CONNECTIONS = 100
_BATCH_SECONDS = 120.0
"""For a file of 100 MB, up or down."""
_LABEL = "hookline_batch"
T = TypeVar("T")
_TOO_LONG = frozenset({"context_length_exceeded", "request_too_large"})


@dataclass(frozen=True, slots=True)
class _Place:
    """How a server is called, and where what is wrong with it is set right: for people."""

    name: str = "Groq"
    where: str = ""
    """Its key and address are set; '' for Groq's variables."""

    def refused(self, status: int, code: str) -> str:
        told = self.where or "GROQ_API_KEY and its project's permissions"
        return f"{self.name} refuses the key (HTTP {status} {code}): check {told}"

    def unserved(self, model: str, status: int, code: str) -> str:
        told = f"name another in [tiers] of {variable('routes')}" if self.where else advice(model)
        return f"{model} is not served by {self.name} (HTTP {status} {code}): {told}"


class GroqProvider:
    """See `Provider`."""

    def __init__(self, api_key: str, base_url: str | None, *, name: str = "groq", where: str = "") -> None:
        """`name`: what another server that speaks the same API is called in limits, accounts and prices; `where` its key and
        address are set.
        """
        self.name = name
        self._place = _Place(name, where) if where else _Place()
        self.key = fingerprint(api_key)
        api = api_of(base_url)
        self._groqs = is_groqs(api)
        self.host = httpx.URL(api).host
        """For spans."""
        self._client = AsyncGroq(
            api_key=api_key,
            base_url=api.removesuffix(GROQS_PATH),
            max_retries=0,
            http_client=DefaultAioHttpClient(
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
                event_hooks={} if self._groqs else {"request": [_without_groqs_path]},
            ),
        )
        patient = self._client.with_options(timeout=httpx.Timeout(_BATCH_SECONDS, connect=_CONNECT_SECONDS))
        self._files = patient.files
        self._batches = patient.batches

    def body(self, request: Completion) -> dict[str, Any]:
        """See `BatchProvider.body`."""
        extra: dict[str, Any] = {"reasoning_effort": "low"} if facts_of(request.model).reasons else {}
        return {
            "model": request.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
            "response_format": request.response_format,
            "max_completion_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            **extra,
        }

    async def complete(self, request: Completion) -> Completed:
        """See `Provider.complete`."""
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                **self.body(request),
                timeout=httpx.Timeout(request.timeout, connect=min(_CONNECT_SECONDS, request.timeout)),
            )
            # Read here: the package's own types cost a quarter of the call, and validate nothing.
            answer = orjson.loads(await raw.read())
        except groq.APIStatusError as error:
            return _judged(self._place, error, request)
        except groq.APIConnectionError as error:
            raise self._lost(error, request.model, request.timeout) from None
        except (groq.GroqError, ValueError, TypeError) as error:
            # A body that is no JSON, or not the answer's shape: a broken proxy, or another server.
            raise ProviderFailure(
                "SERVER_ERROR", f"the answer was not the API's ({type(error).__name__})", retry=True
            ) from None
        return _read(answer, headroom(raw.headers, groqs=self._groqs), request)

    async def upload(self, name: str, content: bytes) -> str:
        """See `BatchProvider.upload`."""

        async def ask() -> str:
            return (await self._files.create(file=(name, content), purpose="batch")).id or ""

        return await self._asked(ask())

    async def files_named(self, name: str) -> list[str]:
        """See `BatchProvider.files_named`."""

        async def ask() -> list[str]:
            return [each.id for each in (await self._files.list()).data or () if each.filename == name and each.id]

        return await self._asked(ask())

    async def content(self, file_id: str) -> bytes | None:
        """See `BatchProvider.content`."""

        async def ask() -> bytes:
            return await (await self._files.content(file_id)).read()

        return await self._unless_gone(ask())

    async def delete_file(self, file_id: str) -> None:
        """See `BatchProvider.delete_file`."""
        await self._unless_gone(self._files.delete(file_id))

    async def create_batch(self, file_id: str, label: str) -> ProviderBatch:
        """See `BatchProvider.create_batch`."""

        async def ask() -> ProviderBatch:
            made = await self._batches.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=file_id,
                metadata={_LABEL: label},
            )
            return _batch(made)

        return await self._asked(ask())

    async def batch_of(self, file_id: str, label: str) -> ProviderBatch | None:
        """See `BatchProvider.batch_of`. Looks at the newest ones, as many as Groq lists at once."""

        async def ask() -> ProviderBatch | None:
            for each in (await self._batches.list()).data or ():
                told = each.metadata if isinstance(each.metadata, dict) else {}
                if each.input_file_id == file_id or told.get(_LABEL) == label:
                    return _batch(each)
            return None

        return await self._asked(ask())

    async def batch(self, id: str) -> ProviderBatch | None:  # noqa: A002 -- the protocol's
        """See `BatchProvider.batch`."""

        async def ask() -> ProviderBatch:
            return _batch(await self._batches.retrieve(id))

        return await self._unless_gone(ask())

    async def _asked(self, call: Awaitable[T]) -> T:
        """One call of the files' or batches' API. Raises ProviderFailure and BatchRefused."""
        try:
            return await call
        except groq.APIStatusError as error:
            raise _batch_error(self._place, error) from None
        except groq.APIConnectionError as error:
            raise self._lost(error, "the batch API", _BATCH_SECONDS) from None
        except (httpx.HTTPError, OSError) as error:
            # In the middle of a file.
            raise ProviderFailure("CONNECTION", f"a file broke off ({type(error).__name__})", retry=True) from None
        except (groq.GroqError, ValueError, TypeError, AttributeError) as error:
            raise ProviderFailure(
                "SERVER_ERROR", f"the answer was not the API's ({type(error).__name__})", retry=True
            ) from None

    async def _unless_gone(self, call: Awaitable[T]) -> T | None:
        """None for what is not there; any other refusal may pass. Raises ProviderFailure."""
        try:
            return await self._asked(call)
        except BatchRefused as refused:
            if refused.code.startswith("HTTP 404"):
                return None
            raise ProviderFailure("SERVER_ERROR", f"{self._place.name} answers {refused.code}", retry=True) from None

    def _lost(self, error: groq.APIConnectionError, what: str, seconds_: float) -> ProviderFailure:
        # httpx-aiohttp calls every lost connection a timeout; what lies beneath tells them apart.
        beneath = error.__cause__.__cause__ if error.__cause__ is not None else None
        late = isinstance(error, groq.APITimeoutError) and (beneath is None or isinstance(beneath, TimeoutError))
        if late and not isinstance(error.__cause__, httpx.ConnectTimeout):
            return ProviderFailure("TIMEOUT", f"{what} did not answer within {seconds_:.1f} s", retry=True)
        reason = type(beneath or error.__cause__ or error).__name__
        return ProviderFailure(
            "CONNECTION",
            f"no connection to {self._client.base_url.host} ({reason}): look at {self._place.where or 'GROQ_BASE_URL'}",
            retry=True,
        )

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()


async def _without_groqs_path(request: httpx.Request) -> None:
    """The package puts /openai/v1 behind every address, and only Groq has it there."""
    path = request.url.raw_path.replace(GROQS_PATH.encode(), b"", 1)
    request.url = request.url.copy_with(raw_path=path)


def _read(answer: Any, left: Headroom, request: Completion) -> Completed:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        usage = answer.get("usage") or {}
        text = message.get("content") or ""
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    except (AttributeError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ProviderFailure("SERVER_ERROR", "the answer was not the API's (no message in it)", retry=True)
    return Completed(
        text=text,
        model=answer.get("model") or request.model,
        input_tokens=usage.get("prompt_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
        cached_input_tokens=cached,
        finish_reason=choice.get("finish_reason") or "stop",
        refused=bool(message.get("refusal")),
        headroom=left,
    )


def _said(error: groq.APIStatusError) -> tuple[dict[str, Any], str]:
    """The error object, and its code."""
    said = error.body.get("error", error.body) if isinstance(error.body, dict) else {}
    said = said if isinstance(said, dict) else {}
    return said, str(said.get("code") or said.get("type") or "")[:60]


def _batch(said: Any) -> ProviderBatch:
    wrong = said.errors.data[0].code if said.errors is not None and said.errors.data else ""
    return ProviderBatch(
        said.id, said.status, said.output_file_id or "", said.error_file_id or "", str(wrong or "")[:60]
    )


def _batch_error(at: _Place, error: groq.APIStatusError) -> Exception:
    """What a status of the files' and batches' API means: tried again, or a no."""
    status, (_, code) = error.status_code, _said(error)
    if status == 401:
        return ProviderFailure("AUTHENTICATION", at.refused(status, code), retry=False)
    if status in (429, 498):
        return ProviderFailure(
            "RATE_LIMITED",
            f"{at.name}'s limit for batches is reached (HTTP {status})",
            retry=True,
            retry_after=wait(error.response.headers),
        )
    if status >= 500 or status in (408, 409, 424):
        return ProviderFailure("SERVER_ERROR", f"{at.name} answers HTTP {status} {code}", retry=True)
    return BatchRefused(f"HTTP {status} {code}".strip())


def _judged(at: _Place, error: groq.APIStatusError, request: Completion) -> Completed:
    """What a status means: an answer all the same, or which error."""
    status, (said, code) = error.status_code, _said(error)
    if status == 400 and code == "json_validate_failed":
        # The model's words are there, they are only not the JSON that was asked for: ours to judge.
        return Completed(
            text=str(said.get("failed_generation") or ""), model=request.model, finish_reason="json_validate_failed"
        )
    if status in (401, 403):
        raise ProviderFailure(
            "AUTHENTICATION",
            at.refused(status, code),
            retry=False,
        )
    if code in GONE or status == 404:
        raise ProviderFailure(
            "MODEL_GONE",
            at.unserved(request.model, status, code),
            retry=False,
        )
    if status in (429, 498):
        raise ProviderFailure(
            "RATE_LIMITED",
            f"{at.name}'s limit for this organization is reached (HTTP {status})",
            retry=True,
            retry_after=wait(error.response.headers),
        )
    if status >= 500 or status in (408, 409, 424):
        retry_after = seconds(error.response.headers.get("retry-after"))
        raise ProviderFailure(
            "SERVER_ERROR", f"{at.name} answers HTTP {status} {code}", retry=True, retry_after=retry_after
        )
    if status == 413 or code in _TOO_LONG:
        raise QuestionRefused(f"too long for {request.model} (HTTP {status} {code})")
    raise QuestionRefused(f"{request.model} does not take this question (HTTP {status} {code})")


class _Plugin:
    name = "groq"

    def model(self, settings: Settings) -> str:
        """HOOKLINE_MODEL."""
        return settings.model

    def open(self, settings: Settings) -> Provider:
        """See `ProviderPlugin.open`."""
        if settings.groq_api_key is None:
            raise SettingsError(
                "GROQ_API_KEY is not set, and the provider groq needs it: set it, or use HOOKLINE_PROVIDER=offline"
            )
        return GroqProvider(settings.groq_api_key.get_secret_value(), settings.groq_base_url)


PLUGIN = _Plugin()
