from __future__ import annotations

from typing import Any

import orjson
import pytest

from llm_gateway.server.errors import Refusal
from llm_gateway.server.schema import Checker, Mismatch, advice, checked, judged

GRADE = {"type": "object", "properties": {"grade": {"enum": ["A", "B"]}}, "required": ["grade"]}
NOTE = "Ada Lovelace"


def said(content: str | None, **choice: Any) -> bytes:
    message = {"role": "assistant", "content": content, **choice.pop("message", {})}
    return orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]})


def content(body: bytes) -> str:
    return str(orjson.loads(body)["choices"][0]["message"]["content"])


def test_what_matches_goes_on_byte_by_byte() -> None:
    body = said('{"grade": "A"}')
    assert checked(body, Checker(GRADE)) is body


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Here it is: {}", "{}\n\nHope it helps!"])
def test_one_object_is_found_among_words(around: str) -> None:
    assert content(checked(said(around.replace("{}", '{"grade": "A"}')), Checker(GRADE))) == '{"grade": "A"}'


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (said(""), "EMPTY"),
        (said(None), "EMPTY"),
        (said("I would say A"), "PROSE"),
        (said('{"grade": "A"} or {"grade": "B"}'), "PROSE"),
        (said('{"grade": "A', finish_reason="length"), "TRUNCATED"),
        (said('{"grade": "' + NOTE + '"}'), "SCHEMA"),
        (said('{"' + NOTE + '": 1}'), "SCHEMA"),
        (said("[]"), "SCHEMA"),
        (said("no", message={"refusal": "no"}), "REFUSED"),
        (said("no", finish_reason="content_filter"), "REFUSED"),
    ],
)
def test_what_does_not_match_is_named_and_never_quoted(body: bytes, outcome: str) -> None:
    with pytest.raises(Mismatch) as found:
        checked(body, Checker(GRADE))
    assert found.value.outcome == outcome
    assert NOTE not in str(found.value)
    assert NOTE not in advice(found.value)["content"]


def test_a_tool_call_is_no_answer_to_hold_against_the_schema() -> None:
    body = said(None, message={"tool_calls": [{"id": "1"}]}, finish_reason="tool_calls")
    assert checked(body, Checker(GRADE)) is body


@pytest.mark.parametrize(
    "schema",
    [
        [],
        {"type": "no such type"},
        {"properties": {"a": {"minimum": "1"}}},
        {"type": "object", "patternProperties": {"(a+)+$": {}}},
        {"description": "x" * 200_000},
    ],
)
def test_a_schema_that_cannot_be_held_against_an_answer_is_refused_before_anything_is_asked(schema: Any) -> None:
    with pytest.raises(Refusal) as refused:
        Checker(schema)
    assert (refused.value.code, refused.value.param) == ("invalid_json_schema", "response_format")


@pytest.mark.parametrize("ref", ["http://127.0.0.1:1/schema.json", "#/$defs/none", "#"])
def test_nothing_is_fetched_for_a_schema_and_one_that_turns_in_circles_ends(ref: str) -> None:
    """INVARIANT: if this fails, a client makes the gateway ask addresses inside its network."""
    with pytest.raises(Refusal):
        Checker({"$ref": ref}).check({"grade": "A"})


def test_a_clients_regular_expression_is_not_run() -> None:
    """INVARIANT: if this fails, one client's pattern stops the gateway for everybody."""
    Checker({"properties": {"a": {"pattern": "^(a+)+$"}}}).check({"a": "a" * 60 + "!"})


@pytest.mark.parametrize("body", [said("fine"), said(None, message={"tool_calls": [{}]}, finish_reason="tool_calls")])
def test_a_small_models_whole_answer_may_be_taken(body: bytes) -> None:
    judged(body, None, wants_json=False)


@pytest.mark.parametrize(
    ("body", "wants_json"),
    [(said(" "), False), (said("half", finish_reason="length"), False), (said("I would say A"), True)],
)
def test_half_an_answer_or_none_is_asked_of_the_next_tier(body: bytes, wants_json: bool) -> None:
    with pytest.raises(Mismatch):
        judged(body, None, wants_json=wants_json)
