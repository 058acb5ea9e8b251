"""What a batch's files hold: a line for each question, a line for each answer.

Law: pure; knows no database and no provider's package. A line names its question by a random id and by nothing else: no
tenant, no record, no digest. What cannot be read is passed over: its question is asked alone later.
Source: https://console.groq.com/docs/batch (JSON lines; `custom_id`, `method`, `url`, `body`; results in any order, those that
failed in a file of their own).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_gateway.providers.provider import Completed

ENDPOINT = "/v1/chat/completions"
_MOST_CODE = 60


@dataclass(frozen=True, slots=True)
class Result:
    """What came back for one question: the model's words, or why there are none."""

    id: str
    completed: Completed | None = field(repr=False)
    code: str = ""
    """The provider's code of the error; never its message, which may quote the question."""


def line(id_: str, body: Mapping[str, Any]) -> bytes:
    """One question, with its end of line."""
    return orjson.dumps({"custom_id": id_, "method": "POST", "url": ENDPOINT, "body": body}) + b"\n"


def results(content: bytes, model: str) -> Iterator[Result]:
    """What a file of answers or of errors says, line by line; `model` is that of answers that do not name theirs."""
    for raw in content.splitlines():
        try:
            said = orjson.loads(raw)
            id_ = said["custom_id"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(id_, str):
            yield _result(id_, said, model)


def _result(id_: str, said: Mapping[str, Any], model: str) -> Result:
    response = said.get("response")
    response = response if isinstance(response, dict) else {}
    status = response.get("status_code", 200)
    body = response.get("body")
    if status != 200 or not isinstance(body, dict) or said.get("error"):
        return Result(id_, None, _code(said.get("error"), body, status))
    try:
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        completed = Completed(
            text=message.get("content") or "",
            model=body.get("model") or model,
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
            cached_input_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            finish_reason=choice.get("finish_reason") or "stop",
            refused=bool(message.get("refusal")),
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return Result(id_, None, "UNREADABLE")
    return Result(id_, completed) if isinstance(completed.text, str) else Result(id_, None, "UNREADABLE")


def _code(error: Any, body: Any, status: Any) -> str:
    for place in (error, body.get("error") if isinstance(body, dict) else None):
        if isinstance(place, dict) and isinstance(place.get("code") or place.get("type"), str):
            return str(place.get("code") or place.get("type"))[:_MOST_CODE]
    return f"HTTP_{status}" if isinstance(status, int) else "UNREADABLE"
