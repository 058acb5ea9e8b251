"""Names of the routes file, asked by clients of the server: aliases, fallbacks, cascades, rules; on a real Valkey and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from infra.local.groq_stand_in import GroqStandIn, Step
from infra.settings import Settings
from tests.connected.gateway_place import Place, ask, opened

pytestmark = pytest.mark.connected


@dataclass
class World:
    place: Place
    second: GroqStandIn
    small: str
    large: str

    @property
    def asked(self) -> list[str]:
        """Models in the order in which the first provider was asked."""
        return [body["model"] for body in self.place.stand_in.asked]

    def refuse(self, model: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        limited = self.place.stand_in._limited

        def refusing(step: Step, tokens: int, user: str) -> Any:
            return limited(Step(status=status) if self.asked[-1] == model else step, tokens, user)

        monkeypatch.setattr(self.place.stand_in, "_limited", refusing)


def say(answers: dict[str, str]) -> Callable[[dict[str, Any]], str]:
    return lambda request: answers.get(request["model"], f"by {request['model']}")


@pytest.fixture
async def world(
    migrated: Settings, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    # Models of the test's own: circuits are shared by everybody on this Redis.
    name = secrets.token_hex(4)
    small, large, other = f"small-{name}", f"large-{name}", f"other{name}"
    async with AsyncExitStack() as stack:
        second = GroqStandIn(say({}))
        url = await stack.enter_async_context(second.serve())
        monkeypatch.setenv("SECOND_KEY", "second")
        routes = tmp_path / "routes.toml"
        routes.write_text(
            f"""
[tiers]
cheap = ["{small}"]
strong = ["{large}", {{provider = "{other}", model = "{large}"}}]
[providers.{other}]
base_url = "{url}"
key_variable = "SECOND_KEY"
[prices."{other}/{large}"]
input = 1000
output = 2000
since = 2026-11-01
[[rules]]
analyses = ["lead_intel"]
tiers = ["strong"]
[[rules]]
max_input_tokens = 100
tiers = ["cheap"]
[[rules]]
tiers = ["strong"]
[models]
best = ["strong"]
thrifty = ["cheap", "strong"]
auto = "rules"
"""
        )
        place = await stack.enter_async_context(opened(migrated, tenant, routes=str(routes)))
        place.stand_in.responder = say({})
        yield World(place, second, small, large)


def named(name: str, **more: Any) -> dict[str, Any]:
    return {**ask(), "model": name, **more}


async def test_an_alias_is_listed_and_answers_as_the_model_behind_it(world: World) -> None:
    async with world.place.openai() as client:
        listed = [model.id for model in (await client.models.list()).data]
        answer = await client.chat.completions.create(**named("best"))
        # The same question under the model's own name is the same question.
        direct = await client.chat.completions.with_raw_response.create(**named(world.large))
    assert {"best", "thrifty", "auto"} <= set(listed)
    assert answer.model == world.large
    assert direct.headers["x-hookline-cache"] == "hit"
    assert world.asked == [world.large]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [404, 401, 503])
async def test_when_the_first_provider_cannot_answer_the_next_one_does(
    world: World, status: int, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refuse(world.large, status, monkeypatch)
    async with world.place.openai() as client:
        if stream:
            chunks = [chunk async for chunk in await client.chat.completions.create(**named("best"), stream=True)]
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        else:
            text = (await client.chat.completions.create(**named("best"))).choices[0].message.content or ""
    assert text == f"by {world.large}"
    assert world.second.saw.answered == 1


async def test_a_provider_whose_circuit_is_open_is_passed_over_unasked(world: World) -> None:
    world.place.server.core.breakers.of(f"groq:{world.large}").set(5, 30.0)
    async with world.place.openai() as client:
        await client.chat.completions.create(**named("best"))
    assert world.asked == []
    assert world.second.saw.answered == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_that_the_first_provider_names_is_not_waited_where_there_is_another_one(
    world: World, stream: bool
) -> None:
    """INVARIANT: if this fails, every fallback from a 429 takes as long as its `retry-after`."""
    world.place.stand_in.script.append(Step(status=429, retry_after=47.0))
    other = await world.place.another()
    began = asyncio.get_running_loop().time()
    async with world.place.openai() as client, world.place.openai(base_url=f"{other}/v1") as elsewhere:
        for number, each in enumerate((client, client, elsewhere)):
            wanted = {**named("best"), "messages": ask(number)["messages"]}
            if stream:
                _ = [chunk async for chunk in await each.chat.completions.create(**wanted, stream=True)]
            else:
                await each.chat.completions.create(**wanted)
    assert asyncio.get_running_loop().time() - began < 10, "less than a second, on a machine that is not busy"
    assert world.asked == [world.large], "whoever comes later does not ask the first one again, here or elsewhere"
    assert world.second.saw.answered == 3


async def test_a_cascade_does_not_wait_for_its_small_model_unless_the_work_is_bulk(world: World) -> None:
    world.place.stand_in.script.append(Step(status=429, retry_after=5.0))
    loop = asyncio.get_running_loop()
    async with world.place.openai() as client:
        began = loop.time()
        assert (await client.chat.completions.create(**named("thrifty"))).model == world.large
        assert loop.time() - began < 4
        bulk = await client.chat.completions.create(
            **{**named("thrifty"), "messages": ask(1)["messages"]}, extra_headers={"x-hookline-priority": "bulk"}
        )
    assert bulk.model == world.small
    assert loop.time() - began >= 4.8


async def test_who_asks_a_model_by_its_own_name_waits_for_it(world: World) -> None:
    world.place.stand_in.script.append(Step(status=429, retry_after=2.0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with world.place.openai() as client:
        named_by_us, direct = await asyncio.gather(
            client.chat.completions.create(**named("best")), client.chat.completions.create(**named(world.large))
        )
        assert named_by_us.model == direct.model == world.large
    assert loop.time() - began >= 1.9
    assert world.second.saw.answered == 1
    assert world.place.stand_in.saw.answered == 1


async def test_rules_choose_by_the_analysis_that_the_client_names(world: World) -> None:
    async with world.place.openai() as client:
        for analysis in ("lead_intel", "requirements"):
            await client.chat.completions.create(**named("auto"), extra_headers={"x-hookline-analysis": analysis})
    assert world.asked == [world.large, world.small]
    assert {row.analysis for row in await world.place.rows()} == {"chat"}, "accounts know a bounded set of names"


async def test_a_provider_of_the_file_costs_what_the_file_says(world: World) -> None:
    world.place.server.core.breakers.of(f"groq:{world.large}").set(5, 30.0)
    async with world.place.openai() as client:
        answer = await client.chat.completions.create(**named("best"))
    [row] = await world.place.rows()
    assert answer.usage is not None
    dollars = answer.usage.prompt_tokens * 0.001 + answer.usage.completion_tokens * 0.002
    assert float(row.cost_usd) == pytest.approx(dollars, rel=1e-6)


async def test_a_stream_that_broke_off_is_not_begun_anew_elsewhere(world: World) -> None:
    world.place.stand_in.script.append(Step(raw='data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'))
    async with world.place.openai() as client:
        stream = await client.chat.completions.create(**named("best"), stream=True)
        with pytest.raises(openai.APIError, match="ended before"):
            _ = [chunk async for chunk in stream]
    assert world.second.saw.requests == 0


async def test_what_the_client_did_wrong_is_not_tried_elsewhere(world: World) -> None:
    world.place.stand_in.script.append(Step(status=400, code="some_code"))
    async with world.place.openai() as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**named("best"))
    assert world.second.saw.requests == 0


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "grade",
        "schema": {"type": "object", "properties": {"grade": {"enum": ["A", "B"]}}, "required": ["grade"]},
    },
}


@pytest.mark.parametrize(
    ("small_says", "models"),
    [('{"grade": "A"}', ["small"]), ('{"grade": "Z"}', ["small", "large"]), ("I would say A", ["small", "large"])],
)
async def test_a_cascade_asks_the_large_model_only_where_the_small_ones_answer_is_not_what_was_asked_for(
    world: World, small_says: str, models: list[str]
) -> None:
    world.place.stand_in.responder = say({world.small: small_says, world.large: '{"grade": "B"}'})
    async with world.place.openai() as client:
        answer = await client.chat.completions.create(**named("thrifty", response_format=SCHEMA))
    assert [name.partition("-")[0] for name in world.asked] == models
    assert json.loads(answer.choices[0].message.content or "") == {"grade": "A" if models == ["small"] else "B"}
    rows = await world.place.rows()
    assert {row.model for row in rows} == set(world.asked), "what the small model took is accounted, too"


async def test_a_cascade_streams(world: World) -> None:
    world.place.stand_in.responder = say({world.small: "", world.large: "the large one"})
    async with world.place.openai() as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**named("thrifty"), stream=True)]
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "the large one"
    assert [body["stream"] for body in world.place.stand_in.asked] == [False, True]


async def test_rules_choose_by_the_size_of_the_question(world: World) -> None:
    async with world.place.openai() as client:
        await client.chat.completions.create(**named("auto"))
        await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "long " * 200}])
    assert world.asked == [world.small, world.large]


async def test_a_key_may_be_held_to_names_of_the_file(world: World) -> None:
    _, text = await world.place.keys.create(world.place.tenant, models=("best",))
    async with world.place.openai(text) as client:
        await client.chat.completions.create(**named("best"))
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(**named(world.large))
        assert [model.id for model in (await client.models.list()).data] == ["best"]


async def test_a_retired_model_is_told_with_what_to_take_instead_however_often_it_is_asked(place: Place) -> None:
    place.stand_in.script.extend(Step(status=404, code="model_decommissioned") for _ in range(8))
    async with place.openai(max_retries=3) as client:
        for number in range(8):
            with pytest.raises(openai.NotFoundError, match="take openai/gpt-oss-20b") as gone:
                await client.chat.completions.create(**{**ask(number), "model": "llama-3.1-8b-instant"})
    assert gone.value.code == "model_not_found"
    assert place.stand_in.saw.requests == 8, "asking again cannot help, and the client is told so"
