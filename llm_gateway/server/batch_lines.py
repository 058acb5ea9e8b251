"""What a batch's file asks for at most, and what its answers took: a client's lines as far as the gateway must understand them.

Law: knows no database and sends nothing. A line is measured as chat measures a request; one that nobody can ask is refused with
its number and the field. A file may be large: it is read some hundred lines at a time, and others have their turn between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_gateway import pricing
from llm_gateway.models import facts_of, is_known
from llm_gateway.policy import nano
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Usage
from llm_gateway.server.asked import IMAGE_TOKENS, MOST_CHOICES, size_of, whole
from llm_gateway.server.errors import Refusal
from llm_gateway.server.keys import VirtualKey
from llm_gateway.server.meter import BYTES_PER_TOKEN
from llm_gateway.server.upstream import counted

AT_ONCE = 500
"""Lines between two turns of others."""
_AT_ONCE_BYTES = 1024 * 1024
_MOST = 10**14
"""Beyond it Redis' scripts do not write whole numbers exactly."""


@dataclass(slots=True)
class Most:
    """What a batch may take."""

    requests: int = 0
    tokens: int = 0
    nano: int = 0
    unpriced: set[str] = field(default_factory=set)
    """Models in it whose price nobody knows: they count as 0 in `nano`."""


async def most_of(content: bytes, provider: str, key: VirtualKey) -> Most:
    """What a file of requests may take at most. Raises Refusal, which names the line."""
    most = Most()
    async for number, line in _lines(content):
        try:
            model, tokens, cost = _asked(line, provider, key)
        except Refusal as refused:
            told = f"line {number}: {refused}"
            raise Refusal(refused.status, refused.code, told, param=refused.param) from None
        most.requests += 1
        most.tokens += tokens
        most.nano += cost
        if not cost and pricing.price_of(provider, model) is None:
            most.unpriced.add(model)
    if max(most.tokens, most.nano) >= _MOST:
        raise Refusal(400, "batch_too_large", "its answers may be longer than can be counted: allow shorter ones")
    return most


async def models_of(content: bytes) -> dict[str, str]:
    """Which model each line of a file of requests asks, by its `custom_id`; lines that are none are passed over."""
    models = {}
    async for _, line in _lines(content):
        try:
            asked = orjson.loads(line)
            models[str(asked["custom_id"])] = str(asked["body"]["model"])
        except (ValueError, KeyError, TypeError):
            continue
    return models


async def usages_of(content: bytes, provider: str, asked: Mapping[str, str]) -> AsyncIterator[Usage]:
    """What each answer in a file of results took; lines that are none are passed over. `asked`: see `models_of`; a model may
    answer under another name than it is asked by, and have no price under that.
    """
    async for _, line in _lines(content):
        try:
            said = orjson.loads(line)
            body, model = said["response"]["body"], asked.get(str(said.get("custom_id")), "")
            inputs, outputs, cached = counted(body.get("usage"))
            usage = pricing.batch_usage(provider, Completed("", str(body["model"]), inputs, outputs, cached), model)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        yield usage


async def _lines(content: bytes) -> AsyncIterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    number = start = read = 0
    turn = AT_ONCE
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end].strip()
        number, start, read = number + 1, end + 1, read + len(line)
        if line:
            yield number, line
        if number >= turn or read >= _AT_ONCE_BYTES:
            turn, read = number + AT_ONCE, 0
            await asyncio.sleep(0)


def _asked(line: bytes, provider: str, key: VirtualKey) -> tuple[str, int, int]:
    """The model, tokens and nanodollars at most. Raises Refusal."""
    body, model = _read(line)
    if key.models and model not in key.models:
        raise Refusal(403, "model_not_allowed", f"this key may not ask {model[:80]}", param="model")
    choices = whole(body, "n", MOST_CHOICES) or 1
    most = whole(body, "max_completion_tokens") or whole(body, "max_tokens") or facts_of(model).max_output_tokens
    messages = body.get("messages")
    size, images = size_of(body, messages) if isinstance(messages, list) else (len(line), 0)
    said = int(size / BYTES_PER_TOKEN) + images * IMAGE_TOKENS
    if is_known(model):
        most = min(most, max(0, facts_of(model).context_tokens - said))
    answer = most * choices
    return model, said + answer, nano(pricing.most_usd(provider, model, said, answer) * pricing.BATCH_PRICE)


def _read(line: bytes) -> tuple[dict[str, Any], str]:
    try:
        body = orjson.loads(line)["body"]
        model = body["model"]
    except (ValueError, KeyError, TypeError):
        body = model = None
    if not isinstance(body, dict) or not isinstance(model, str):
        raise Refusal(400, "invalid_line", "this is no request with a body and a model")
    return body, model
