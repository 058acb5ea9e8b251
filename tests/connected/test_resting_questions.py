"""Questions that rest, on real servers: rules speak at once, the model soon, and a process that ends in between loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from bench.trace.model import says
from infra.local.groq_stand_in import GroqStandIn
from infra.settings import Settings
from processors.app import build_analyst
from tests.connected.test_analyst import DEAL, Stage

pytestmark = pytest.mark.connected

# Decodes under a schema, and is no default: circuits are shared with whoever uses the same Redis.
MODEL = "qwen/qwen3.8-27b"


@pytest.fixture
async def model() -> AsyncIterator[tuple[GroqStandIn, str]]:
    stand_in = GroqStandIn(says)
    async with stand_in.serve() as url:
        yield stand_in, url


@pytest.fixture
async def stage(settings: Settings, tenant: str, model: tuple[GroqStandIn, str]) -> AsyncIterator[Stage]:
    given = settings.model_copy(
        update={
            "provider": "groq",
            "groq_api_key": SecretStr("gsk_anything"),
            "groq_base_url": model[1],
            "model": MODEL,
            "model_cheap": "",
            "question_rest_seconds": 3.0,
        }
    )
    made = Stage(given, tenant)
    async with AsyncExitStack() as stack:
        await made.parts.start()
        stack.push_async_callback(made.parts.stop)
        await made.publisher.start()
        stack.push_async_callback(made.publisher.stop)
        await asyncio.gather(made.insights.pump.start(), made.analyst.start())
        stack.push_async_callback(made.insights.pump.drain, 5)
        yield made
        await made.analyst.drain(5)


async def test_rules_speak_at_once_and_the_model_of_what_has_come_since(
    stage: Stage, model: tuple[GroqStandIn, str]
) -> None:
    await stage.snapshot()
    first = await stage.insights.until(lambda found: len(found) >= 3)
    assert {each.model for each in first} == {"rules"}
    assert {each.analysis: each.version.generation for each in first} == {
        "data_quality": 1,
        "lead_intel": 0,
        "requirements": 0,
    }
    assert model[0].asked == []
    await stage.snapshot(1, fields={**DEAL, "amount": "52000"}, changed=("amount",))
    found = await stage.insights.until(
        lambda found: any(each.model == MODEL and "52000" in each.model_dump_json() for each in found)
    )
    asked = [each for each in found if each.model == MODEL]
    assert {each.analysis for each in asked} == {"lead_intel", "requirements"}
    assert {each.version.generation for each in asked} == {1}
    for name in ("lead_intel", "requirements"):
        mine = [each.version for each in found if each.analysis == name]
        assert mine == sorted(mine), "what comes later is newer"
    together = model[0].asked[0]
    assert together["response_format"]["json_schema"]["name"] == "MixedPack", "both analyses of the record in one call"


async def test_a_process_that_ends_while_questions_rest_leaves_them_to_the_next(
    stage: Stage, model: tuple[GroqStandIn, str]
) -> None:
    """INVARIANT: what rests is in no commit. If it breaks, a record keeps the rules' word until somebody edits it again."""
    await stage.snapshot()
    await stage.insights.until(lambda found: len(found) >= 3)
    await stage.analyst.drain(5)
    assert model[0].asked == []
    stage.analyst = build_analyst(stage.parts.settings, stage.parts)
    await stage.analyst.start()
    found = await stage.insights.until(lambda found: sum(each.model == MODEL for each in found) >= 2)
    assert {each.analysis for each in found if each.model == MODEL} == {"lead_intel", "requirements"}
    assert len(model[0].asked) == 1
