"""The analyst's role on real servers, with the real analyses and the offline provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.redis import build_redis
from infra.role import Parts
from infra.settings import Settings
from processors.app import build_analyst
from processors.state import Kept, PostgresAnalystState
from schemas.insight import Insight, Version
from schemas.record import Note, RecordRef, RecordSnapshot
from schemas.topics import CHANGES, INSIGHTS, RECORDS
from tests.connected.test_hydrator import Listener

pytestmark = pytest.mark.connected

DEAL = {
    "dealname": "Nordwind: renewal",
    "amount": "48000",
    "dealstage": "contractsent",
    "closedate": "2027-01-15T00:00:00Z",
}
CONCEPTS = {"deal_name": "dealname", "amount": "amount", "deal_stage": "dealstage", "close_date": "closedate"}


class Stage:
    """A running analyst, and someone who publishes snapshots."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self.tenant = tenant
        self.parts = Parts(settings)
        self.codec = Codec(self.parts.keyring, "hookline/test")
        self.publisher = Publisher(settings, self.codec, client_id="test")
        self.insights = Listener(settings, self.codec, INSIGHTS, tenant)
        self.changes = Listener(settings, self.codec, CHANGES, tenant)
        self.analyst = build_analyst(settings, self.parts)
        self.began = datetime.now(UTC)

    async def snapshot(self, when: float = 0.0, **more: Any) -> RecordSnapshot:
        moment = self.began + timedelta(seconds=when)
        note = Note(id="1", kind="note", at=self.began, text="We must have single sign-on before we sign.")
        given = {
            "tenant": self.tenant, "account": "hubspot:33", "object": "deal", "id": "9", "crm": "hubspot", "fields": DEAL,
            "known_fields": tuple(DEAL), "concepts": CONCEPTS, "notes": (note,), "modified_at": moment, "read_at": moment,
            **more,
        }  # fmt: skip
        made = RecordSnapshot.model_validate(given)
        await self.publisher.publish(
            RECORDS, [made], traceparents=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]
        )
        return made


@pytest.fixture
async def stage(settings: Settings, tenant: str) -> AsyncIterator[Stage]:
    made = Stage(
        settings.model_copy(
            update={"provider": "offline", "redis_url": SecretStr(settings.redis_url.get_secret_value())}
        ),
        tenant,
    )
    await made.parts.start()
    await made.publisher.start()
    await asyncio.gather(made.insights.pump.start(), made.changes.pump.start(), made.analyst.start())
    yield made
    await made.analyst.drain(5)
    await asyncio.gather(made.insights.pump.drain(5), made.changes.pump.drain(5))
    await made.publisher.stop()
    await made.parts.stop()


def latest(found: list[Insight]) -> dict[str, Insight]:
    return {each.analysis: each for each in found}


async def test_a_deal_becomes_its_insights_and_an_unchanged_one_costs_no_question(stage: Stage) -> None:
    made = await stage.snapshot()
    found = latest(await stage.insights.until(lambda found: len(found) >= 3))
    assert set(found) == {"lead_intel", "requirements", "data_quality"}
    assert len({each.version for each in found.values()}) == 1
    # Times travel in milliseconds.
    assert all(abs(each.as_of - made.modified_at) < timedelta(milliseconds=1) for each in found.values())
    assert {trace.split("-")[1] for trace in stage.insights.traces} == {"0af7651916cd43dd8448eb211c80319c"}
    requirement = found["requirements"].payload
    assert requirement is not None
    assert requirement.analysis == "requirements"
    assert any("single sign-on" in item.quote for item in requirement.items)
    await stage.snapshot(1, reason="replay")
    again = await stage.insights.until(lambda found: len(found) >= 6)
    assert {each.analyzed_at for each in again[3:]} == {each.analyzed_at for each in again[:3]}, (
        "sent again, not asked again"
    )
    assert min(each.version for each in again[3:]) > max(each.version for each in again[:3])
    # What came before the second snapshot was handled is kept by now.
    async with stage.parts.engine.connect() as connection:
        rows = (await connection.execute(text("SELECT analysis, sealed_insight FROM analyst_state"))).all()
    assert len(rows) == 3
    assert not any(b"single sign-on" in bytes(row.sealed_insight) for row in rows)


async def test_a_deletion_takes_its_insights_back_and_an_overtaken_snapshot_says_nothing(stage: Stage) -> None:
    await stage.snapshot()
    await stage.insights.until(lambda found: len(found) >= 3)
    await stage.snapshot(-5, fields={**DEAL, "amount": "1"})
    (change,) = await stage.changes.until(lambda found: len(found) >= 1)
    assert change.reason == "fenced"
    await stage.snapshot(5, deleted=True, fields={}, notes=())
    found = await stage.insights.until(lambda found: len(found) >= 6)
    assert [each.retracted for each in found] == [False] * 3 + [True] * 3


async def test_two_new_duplicates_of_one_batch_find_each_other(stage: Stage) -> None:
    person = {
        "firstname": "Annika",
        "lastname": "Sørensen",
        "email": "annika.sorensen@nordwind.example",
        "phone": "+47 22 12 34 56",
    }
    concepts = {"first_name": "firstname", "last_name": "lastname", "email": "email", "phone": "phone"}
    for number in ("1", "2"):
        await stage.snapshot(
            object="contact", id=number, fields=person, known_fields=tuple(person), concepts=concepts, notes=()
        )
    await stage.insights.until(
        lambda found: {each.id for each in found if each.analysis == "data_quality"} == {"1", "2"}
    )
    named = [
        (each.id, match.id)
        for each in stage.insights.found
        if each.payload is not None and each.payload.analysis == "data_quality"
        for match in each.payload.duplicates
    ]
    assert named
    assert set(named) <= {("1", "2"), ("2", "1")}


async def test_state_rows_never_go_back(settings: Settings) -> None:
    parts = Parts(settings)
    state = PostgresAnalystState(parts.engine)
    record = RecordRef("t", "hubspot:1", "deal", "9")
    moment = datetime(2026, 11, 22, 12, 0, 0, 123000, tzinfo=UTC)
    first = Kept(b"h" * 32, moment, Version(1, 10, 1), b"sealed")
    await state.save({(record, "a"): first, (record, "b"): first})
    assert await state.load([RecordRef("t", "hubspot:1", "deal", "8"), record]) == {record: {"a": first, "b": first}}
    newer = replace(first, version=Version(1, 10, 2), input=b"")
    await state.save({(record, "a"): newer, (record, "b"): replace(first, version=Version(1, 9, 9), sealed=b"older")})
    assert await state.load([record]) == {record: {"a": newer, "b": first}}
    await parts.engine.dispose()


async def test_redis_restarted_empty_loses_no_insight(stage: Stage, settings: Settings) -> None:
    redis = build_redis(settings)
    await redis.flushdb()
    await redis.aclose()
    await stage.snapshot()
    assert len(latest(await stage.insights.until(lambda found: len(found) >= 3))) == 3
