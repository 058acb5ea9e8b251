"""Replays from snapshots whose questions go through the provider's batches, on real servers."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from console.replay import gathering, promote, runner, running
from console.replay.session import session
from infra.local.groq_stand_in import GroqStandIn
from infra.settings import Settings
from llm_gateway import pricing
from llm_gateway.policy import REPLAYS
from processors import batched
from processors.replay.candidate import Candidate
from tests.connected.test_replay import PROMPT, Place, answer

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

MODEL = "qwen/qwen3.8-27b"
RECORDS = 12


async def rows(place: Place, statement: str) -> list[Any]:
    async with place.opened.parts.engine.connect() as connection:
        return list(await connection.execute(sa.text(statement)))


@pytest.fixture
async def place(settings: Settings, tenant: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(runner, "LAST_WORD_SECONDS", 0.01)
    monkeypatch.setattr(promote, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(gathering, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(batched, "LOOK_SECONDS", 0.05)
    model = GroqStandIn(answer)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(model.serve())
        given = settings.model_copy(
            update={
                "provider": "groq",
                "groq_api_key": SecretStr(secrets.token_hex(8)),
                "groq_base_url": url,
                "model": MODEL,
                "model_cheap": "",
                "model_batch": True,
                "model_batch_seconds": 3_600.0,
                "model_batch_items": RECORDS,
            }
        )
        opened = await stack.enter_async_context(session(given))
        found = Place(given, tenant, opened, model)
        await found.publisher.start()
        stack.push_async_callback(found.publisher.stop)
        await found.insights.pump.start()
        stack.push_async_callback(found.insights.pump.drain, 5)
        await found.records(*range(RECORDS))
        yield found


async def test_a_replay_asks_in_one_batch_and_its_plan_says_half_the_price(place: Place) -> None:
    planned = await place.plan()
    numbers = planned.planned
    full = pricing.most_usd("groq", MODEL, numbers["input_tokens"], numbers["output_tokens"])
    assert numbers["cost_usd"] == pytest.approx(full / 2, abs=1e-6)
    assert any("in batches" in line for line in numbers["basis"])
    done = await place.run(planned)
    assert done.state == "done"
    assert (place.model.saw.requests, place.model.saw.batched, len(place.model._batches)) == (0, RECORDS, 1)
    said = await place.said(done.used["insights"])
    assert sum(each.model == MODEL for each in said) == RECORDS
    assert done.used["model_calls"] == RECORDS
    took = pricing.most_usd("groq", MODEL, place.model.saw.prompt_tokens, place.model.saw.completion_tokens)
    assert done.used["cost_usd"] == pytest.approx(took / 2, abs=1e-6)
    assert await rows(place, 'SELECT DISTINCT "user", batched > 0 FROM llm_usage') == [(REPLAYS, True)]


async def test_a_shadow_asks_its_own_wording_in_a_batch_and_reaches_nobody(place: Place, tmp_path: Any) -> None:
    file = tmp_path / "prompt.md"
    file.write_text(PROMPT)
    done = await place.run(await place.plan("shadow", Candidate.read("lead_intel", file, "", "")))
    assert (done.state, place.model.saw.requests, place.model.saw.batched) == ("done", 0, RECORDS)
    assert (await rows(place, "SELECT count(*) FROM replay_results"))[0][0] == RECORDS
    assert place.insights.found == []


async def gathers(place: Place) -> tuple[Any, asyncio.Task[Any]]:
    """A replay whose questions wait, none of them sent."""
    place.settings.model_batch_items = 1_000
    planned = await place.plan()
    task = asyncio.create_task(place.run(planned))
    async with asyncio.timeout(30):
        while True:
            counted = await rows(place, "SELECT count(*) FROM llm_batch_requests")
            if counted[0][0] == RECORDS:
                return planned, task
            await asyncio.sleep(0.05)


async def test_a_replay_that_is_cancelled_while_it_gathers_takes_its_questions_back(place: Place) -> None:
    planned, task = await gathers(place)
    await running.cancel(place.opened, planned)
    done = await task
    assert (done.state, done.records_done) == ("cancelled", 0)
    assert await rows(place, "SELECT * FROM llm_batch_requests") == []
    assert (place.model.saw.requests, place.model.saw.batched) == (0, 0)
    assert place.insights.found == []


async def test_a_replay_that_is_stopped_while_it_waits_goes_on_with_the_same_questions(place: Place) -> None:
    planned, task = await gathers(place)
    os.kill(os.getpid(), signal.SIGTERM)
    stopped = await task
    assert (stopped.state, stopped.records_done) == ("paused", 0)
    place.settings.model_batch_items = RECORDS
    done = await place.run(await place.opened.replays.get(planned.id))
    assert (done.state, place.model.saw.requests, place.model.saw.batched) == ("done", 0, RECORDS)


async def test_a_replay_that_nobody_runs_takes_its_questions_back_when_it_is_cancelled(place: Place) -> None:
    planned, task = await gathers(place)
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert (await rows(place, "SELECT count(*) FROM llm_batch_requests"))[0][0] == RECORDS
    assert (await running.cancel(place.opened, planned)).state == "cancelled"
    assert await rows(place, "SELECT * FROM llm_batch_requests") == []
