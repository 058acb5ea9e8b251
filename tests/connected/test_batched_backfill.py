"""A backfill whose questions wait for the provider's batch, through the analyst's role on real servers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from bench.trace.model import says
from infra.local.groq_stand_in import GroqStandIn
from infra.local.sandbox.server import Sandbox
from infra.set_aside import Due, SetAside
from infra.settings import Settings
from llm_gateway.batch.collector import Collector
from processors.app import build_analyst
from processors.batched import Batched
from processors.replay.gateways import Gateways
from schemas.change import Change
from schemas.topics import CHANGES_BULK, INSIGHTS
from tests.connected.test_analyst import DEAL, Stage
from tests.connected.test_hydrator import PORTAL, Listener
from tests.connected.test_hydrator import Stage as Hydrating

pytestmark = pytest.mark.connected

MODEL = "qwen/qwen3.8-27b"
RECORDS = 4
QUESTIONS = 2 * RECORDS
"""Lead intelligence and requirements of each."""


class Backfill(Stage):
    """The stage, the provider, and a collector that looks when it is told to."""

    stand_in: GroqStandIn
    collector: Collector

    async def rows(self, statement: str) -> list[Any]:
        async with self.parts.engine.connect() as connection:
            return list(await connection.execute(sa.text(statement)))

    async def until(self, statement: str, wanted: Any) -> None:
        """Wait until a query's one value is `wanted`."""
        async with asyncio.timeout(30):
            while True:
                if (await self.rows(statement))[0][0] == wanted:
                    return
                await asyncio.sleep(0.05)

    async def collect(self) -> None:
        """Look once; the role's own collector looks, too, one at a time."""
        async with asyncio.timeout(30):
            while True:
                if await self.collector.look():
                    return
                await asyncio.sleep(0.05)

    async def due(self) -> list[Due]:
        """As the hydrator's emitter takes them."""
        rows = SetAside(self.parts.engine)
        found = await rows.due()
        await rows.done(found)
        return found

    async def backfilled(self, id_: str, when: float = 0.0, **more: Any) -> None:
        await self.snapshot(when, id=id_, **{"reason": "backfill", "lane": "bulk", **more})


@pytest.fixture
async def stage(settings: Settings, tenant: str) -> AsyncIterator[Backfill]:
    async with AsyncExitStack() as stack:
        stand_in = GroqStandIn(says)
        url = await stack.enter_async_context(stand_in.serve())
        given = settings.model_copy(
            update={
                "provider": "groq",
                "groq_api_key": SecretStr(secrets.token_hex(8)),
                "groq_base_url": url,
                "model": MODEL,
                "model_cheap": "",
                "question_rest_seconds": 0.0,
                "model_batch": True,
                "model_batch_seconds": 3_600.0,
                "model_batch_items": QUESTIONS,
            }
        )
        made = Backfill(given, tenant)
        made.stand_in = stand_in
        await made.parts.start()
        stack.push_async_callback(made.parts.stop)
        gateways = Gateways(given, made.parts.redis, made.parts.engine)
        stack.push_async_callback(gateways.stop)
        made.collector = Batched(
            given, made.parts.engine, made.parts.redis, made.parts.keyring, await gateways.open()
        ).collector
        await made.publisher.start()
        stack.push_async_callback(made.publisher.stop)
        await asyncio.gather(made.insights.pump.start(), made.analyst.start())
        stack.push_async_callback(made.insights.pump.drain, 5)
        yield made
        await made.analyst.drain(5)


async def test_a_backfill_becomes_one_batch_and_then_insights_at_half_the_price(stage: Backfill) -> None:
    for number in range(RECORDS):
        await stage.backfilled(str(number))
    await stage.until("SELECT count(*) FROM llm_batch_requests WHERE state = 'waiting'", QUESTIONS)
    await stage.until("SELECT count(*) FROM set_aside WHERE cause = 'WAITS_FOR_BATCH' AND attempts = 0", RECORDS)
    # Somebody's edit at the same time goes its ordinary way.
    # By somebody whom no record of the backfill names: accounts keep users apart, and are written a second later.
    await stage.snapshot(1, id="live", fields={**DEAL, "amount": "52000"}, changed=("amount",), edited_by="userId:9")
    found = await stage.insights.until(
        lambda found: (
            {each.analysis for each in found if each.id == "live"} >= {"lead_intel", "requirements", "data_quality"}
        )
    )
    assert {each.model for each in found if each.id == "live" and each.analysis != "data_quality"} == {MODEL}
    assert {each.analysis for each in found if each.id != "live"} <= {"data_quality"}, (
        "what needs no model is said at once"
    )
    asked_live = stage.stand_in.saw.requests
    assert asked_live > 0
    assert await stage.due() == []
    await stage.collect()
    assert (stage.stand_in.saw.batched, len(stage.stand_in._batches)) == (QUESTIONS, 1)
    again = await stage.due()
    assert {row.ref.id for row in again} == {str(number) for number in range(RECORDS)}
    # The hydrator reads them again; our own write-back of the other insight has moved the day that stands in the question.
    for row in again:
        moved = stage.began + timedelta(days=1)
        await stage.backfilled(row.ref.id, 2, reason="set_aside", modified_at=moved)
    found = await stage.insights.until(
        lambda found: sum(each.model == MODEL and each.id != "live" for each in found) >= QUESTIONS
    )
    asked = [each for each in found if each.model == MODEL and each.id != "live"]
    assert {(each.id, each.analysis) for each in asked} == {
        (str(number), name) for number in range(RECORDS) for name in ("lead_intel", "requirements")
    }
    assert stage.stand_in.saw.requests == asked_live, "nothing of the backfill was asked the ordinary way"
    [(calls, batched, cost, saved)] = await stage.rows(
        "SELECT sum(calls), sum(batched), sum(cost_usd), sum(batch_saved_usd) FROM llm_usage WHERE batched > 0"
    )
    assert (calls, batched) == (QUESTIONS, QUESTIONS)
    assert cost == saved > 0
    assert float(cost) == pytest.approx(sum(each.usage.cost_usd for each in asked))


async def test_a_record_that_is_deleted_meanwhile_is_not_asked_about(stage: Backfill) -> None:
    await stage.backfilled("7")
    await stage.until("SELECT count(*) FROM llm_batch_requests", 2)
    await stage.snapshot(1, id="7", deleted=True, fields={}, notes=())
    await stage.insights.until(lambda found: any(each.retracted for each in found))
    await stage.until("SELECT count(*) FROM llm_batch_requests", 0)


async def test_the_analyst_that_comes_back_before_the_batch_waits_on(stage: Backfill) -> None:
    """A trigger that comes too early puts the record off again: no fault, no attempt, no second question."""
    await stage.backfilled("7")
    await stage.until("SELECT count(*) FROM set_aside", 1)
    [(first,)] = await stage.rows("SELECT due_at FROM set_aside")
    await stage.backfilled("7", 1, reason="set_aside")
    await stage.until(f"SELECT count(*) FROM set_aside WHERE due_at <> '{first}'", 1)
    assert await stage.rows("SELECT attempts FROM set_aside") == [(0,)]
    assert await stage.rows("SELECT count(*) FROM llm_batch_requests") == [(2,)]


async def test_the_whole_way_from_the_crm_and_back_to_it_once_more(
    settings: Settings, tenant: str, tmp_path: Path
) -> None:
    """Hydrator and analyst as they run: read, put aside, batched, triggered by the emitter, read again, said."""
    stand_in = GroqStandIn(says)
    sandbox = Sandbox(tmp_path)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(stand_in.serve())
        stack.push_async_callback(sandbox.stop)
        given = settings.model_copy(
            update={
                "provider": "groq",
                "groq_api_key": SecretStr(secrets.token_hex(8)),
                "groq_base_url": url,
                "model": MODEL,
                "model_cheap": "",
                "model_batch": True,
                "model_batch_seconds": 1.0,
                "sandbox_url": await sandbox.start(),
                "coalesce_window_seconds": 0.0,
            }
        )
        sandbox.controls.create_app("111", "secret", "http://127.0.0.1:9/nobody")
        sandbox.controls.set_manners("app:111", paused=True)
        sandbox.controls.create_portal("33", "111", "token", size=6)
        made = Hydrating(given, tenant, sandbox)
        insights = Listener(given, made.codec, INSIGHTS, tenant)
        await made.parts.start()
        stack.push_async_callback(made.parts.stop)
        await made.parts.registry.add_tenant(tenant)
        await made.parts.registry.add_account(
            tenant, "hubspot", PORTAL, "Portal", {"app_id": "111"}, {"access_token": "token"}
        )
        await made.parts.directory.refresh()
        await made.publisher.start()
        stack.push_async_callback(made.publisher.stop)
        analyst = build_analyst(given, made.parts)
        await asyncio.gather(insights.pump.start(), made.hydrator.start(), analyst.start())
        stack.push_async_callback(insights.pump.drain, 5)
        stack.push_async_callback(analyst.drain, 5)
        stack.push_async_callback(made.hydrator.drain, 5)
        deals = list(sandbox.controls.records(PORTAL, "deal"))
        await made.publisher.publish(
            CHANGES_BULK,
            [
                Change(
                    tenant=tenant, account=PORTAL, object="deal", id=deal, kind="updated", occurred_at=datetime.now(UTC),
                    reason="backfill",
                )
                for deal in deals
            ],
        )  # fmt: skip
        found = await insights.until(
            lambda found: {each.id for each in found if each.analysis == "lead_intel"} == set(deals), 60
        )
        assert {each.model for each in found if each.analysis == "lead_intel"} == {MODEL}
        assert stand_in.saw.requests == 0
        assert stand_in.saw.batched >= len(deals)
        [(batched, cost)] = await made.query("SELECT sum(batched), sum(cost_usd) FROM llm_usage WHERE batched > 0")
        assert batched == stand_in.saw.batched
        assert cost > 0
        assert await made.query("SELECT count(*) FROM set_aside WHERE emitted_at IS NULL") == [(0,)]
