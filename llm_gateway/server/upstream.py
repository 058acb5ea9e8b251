"""The provider, spoken to directly: one attempt, bytes in and bytes out.

Law: a `Provider` whose completion is a client's own body and whose answer is the provider's own: nothing is rebuilt on the
way. No retries of its own. Errors that speak of the client's request go back to that client as they came; all others carry
our words and no text of the provider's. Hanging up on us reaches the provider: an answer that is dropped is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from yarl import URL

from infra.settings import Settings, SettingsError
from llm_gateway.models import retired
from llm_gateway.providers.address import api_of, is_groqs
from llm_gateway.providers.headers import GONE, headroom, seconds, wait
from llm_gateway.providers.provider import Completed, Completion, Headroom, ProviderFailure
from llm_gateway.question import fingerprint
from llm_gateway.server.asked import Asked
from llm_gateway.server.errors import TakenBack

_CONNECT_SECONDS = 5.0
_CONNECTIONS = 512
_TRAITS = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
}


@dataclass(frozen=True, slots=True)
class Passing(Completion):
    """A client's request as it goes out."""

    body: bytes = field(default=b"", repr=False)
    stream: bool = False
    asked: Asked | None = field(default=None, repr=False)

    def traits(self) -> Mapping[str, Any]:
        """See `Completion.traits`."""
        assert self.asked is not None
        body = self.asked.body
        told = {
            name: body[field_]
            for name, field_ in _TRAITS.items()
            if isinstance(body.get(field_), int | float) and not isinstance(body[field_], bool)
        }
        told["gen_ai.output.type"] = "json" if self.asked.wants_json else "text"
        if self.asked.most_output:
            told["gen_ai.request.max_tokens"] = self.asked.most_output
        if self.asked.choices != 1:
            told["gen_ai.request.choice.count"] = self.asked.choices
        if self.stream:
            told["gen_ai.request.stream"] = True
        return told

    def said(self) -> Iterable[tuple[str, str]]:
        """See `Completion.said`."""
        assert self.asked is not None
        for message in self.asked.body["messages"]:
            content = message.get("content")
            for part in content if isinstance(content, list) else ({"text": content},):
                text = part.get("text") if isinstance(part, dict) else None
                if isinstance(text, str):
                    yield str(message.get("role")), text


@dataclass(frozen=True, slots=True)
class Passed(Completed):
    """A provider's answer as it came; for a stream it has only begun."""

    body: bytes = field(default=b"", repr=False)
    finishes: tuple[str, ...] = ()
    """Why each choice ended."""
    opened: aiohttp.ClientResponse | None = field(default=None, repr=False)

    @property
    def begun(self) -> bool:
        """See `Completed.begun`."""
        return self.opened is not None

    def texts(self) -> list[str]:
        """See `Completed.texts`."""
        return [choice["message"].get("content") or "" for choice in orjson.loads(self.body)["choices"]]


@dataclass(frozen=True, slots=True)
class Raw:
    """Any other answer of the provider's."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


class Upstream:
    """See `Provider`; one per provider and server. Used by the tasks of one loop."""

    def __init__(
        self,
        key: str,
        base_url: str | None,
        idle: float,
        name: str = "groq",
        where: str = "GROQ_API_KEY and GROQ_BASE_URL",
    ) -> None:
        """`idle`: seconds of silence after which an answer is given up; `where` its key and address are set. No traffic yet."""
        self.name = name
        self.where = where
        self.key = fingerprint(key)
        self._root = api_of(base_url)
        self._groqs = is_groqs(self._root)
        self._chat = URL(f"{self._root}/chat/completions")
        self.host = self._chat.host or ""
        self._idle = idle
        self._authorization = f"Bearer {key}"
        self._headers = {"authorization": self._authorization, "content-type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, settings: Settings) -> Upstream:
        """The provider that settings name. Raises SettingsError."""
        if settings.groq_api_key is None:
            raise SettingsError(
                "GROQ_API_KEY is not set: the gateway's server passes requests to a provider, and needs its key"
            )
        return cls(settings.groq_api_key.get_secret_value(), settings.groq_base_url, settings.gateway_timeout_seconds)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ttl_dns_cache=60, keepalive_timeout=50),
                # How long an attempt may take its caller decides; here only silence ends.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._idle),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent",),
                # Answers are bounded by what a model may say; headers by aiohttp.
                read_bufsize=2**18,
            )
        return self._session

    async def complete(self, request: Completion) -> Completed:
        """See `Provider.complete`: takes a `Passing`, returns a `Passed`."""
        assert isinstance(request, Passing)
        try:
            response = await self._open().post(self._chat, data=request.body, headers=self._headers)
            try:
                if response.status == 200 and request.stream:
                    left = headroom(response.headers, groqs=self._groqs)
                    return Passed("", request.model, headroom=left, opened=response)
                body = await response.read()
            except BaseException:
                response.close()
                raise
        except aiohttp.ConnectionTimeoutError:
            raise ProviderFailure(
                "CONNECTION",
                f"no connection to {self.name} in {_CONNECT_SECONDS:.0f} s: look at {self.where}",
                retry=True,
            ) from None
        except TimeoutError:
            raise ProviderFailure("TIMEOUT", f"{request.model} did not answer in time", retry=True) from None
        except aiohttp.ClientError as error:
            raise ProviderFailure(
                "CONNECTION", f"no answer from {self.name} ({type(error).__name__}): look at {self.where}", retry=True
            ) from None
        if response.status != 200:
            raise _judged(self, response.status, response.headers, body, request.model)
        return _read(body, headroom(response.headers, groqs=self._groqs), request.model)

    async def raw(
        self, method: str, path: str, *, body: bytes | None = None, content_type: str = "", query: str = ""
    ) -> Raw:
        """Any other question, `path` behind its address. Raises ProviderFailure when there is no answer."""
        headers = {"authorization": self._authorization}
        if content_type:
            headers["content-type"] = content_type
        url = f"{self._root}/{path}" + (f"?{query}" if query else "")
        try:
            async with (
                asyncio.timeout(self._idle),
                self._open().request(method, url, data=body, headers=headers) as response,
            ):
                return Raw(response.status, response.headers.get("content-type", ""), await response.read())
        except (TimeoutError, aiohttp.ClientError) as error:
            raise ProviderFailure(
                "CONNECTION", f"no answer from {self.name} ({type(error).__name__}): look at {self.where}", retry=True
            ) from None

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What a stream says, whole events at a time; raises ProviderFailure when it breaks off."""
    rest = b""
    try:
        async for data in response.content.iter_any():
            rest = rest + data if rest else data
            end = rest.rfind(b"\n\n")
            if end >= 0:
                yield rest[: end + 2]
                rest = rest[end + 2 :]
        if rest.strip():
            yield rest + b"\n\n"
    except TimeoutError:
        raise ProviderFailure("TIMEOUT", "the stream stood still", retry=False) from None
    except aiohttp.ClientError as error:
        raise ProviderFailure("SERVER_ERROR", f"the stream broke off ({type(error).__name__})", retry=False) from None


def counted(usage: Any) -> tuple[int, int, int]:
    """Input, output and cached input tokens of OpenAI's `usage` object; zeros where it says nothing."""
    if not isinstance(usage, dict):
        return 0, 0, 0
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, cached or 0


def _read(body: bytes, left: Headroom, model: str) -> Passed:
    try:
        said = orjson.loads(body)
        finishes = tuple(choice.get("finish_reason") or "stop" for choice in said["choices"])
        inputs, outputs, cached = counted(said.get("usage"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ProviderFailure("SERVER_ERROR", "the answer was not the API's", retry=True) from None
    return Passed(
        "", said.get("model") or model, inputs, outputs, cached, finishes[0] if finishes else "stop",
        headroom=left, body=body, finishes=finishes,
    )  # fmt: skip


def _judged(at: Upstream, status: int, headers: Mapping[str, str], body: bytes, model: str) -> Exception:
    """What a status means. Sources: see `llm_gateway.providers.groq`."""
    code = _code(body)
    if status in (401, 403):
        return ProviderFailure(
            "AUTHENTICATION",
            f"{at.name} refuses the gateway's key (HTTP {status} {code}): check {at.where}",
            retry=False,
        )
    if code in GONE or (status == 404 and not code):
        return ProviderFailure(
            "MODEL_GONE", f"{at.name} does not serve {model} (HTTP {status} {code}): {_instead(model)}", retry=False
        )
    if status in (429, 498):
        return ProviderFailure(
            "RATE_LIMITED", f"the provider's limit is reached (HTTP {status})", retry=True, retry_after=wait(headers)
        )
    if status >= 500 or status in (408, 409, 424):
        return ProviderFailure(
            "SERVER_ERROR",
            f"the provider answers HTTP {status} {code}",
            retry=True,
            retry_after=seconds(headers.get("retry-after")),
        )
    return TakenBack(status, code, body)


def _instead(model: str) -> str:
    return retired(model) or "see GET /v1/models for what is"


def _code(body: bytes) -> str:
    try:
        said = orjson.loads(body)["error"]
        return str(said.get("code") or said.get("type") or "")[:60]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
