"""JSON schemas through the server for a model that takes none, with the official clients; on a real Valkey and PostgreSQL."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from infra.local.groq_stand_in import Step
from tests.connected.gateway_place import Place, ask

pytestmark = pytest.mark.connected
PLAIN = "llama-3.3-70b-versatile"
"""Known to take no JSON schema."""


class Verdict(BaseModel):
    grade: Literal["A", "B"]


GOOD, BAD = '{"grade": "A"}', '{"grade": "excellent"}'
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "schema": Verdict.model_json_schema()},
}


def plain(**more: Any) -> dict[str, Any]:
    return {**ask(), "model": PLAIN, **more}


@pytest.mark.parametrize("said", [GOOD, f"```json\n{GOOD}\n```", f"Sure! {GOOD}"])
async def test_openais_client_parses_what_the_model_was_told_in_words(place: Place, said: str) -> None:
    place.stand_in.responder = lambda _: said
    async with place.openai() as client:
        answer = await client.chat.completions.parse(**plain(), response_format=Verdict)
    assert answer.choices[0].message.parsed == Verdict(grade="A")
    [body] = place.stand_in.asked
    assert body["response_format"] == {"type": "json_object"}
    assert '"grade"' in body["messages"][0]["content"]


async def test_groqs_client_gets_a_repaired_answer_and_both_are_paid(place: Place) -> None:
    place.stand_in.script.extend([Step(text=BAD), Step(text=GOOD)])
    async with place.groq() as client:
        answer = await client.chat.completions.create(**plain(response_format=FORMAT))
        again = await client.chat.completions.with_raw_response.create(**plain(response_format=FORMAT))
    assert answer.choices[0].message.content == GOOD
    assert again.headers["x-hookline-cache"] == "hit"
    first, second = place.stand_in.asked
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert "excellent" not in second["messages"][-1]["content"], "what was wrong is told by its place"
    [row] = await place.rows()
    assert (row.calls, row.output_tokens) == (2, place.stand_in.saw.completion_tokens)


async def test_an_answer_that_is_wrong_twice_is_refused_by_name_and_not_kept(place: Place) -> None:
    place.stand_in.script.extend([Step(text=BAD), Step(text="A, I would say")])
    async with place.openai(max_retries=3) as client:
        with pytest.raises(openai.APIStatusError, match=r"PROSE.*at first SCHEMA") as refused:
            await client.chat.completions.create(**plain(response_format=FORMAT))
        assert place.stand_in.saw.requests == 2
        place.stand_in.responder = lambda _: GOOD
        await client.chat.completions.create(**plain(response_format=FORMAT))
    assert (refused.value.status_code, refused.value.body["code"]) == (502, "output_invalid")  # type: ignore[index]
    assert "excellent" not in refused.value.message


async def test_the_providers_own_word_for_no_json_is_repaired_too(place: Place) -> None:
    place.stand_in.script.append(Step(status=400, code="json_validate_failed", failed_generation="A!"))
    place.stand_in.responder = lambda _: GOOD
    async with place.openai() as client:
        answer = await client.chat.completions.parse(**plain(), response_format=Verdict)
    assert answer.choices[0].message.parsed == Verdict(grade="A")


async def test_a_stream_holds_nothing_that_was_not_validated(place: Place) -> None:
    place.stand_in.script.extend([Step(text=BAD), Step(text=GOOD)])
    async with place.openai() as client:
        chunks = [
            chunk async for chunk in await client.chat.completions.create(**plain(response_format=FORMAT), stream=True)
        ]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == GOOD


async def test_a_schema_that_is_none_is_refused_before_anything_is_sent(place: Place) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    async with place.openai() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**plain(response_format=wrong))
    assert refused.value.code == "invalid_json_schema"
    assert place.stand_in.saw.requests == 0
