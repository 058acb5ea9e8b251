"""Groq, through its own package; also any server that speaks the same API under GROQ_BASE_URL.

Law: the only module that imports `groq`. One attempt, no retries of its own. Errors carry the provider's code and our
advice, never the provider's message: it may quote the question. Sources: https://console.groq.com/docs/errors,
https://console.groq.com/docs/rate-limits (`x-ratelimit-*-requests` speaks of the day, `*-tokens` of the minute,
`retry-after` comes with 429 only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import groq
import httpx
import orjson
from groq import AsyncGroq, DefaultAioHttpClient

from infra.settings import Settings, SettingsError
from llm_gateway.models import advice, facts_of
from llm_gateway.providers.headers import GONE, headroom, seconds, wait
from llm_gateway.providers.provider import Completed, Completion, Provider, ProviderFailure, QuestionRefused
from llm_gateway.question import fingerprint

_CONNECT_SECONDS = 5.0
_CONNECTIONS = 100
_TOO_LONG = frozenset({"context_length_exceeded", "request_too_large"})


class GroqProvider:
    """See `Provider`."""

    def __init__(self, api_key: str, base_url: str | None, *, name: str = "groq") -> None:
        """`name`: what another server that speaks the same API is called in limits, accounts and prices."""
        self.name = name
        self.key = fingerprint(api_key)
        # The package adds /openai/v1 itself; people copy the address with it.
        root = base_url.rstrip("/").removesuffix("/openai/v1") if base_url else None
        self.host = httpx.URL(root).host if root else "api.groq.com"
        """For spans."""
        self._client = AsyncGroq(
            api_key=api_key,
            base_url=root,
            max_retries=0,
            http_client=DefaultAioHttpClient(
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
            ),
        )

    async def complete(self, request: Completion) -> Completed:
        """See `Provider.complete`."""
        extra: dict[str, Any] = {"reasoning_effort": "low"} if facts_of(request.model).reasons else {}
        try:
            raw = await self._client.chat.completions.with_raw_response.create(  # type: ignore[call-overload]  # its TypedDicts, one per role and format
                model=request.model,
                messages=[{"role": turn.role, "content": turn.content} for turn in request.messages],
                response_format=request.response_format,
                max_completion_tokens=request.max_output_tokens,
                temperature=request.temperature,
                timeout=httpx.Timeout(request.timeout, connect=min(_CONNECT_SECONDS, request.timeout)),
                **extra,
            )
            # Read here: the package's own types cost a quarter of the call, and validate nothing.
            answer = orjson.loads(await raw.read())
        except groq.APIStatusError as error:
            return _judged(error, request)
        except groq.APIConnectionError as error:
            raise self._lost(error, request) from None
        except (groq.GroqError, ValueError, TypeError) as error:
            # A body that is no JSON, or not the answer's shape: a broken proxy, or another server.
            raise ProviderFailure(
                "SERVER_ERROR", f"the answer was not the API's ({type(error).__name__})", retry=True
            ) from None
        return _read(answer, raw.headers, request)

    def _lost(self, error: groq.APIConnectionError, request: Completion) -> ProviderFailure:
        # httpx-aiohttp calls every lost connection a timeout; what lies beneath tells them apart.
        beneath = error.__cause__.__cause__ if error.__cause__ is not None else None
        if isinstance(error, groq.APITimeoutError) and (beneath is None or isinstance(beneath, TimeoutError)):
            return ProviderFailure(
                "TIMEOUT", f"{request.model} did not answer within {request.timeout:.1f} s", retry=True
            )
        reason = type(beneath or error.__cause__ or error).__name__
        return ProviderFailure(
            "CONNECTION", f"no connection to {self._client.base_url.host} ({reason}): look at GROQ_BASE_URL", retry=True
        )

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()


def _read(answer: Any, headers: Mapping[str, str], request: Completion) -> Completed:
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
        headroom=headroom(headers),
    )


def _judged(error: groq.APIStatusError, request: Completion) -> Completed:
    """What a status means: an answer all the same, or which error."""
    status = error.status_code
    said = error.body.get("error", error.body) if isinstance(error.body, dict) else {}
    said = said if isinstance(said, dict) else {}
    code = str(said.get("code") or said.get("type") or "")[:60]
    if status == 400 and code == "json_validate_failed":
        # The model's words are there, they are only not the JSON that was asked for: ours to judge.
        return Completed(
            text=str(said.get("failed_generation") or ""), model=request.model, finish_reason="json_validate_failed"
        )
    if status in (401, 403):
        raise ProviderFailure(
            "AUTHENTICATION",
            f"Groq refuses the key (HTTP {status} {code}): check GROQ_API_KEY and its project's permissions",
            retry=False,
        )
    if code in GONE or status == 404:
        raise ProviderFailure(
            "MODEL_GONE",
            f"{request.model} is not served (HTTP {status} {code}): {advice(request.model)}",
            retry=False,
        )
    if status in (429, 498):
        raise ProviderFailure(
            "RATE_LIMITED",
            f"Groq's limit for this organization is reached (HTTP {status})",
            retry=True,
            retry_after=wait(error.response.headers),
        )
    if status >= 500 or status in (408, 409, 424):
        retry_after = seconds(error.response.headers.get("retry-after"))
        raise ProviderFailure("SERVER_ERROR", f"Groq answers HTTP {status} {code}", retry=True, retry_after=retry_after)
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
