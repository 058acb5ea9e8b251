from __future__ import annotations

import json
from datetime import date
from typing import Literal

import httpx
import pytest
from pydantic import AwareDatetime, BaseModel, Field

from infra.local.groq_stand_in import GroqStandIn, Step, smallest_answer


class Part(BaseModel):
    kind: Literal["x", "y"]
    at: AwareDatetime


class Whole(BaseModel):
    text: str
    number: float
    count: int = Field(ge=1, le=25)
    sure: bool
    due: date
    part: Part
    maybe: Part | None
    parts: list[Part]


def request(**format_: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "response_format": format_}


def test_the_smallest_answer_fits_the_schema():
    answer = smallest_answer(request(type="json_schema", json_schema={"schema": Whole.model_json_schema()}))
    assert Whole.model_validate_json(answer).part.kind == "x"


def test_the_schema_may_stand_in_the_instructions():
    asked = request(type="json_object")
    asked["messages"] = [{"role": "system", "content": f"Match this:\n{json.dumps(Whole.model_json_schema())}"}]
    assert Whole.model_validate_json(smallest_answer(asked))


async def test_it_is_scripted_over_http_and_by_the_caller():
    stand_in = GroqStandIn(lambda _: "hello")
    headers = {"Authorization": "Bearer k"}
    async with stand_in.serve() as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        told = await client.post("/stand-in", json={"script": [{"status": 429, "retry_after": 2}, {"text": "once"}]})
        assert told.json() == {"script": 2}
        path = "/openai/v1/chat/completions"
        refused = await client.post(path, json=request())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        said = [(await client.post(path, json=request())).json()["choices"][0]["message"]["content"] for _ in range(2)]
        assert said == ["once", "hello"]
        stand_in.script.append(Step(raw="?"))
        assert (await client.post(path, json=request())).text == "?"
        told = (await client.get("/stand-in")).json()
        assert (told["asked"], told["refused"], told["script"]) == (4, 0, 0)
        assert (await client.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
async def test_it_wants_a_key(headers: dict[str, str]):
    async with GroqStandIn(key="k").serve() as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        assert (await client.post("/openai/v1/chat/completions", json=request())).status_code == 401
