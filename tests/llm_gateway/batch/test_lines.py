from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.batch.lines import line, results

MODEL = "openai/gpt-oss-120b"


def came_back(**changes: Any) -> bytes:
    body = {
        "model": MODEL,
        "choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}},
    }
    given = {"custom_id": "a1", "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps({**given, **changes}).encode()


def test_a_line_names_its_question_by_its_id_alone():
    said = line("a1", {"model": MODEL, "messages": []})
    assert said.endswith(b"\n")
    assert json.loads(said) == {
        "custom_id": "a1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": []},
    }


def test_an_answer_is_read_with_what_it_took():
    [result] = results(came_back() + b"\n", MODEL)
    assert result.id == "a1"
    completed = result.completed
    assert completed is not None
    assert (completed.text, completed.model, completed.input_tokens) == ("{}", MODEL, 100)
    assert (completed.output_tokens, completed.cached_input_tokens, completed.finish_reason) == (7, 64, "stop")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (came_back(response=None, error={"code": "request_expired", "message": "Ada wants a rebate"}), "request_expired"),
        (came_back(response={"status_code": 429, "body": {"error": {"code": "rate_limit_exceeded"}}}), "rate_limit_exceeded"),
        (came_back(response={"status_code": 400, "body": {"error": {"type": "invalid_request_error"}}}), "invalid_request_error"),
        (came_back(response={"status_code": 500, "body": "oops"}), "HTTP_500"),
        (came_back(response={"status_code": 200, "body": {"choices": []}}), "UNREADABLE"),
        (came_back(response={"status_code": 200, "body": {"choices": [{"message": {"content": 7}}]}}), "UNREADABLE"),
        (came_back(response={"status_code": 200, "body": {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}}), "UNREADABLE"),
        (came_back(response="no object"), "HTTP_200"),
        (came_back(error={"code": "x" * 500}), "x" * 60),
    ],
)  # fmt: skip
def test_what_brought_no_answer_says_why_by_its_code_alone(said: bytes, code: str):
    [result] = results(said, MODEL)
    assert (result.completed, result.code) == (None, code)
    assert "Ada" not in repr(result)


def test_what_names_no_question_is_passed_over():
    content = b"\n".join([b"", b"no json", b"[1]", b'{"custom_id": 7}', b"{}", came_back()])
    assert [result.id for result in results(content, MODEL)] == ["a1"]
