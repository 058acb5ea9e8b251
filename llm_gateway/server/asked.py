"""A chat request as far as the gateway must understand it: the rest goes through as it came.

Law: reads, never changes what the client said; the body is sent on byte by byte unless usage must be asked for in a
stream, or the model does not know JSON schemas. Fields: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from llm_gateway.models import known
from llm_gateway.server import schema
from llm_gateway.server.errors import Refusal

# How an answer is delivered, and by whom it is asked: neither changes what is asked.
_NOT_THE_QUESTION = frozenset(
    {"stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "metadata", "store"}
)
IMAGE_TOKENS = 1_000
MOST_OUTPUT = 10_000_000
"""More than any model answers: what is reserved stays a number that Redis counts in exactly."""
MOST_CHOICES = 1_000
MOST_USER = 256
"""Letters of a user's name that are kept."""
_PER_MESSAGE = 4
_SORTED = orjson.OPT_SORT_KEYS
_IN_WORDS = frozenset(facts.name for facts in known() if facts.structured != "strict")


@dataclass(slots=True)
class Asked:
    """One chat request."""

    model: str
    raw: bytes = field(repr=False)
    body: dict[str, Any] = field(repr=False)
    stream: bool
    wants_usage: bool
    user: str
    choices: int
    size: int
    """Bytes of what the model reads."""
    images: int
    most_output: int
    """Tokens that the client allows for one answer; 0: it does not say."""
    schema: Any = field(default=None, repr=False)
    """The JSON schema that the answer must match; None: none is asked for."""

    def canonical(self, tenant: str, provider: str) -> bytes:
        """What makes two requests the same."""
        rest = {name: value for name, value in self.body.items() if name not in _NOT_THE_QUESTION}
        return orjson.dumps([3, tenant, provider, rest], option=_SORTED)

    def tokens(self, bytes_per_token: float) -> int:
        """About how many tokens the model reads."""
        return int(self.size / bytes_per_token) + self.images * IMAGE_TOKENS

    def passed(self, more: tuple[dict[str, Any], ...] = ()) -> bytes:
        """The body for the provider; `more` messages stand at its end."""
        in_words = self.schema is not None and self.model in _IN_WORDS
        if not self.stream and not in_words and not more:
            return self.raw
        body = dict(self.body)
        if in_words:
            told = {"role": "system", "content": schema.IN_WORDS + orjson.dumps(self.schema).decode()}
            body["response_format"] = {"type": "json_object"}
            body["messages"] = [told, *body["messages"]]
            # It is validated before the client hears of it.
            body["stream"] = False
            body.pop("stream_options", None)
        elif self.stream:
            # What it took is accounted, whether the client wants to know or not.
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if more:
            body["messages"] = [*body["messages"], *more]
        return orjson.dumps(body)

    @property
    def emulated(self) -> bool:
        """A JSON schema is asked for, of a model that is known to take none."""
        return self.schema is not None and self.model in _IN_WORDS

    @property
    def wants_json(self) -> bool:
        """Some JSON is asked for."""
        wanted = self.body.get("response_format")
        return isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")

    def to(self, model: str, *, whole: bool) -> Asked:
        """The same of another model; `whole`: not streamed."""
        body = {**self.body, "model": model}
        if whole:
            body["stream"] = False
            body.pop("stream_options", None)
        return replace(self, model=model, body=body, raw=orjson.dumps(body), stream=self.stream and not whole)


def read(raw: bytes) -> Asked:
    """Raises Refusal, which names the field and what it should be."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Refusal(400, "invalid_json", "the body is no JSON: send a JSON object in UTF-8") from None
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_json", "the body is no JSON object")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model or len(model) > 200:
        raise Refusal(400, "missing_model", "name the model, as GET /v1/models lists it", param="model")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "missing_messages", "messages must be a list of at least one message", param="messages")
    size, images = size_of(body, messages)
    wanted = body.get("response_format")
    options = body.get("stream_options")
    user = body.get("user")
    return Asked(
        model,
        raw,
        body,
        stream=body.get("stream") is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        user=user[:MOST_USER].replace("\0", "") if isinstance(user, str) else "",
        choices=whole(body, "n", MOST_CHOICES) or 1,
        size=size,
        images=images,
        most_output=whole(body, "max_completion_tokens") or whole(body, "max_tokens"),
        schema=None if wanted is None else _schema(wanted),
    )


def _schema(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    told = wanted.get("json_schema")
    return (told.get("schema") if isinstance(told, dict) else None) or {}


def size_of(body: dict[str, Any], messages: list[Any]) -> tuple[int, int]:
    """Bytes of what the model reads, and parts that are no text. Raises Refusal."""
    size = images = 0
    for message in messages:
        if not isinstance(message, dict):
            raise Refusal(400, "invalid_message", "each message must be an object", param="messages")
        size += _PER_MESSAGE
        content = message.get("content")
        parts = content if isinstance(content, list) else ({"text": content},)
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                size += len(text) if text.isascii() else len(text.encode())
            elif isinstance(content, list):
                images += 1
        if "tool_calls" in message:
            size += len(orjson.dumps(message["tool_calls"]))
    for name in ("tools", "response_format"):
        if body.get(name):
            size += len(orjson.dumps(body[name]))
    return size, images


def whole(body: dict[str, Any], name: str, most: int = MOST_OUTPUT) -> int:
    """A whole number of at least 1; 0 where the client does not say it. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or not 1 <= value <= most:
        raise Refusal(400, "invalid_value", f"{name} must be a whole number from 1 to {most}", param=name)
    return value
