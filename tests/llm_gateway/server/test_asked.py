from __future__ import annotations

from typing import Any

import orjson
import pytest

from llm_gateway.server.asked import read
from llm_gateway.server.errors import Refusal


def body(**more: Any) -> bytes:
    return orjson.dumps({"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "hi"}], **more})


@pytest.mark.parametrize(
    "more", [{"stream": True}, {"user": "42"}, {"metadata": {"a": "b"}}, {"stream_options": {"include_usage": True}}]
)
def test_how_it_is_delivered_is_not_the_question(more: dict[str, Any]) -> None:
    assert read(body(**more)).canonical("t", "groq") == read(body()).canonical("t", "groq")


@pytest.mark.parametrize("more", [{"temperature": 0.1}, {"seed": 1}, {"tools": [{}]}, {"unknown": 1}, {"model": "m"}])
def test_anything_else_is(more: dict[str, Any]) -> None:
    assert read(body(**more)).canonical("t", "groq") != read(body()).canonical("t", "groq")


def test_two_tenants_never_ask_the_same() -> None:
    assert read(body()).canonical("a", "groq") != read(body()).canonical("b", "groq")


def test_a_whole_answer_is_asked_for_byte_by_byte_and_a_stream_with_its_usage() -> None:
    raw = body(temperature=0.5)
    assert read(raw).passed() is raw
    assert orjson.loads(read(body(stream=True)).passed())["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": "m", "messages": [1]}', "messages"),
        (body(n=0), "n"),
        (body(max_tokens="many"), "max_tokens"),
        (body(max_tokens=2**62), "max_tokens"),
        (body(n=2**62), "n"),
    ],
)
def test_what_cannot_be_asked_names_the_field(raw: bytes, param: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        read(raw)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_users_name_is_one_that_the_accounts_can_keep() -> None:
    """INVARIANT: if this fails, one request's `user` keeps the accounts of everybody from being written."""
    assert read(body(user="a\0b" + "c" * 5_000)).user == "ab" + "c" * 253
