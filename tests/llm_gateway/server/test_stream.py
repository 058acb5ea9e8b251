from __future__ import annotations

from typing import Any

import orjson
import pytest

from llm_gateway.server.stream import DONE, Assembly, replayed

HEAD = {"id": "c1", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
CALL = {"id": "t1", "type": "function", "function": {"name": "look_up", "arguments": '{"id": 1}'}}
WHOLE: dict[str, Any] = {
    **HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
            "logprobs": None,
        }
    ],
    "usage": USAGE,
}


def event(choices: list[Any], **more: Any) -> bytes:
    return b"data: " + orjson.dumps({**HEAD, "choices": choices, **more}) + b"\n\n"


def delta(finish: str | None = None, **parts: Any) -> bytes:
    return event([{"index": 0, "delta": parts, "finish_reason": finish}])


def test_what_is_replayed_adds_up_to_the_same_answer() -> None:
    assembly = Assembly(wants_usage=True)
    for each in replayed(orjson.dumps(WHOLE), wants_usage=True):
        assert assembly.add(each) == each
    assert assembly.done
    assert orjson.loads(assembly.body()) == WHOLE


def test_pieces_of_text_and_of_a_tool_call_are_put_together() -> None:
    assembly = Assembly(wants_usage=False)
    first, second = CALL["function"]["arguments"][:4], CALL["function"]["arguments"][4:]  # type: ignore[index]
    for block in (
        delta(role="assistant", content="hel"),
        delta(content="lo"),
        delta(
            tool_calls=[
                {"index": 0, "id": "t1", "type": "function", "function": {"name": "look_up", "arguments": first}}
            ]
        ),
        delta(tool_calls=[{"index": 0, "function": {"arguments": second}}]) + delta("tool_calls"),
    ):
        assert assembly.add(block) == block
    assert assembly.add(event([], usage=USAGE) + DONE) == DONE
    assert orjson.loads(assembly.body()) == WHOLE
    assert assembly.counted() == (10, 3, 4)
    assert assembly.finishes == ("tool_calls",)


def test_usage_that_nobody_asked_for_is_taken_out_and_counted_all_the_same() -> None:
    assembly = Assembly(wants_usage=False)
    assert assembly.add(event([], usage=USAGE)) == b""
    assert assembly.counted() == (10, 3, 4)


def test_what_is_no_chunk_is_an_error() -> None:
    with pytest.raises(ValueError):
        Assembly(wants_usage=False).add(b"data: not json\n\n")
