"""A streamed answer: what its chunks add up to, and an answer that is there already as chunks.

Law: pure. What is added up is the answer that the same request would have got without `stream`, so that the two share
their place in the cache. Chunks: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llm_gateway.server.upstream import counted

DONE = b"data: [DONE]\n\n"


class Assembly:
    """Chunks of one answer, added up."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self.usage: dict[str, Any] | None = None
        self.said = 0
        """Characters of answer so far: what is accounted when the stream ends without telling."""
        self.done = False

    def add(self, block: bytes) -> bytes:
        """Take in whole events; what of them goes on to the client. Raises ValueError for what is no chunk."""
        passed: list[bytes] = []
        whole = True
        for event in block.replace(b"\r\n", b"\n").split(b"\n\n") if b"\r" in block else block.split(b"\n\n"):
            if not event:
                continue
            if event.startswith(b"data: [DONE]"):
                self.done = True
            elif event.startswith(b"data:") and not self._taken(orjson.loads(event[5:])):
                whole = False
                continue
            passed.append(event)
        return block if whole else b"".join(event + b"\n\n" for event in passed)

    @property
    def finishes(self) -> tuple[str, ...]:
        """Why each choice ended; '' where it has not."""
        return tuple(choice["finish_reason"] or "" for choice in self._choices.values())

    @property
    def model(self) -> str:
        """As it names itself."""
        return str(self._head.get("model") or "")

    def counted(self) -> tuple[int, int, int]:
        """Input, output and cached input tokens, if they were told."""
        return counted(self.usage)

    def body(self) -> bytes:
        """The whole answer."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            calls = choice["message"].get("tool_calls")
            if isinstance(calls, dict):
                choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
        whole = {**self._head, "object": "chat.completion", "choices": choices}
        if self.usage is not None:
            whole["usage"] = self.usage
        return orjson.dumps(whole)

    def _taken(self, chunk: Any) -> bool:
        """Whether the client is to see it."""
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is an object")  # noqa: TRY004 -- bad data, not a bad call
        if "error" in chunk:
            return True
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        if usage:
            self.usage = usage
        if not self._head:
            self._head = {
                name: chunk[name] for name in ("id", "created", "model", "system_fingerprint") if name in chunk
            }
        choices = chunk.get("choices") or ()
        for choice in choices:
            self._choice(choice)
        return bool(choices) or not chunk.get("usage") or self._wants_usage

    def _choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        mine = self._choices.get(index)
        if mine is None:
            mine = self._choices[index] = {
                "index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None, "logprobs": None
            }  # fmt: skip
        message = mine["message"]
        for name, value in (choice.get("delta") or {}).items():
            if value is None:
                continue
            if name == "tool_calls":
                self._calls(message.setdefault(name, {}), value)
            elif name != "role" and isinstance(value, str):
                self.said += len(value)
                message[name] = (message.get(name) or "") + value
            else:
                message[name] = value
        if choice.get("finish_reason"):
            mine["finish_reason"] = choice["finish_reason"]
        told = choice.get("logprobs")
        if told:
            had = mine["logprobs"] = mine["logprobs"] or {"content": []}
            had["content"] = [*(had.get("content") or ()), *(told.get("content") or ())]

    def _calls(self, mine: dict[int, dict[str, Any]], calls: list[dict[str, Any]]) -> None:
        for call in calls:
            index = call.get("index", 0)
            had = mine.setdefault(index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            had["id"] = call.get("id") or had["id"]
            function = call.get("function") or {}
            had["function"]["name"] += function.get("name") or ""
            had["function"]["arguments"] += function.get("arguments") or ""
            self.said += len(function.get("arguments") or "")


def replayed(body: bytes, *, wants_usage: bool) -> Iterator[bytes]:
    """An answer that is there, as the events of a stream; raises ValueError when it is no answer."""
    whole = orjson.loads(body)
    head = {name: whole[name] for name in ("id", "created", "model", "system_fingerprint") if name in whole}
    head["object"] = "chat.completion.chunk"
    for choice in whole["choices"]:
        message, index = dict(choice["message"]), choice.get("index", 0)
        calls = message.pop("tool_calls", None)
        if calls:
            message["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        yield _event({**head, "choices": [_part(index, message, logprobs=choice.get("logprobs"))]})
        yield _event({**head, "choices": [_part(index, {}, finish=choice.get("finish_reason"))]})
    if wants_usage:
        yield _event({**head, "choices": [], "usage": whole.get("usage")})
    yield DONE


def _part(index: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
