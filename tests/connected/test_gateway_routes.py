"""Cascades, fallbacks and packs through the whole gateway, on a real Valkey and PostgreSQL and the Groq stand-in."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, SecretStr

from infra.database.engine import build_engine
from infra.keyring import DataKey
from infra.local.groq_stand_in import GroqStandIn, Step
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway.gateway import Gateway
from llm_gateway.prompt import Caller, InputRefused, Judgement, ModelUnavailable, Prompt

pytestmark = pytest.mark.connected
SMALL, LARGE = "openai/gpt-oss-20b", "openai/gpt-oss-120b"


class Verdict(BaseModel):
    score: int
    why: str


@dataclass
class World:
    stand_in: GroqStandIn
    gateway: Gateway
    settings: Settings
    tenant: str

    def caller(self) -> Caller:
        key = DataKey(secrets.token_hex(16), self.tenant, "record", secrets.token_hex(8), secrets.token_bytes(32))
        return Caller(self.tenant, "hubspot:1", "42", "lead_intel", key)

    @property
    def models(self) -> list[str]:
        return [str(body["model"]) for body in self.stand_in.asked]

    async def usage(self) -> list[Any]:
        await self.gateway._ledger.flush()
        engine = build_engine(self.settings)
        async with engine.connect() as connection:
            statement = sa.text("select * from llm_usage where tenant = :t order by model")
            found = (await connection.execute(statement, {"t": self.tenant})).all()
        await engine.dispose()
        return list(found)


def good_at(*models: str) -> Callable[[dict[str, Any]], str]:
    """These models score 7, the others 0; packs are answered one by one."""

    def says(body: dict[str, Any]) -> str:
        one = {"score": 7 if body["model"] in models else 0, "why": "so"}
        if body["response_format"].get("json_schema", {}).get("name") == "VerdictPack":
            ids = [json.loads(line)["id"] for line in body["messages"][1]["content"].splitlines()]
            return json.dumps({"answers": [{"id": id_, "answer": one} for id_ in ids]})
        return json.dumps(one)

    return says


def question(user: str = "a lead", **changes: Any) -> Prompt[Verdict]:
    given = {
        "judge": lambda answer: Judgement(1.0, 1.0 if answer.score else 0.0),
        "max_output_tokens": 200,
        **changes,
    }
    return Prompt("verdict", "1", "You judge leads.", user, Verdict, {}, **given)


Opener = Callable[..., Any]


@pytest.fixture
async def opened(settings: Settings, tenant: str) -> AsyncIterator[Opener]:
    closing: list[Any] = []
    stack = AsyncExitStack()

    async def open_(says: Callable[[dict[str, Any]], str], **changes: Any) -> World:
        stand_in = GroqStandIn(says)
        url = await stack.enter_async_context(stand_in.serve())
        mine = settings.model_copy(
            update={"provider": "groq", "groq_api_key": SecretStr("k"), "groq_base_url": url, **changes}
        )
        redis, engine = build_redis(mine), build_engine(mine)
        gateway = Gateway(mine, redis, engine)
        await gateway.start()
        closing.append((gateway, redis, engine))
        return World(stand_in, gateway, mine, tenant)

    yield open_
    for gateway, redis, engine in closing:
        await gateway.stop()
        await redis.aclose()
        await engine.dispose()
    await stack.aclose()


async def test_a_small_models_good_answer_is_taken_and_kept(opened: Opener):
    world = await opened(good_at(SMALL, LARGE))
    caller = world.caller()
    answer = await world.gateway.ask(question(), caller)
    again = await world.gateway.ask(question(), caller)
    assert answer.model == SMALL
    assert world.models == [SMALL]
    assert again.cached
    assert again.usage.cost_usd == 0


async def test_an_answer_that_the_judge_doubts_is_asked_of_the_large_model_and_both_are_paid(opened: Opener):
    world = await opened(good_at(LARGE))
    caller = world.caller()
    answer = await world.gateway.ask(question(), caller)
    assert (answer.model, answer.value.score) == (LARGE, 7)
    assert world.models == [SMALL, LARGE]
    rows = await world.usage()
    assert [row.model for row in rows] == [LARGE, SMALL]
    assert answer.usage.cost_usd == pytest.approx(float(sum(row.cost_usd for row in rows)))
    assert answer.usage.input_tokens == sum(row.input_tokens for row in rows)
    again = await world.gateway.ask(question(), caller)
    assert again.cached
    assert len(world.models) == 2


async def test_an_invalid_answer_of_the_small_model_goes_on_to_the_large_one(opened: Opener):
    world = await opened(lambda body: good_at(LARGE)(body) if body["model"] == LARGE else '{"score": "none"}')
    assert (await world.gateway.ask(question(), world.caller())).model == LARGE
    assert world.models == [SMALL, SMALL, LARGE], "asked, repaired once, passed on"


async def test_large_input_goes_to_the_large_model_at_once(opened: Opener):
    world = await opened(good_at(SMALL, LARGE))
    assert (await world.gateway.ask(question("long " * 2_500), world.caller())).model == LARGE
    assert world.models == [LARGE]


@pytest.fixture
def pair() -> tuple[str, str]:
    """Two models of the test's own: circuits are shared by everybody on this Redis."""
    name = secrets.token_hex(4)
    return f"small-{name}", f"large-{name}"


def chain(tmp_path: Path, *models: str) -> str:
    path = tmp_path / "routes.toml"
    path.write_text(f'[tiers]\nonly = {json.dumps(models)}\n[[rules]]\ntiers = ["only"]\n')
    return str(path)


@pytest.mark.parametrize("status", [404, 503, 401])
async def test_when_a_model_cannot_answer_the_next_one_is_asked(
    opened: Opener, tmp_path: Path, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, status: int
):
    small, large = pair
    world = await opened(good_at(large), routes=chain(tmp_path, small, large))
    limited = world.stand_in._limited

    def refusing(step: Step, tokens: int, user: str) -> Any:
        return limited(Step(status=status) if world.models[-1] == small else step, tokens, user)

    monkeypatch.setattr(world.stand_in, "_limited", refusing)
    answer = await world.gateway.ask(question(judge=None), world.caller())
    assert answer.model == large
    assert set(world.models[:-1]) == {small}


async def test_a_wait_that_the_provider_names_is_not_waited_where_there_is_another_model(
    opened: Opener, tmp_path: Path, pair: tuple[str, str]
):
    """INVARIANT: if this fails, every fallback from a 429 takes as long as its `retry-after`."""
    small, large = pair
    worlds = [await opened(good_at(small, large), routes=chain(tmp_path, small, large)) for _ in range(2)]
    worlds[0].stand_in.script.append(Step(status=429, retry_after=10.0))
    began = asyncio.get_running_loop().time()
    for number, world in enumerate((worlds[0], worlds[0], worlds[1])):
        answer = await world.gateway.ask(question(f"lead {number}", judge=None), world.caller())
        assert answer.model == large
    assert asyncio.get_running_loop().time() - began < 7
    assert worlds[0].models == [small, large, large]
    assert worlds[1].models == [large], "another replica knows of it"


async def test_a_model_whose_circuit_is_open_is_passed_over_unasked(
    opened: Opener, tmp_path: Path, pair: tuple[str, str]
):
    small, large = pair
    world = await opened(good_at(small, large), routes=chain(tmp_path, small, large))
    world.gateway.core.breakers.of(f"groq:{small}").set(5, 30.0)
    assert (await world.gateway.ask(question(judge=None), world.caller())).model == large
    assert world.models == [large]


async def test_when_all_circuits_are_open_it_is_said_until_when(opened: Opener, tmp_path: Path, pair: tuple[str, str]):
    small, large = pair
    world = await opened(good_at(small, large), routes=chain(tmp_path, small, large))
    for model in (small, large):
        world.gateway.core.breakers.of(f"groq:{model}").set(5, 30.0)
    with pytest.raises(ModelUnavailable, match="CIRCUIT_OPEN") as raised:
        await world.gateway.ask(question(judge=None), world.caller())
    assert raised.value.retry_after
    assert not world.models


async def test_what_fits_into_no_model_is_refused_with_its_size(opened: Opener, tmp_path: Path, pair: tuple[str, str]):
    small, large = pair
    world = await opened(good_at(large), routes=chain(tmp_path, small, large))
    with pytest.raises(InputRefused, match="about 133"):
        await world.gateway.ask(question("x" * 400_000, judge=None), world.caller())
    assert not world.models


async def test_records_of_one_tenant_share_a_call_and_each_is_kept_and_accounted_by_itself(opened: Opener):
    world = await opened(good_at(SMALL, LARGE), pack_seconds=0.2)
    callers = [world.caller() for _ in range(4)]
    prompts = [question(f"lead {number}", pack=4) for number in range(4)]
    found = await asyncio.gather(*map(world.gateway.ask, prompts, callers))
    assert len(world.models) == 1
    [row] = await world.usage()
    assert (row.calls, row.packed) == (4, 3)
    assert row.input_tokens == world.stand_in.saw.prompt_tokens
    assert row.output_tokens == world.stand_in.saw.completion_tokens
    assert row.packed_saved_usd > 0
    assert sum(each.usage.input_tokens for each in found) == row.input_tokens
    again = await asyncio.gather(*map(world.gateway.ask, prompts, callers))
    assert all(each.cached for each in again)
    assert len(world.models) == 1


async def test_one_that_does_not_validate_in_a_pack_is_repaired_alone(opened: Opener):
    def says(body: dict[str, Any]) -> str:
        if body["response_format"]["json_schema"]["name"] != "VerdictPack":
            return '{"score": 7, "why": "alone"}'
        lines = [json.loads(line) for line in body["messages"][1]["content"].splitlines()]
        return json.dumps(
            {
                "answers": [
                    {"id": line["id"], "answer": {"score": "none" if line["input"] == "lead 1" else 7, "why": "packed"}}
                    for line in lines
                ]
            }
        )

    world = await opened(says, pack_seconds=0.2)
    found = await asyncio.gather(
        *(world.gateway.ask(question(f"lead {number}", pack=3), world.caller()) for number in range(3))
    )
    assert [each.value.why for each in found] == ["packed", "alone", "packed"]
    assert len(world.models) == 2
    assert sum(row.input_tokens for row in await world.usage()) == world.stand_in.saw.prompt_tokens
