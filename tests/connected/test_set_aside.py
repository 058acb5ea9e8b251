"""The table of what was set aside, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.engine import build_engine
from infra.set_aside import Aside, SetAside
from infra.settings import Settings
from schemas.record import RecordRef

pytestmark = pytest.mark.connected


def ref(number: str = "1", account: str = "hubspot:1") -> RecordRef:
    return RecordRef("t", account, "contact", number)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    made = build_engine(settings)
    yield made
    await made.dispose()


@pytest.fixture
def table(engine: AsyncEngine) -> SetAside:
    return SetAside(engine)


async def run(engine: AsyncEngine, sql: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(sql))


async def delay(engine: AsyncEngine, record: str = "1") -> float:
    """Seconds until it is due."""
    async with engine.connect() as connection:
        sql = text("SELECT due_at FROM set_aside WHERE record_id = :id")
        due = (await connection.execute(sql, {"id": record})).scalar_one()
    return float((due - datetime.now(UTC)).total_seconds())


async def test_delays_grow_from_half_a_minute_to_an_hour_with_jitter(engine: AsyncEngine, table: SetAside) -> None:
    delays = []
    for _ in range(12):
        await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
        delays.append(await delay(engine))
    for attempt, found in enumerate(delays):
        expected = min(3600.0, 30.0 * 2**attempt)
        assert 0.8 * expected - 2 <= found <= 1.2 * expected + 1, f"attempt {attempt}"


async def test_what_only_waits_is_no_attempt(engine: AsyncEngine, table: SetAside) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    for counted, attempts in ((False, 0), (False, 0), (True, 1), (False, 1), (True, 2)):
        await table.put([Aside.until(ref(), "analyst", "WAITS_FOR_BATCH", until, counts=counted)])
        async with engine.connect() as connection:
            assert (await connection.scalar(text("SELECT attempts FROM set_aside"))) == attempts


async def test_delays_still_grow_after_the_trigger_was_emitted(engine: AsyncEngine, table: SetAside) -> None:
    """Else a record that keeps failing would be tried twice a minute for ever."""
    for _ in range(3):
        await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
        await run(engine, "UPDATE set_aside SET due_at = now()")
        await table.done(await table.due())
    await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
    assert await delay(engine) > 150


async def test_a_given_time_is_kept_to_and_not_by_all_at_once(engine: AsyncEngine, table: SetAside) -> None:
    await table.put([Aside(ref(str(number)), "analyst", "QUOTA_SPENT", retry_after=600) for number in range(20)])
    delays = [await delay(engine, str(number)) for number in range(20)]
    assert all(595 <= found <= 661 for found in delays)
    assert max(delays) - min(delays) > 5
    soon = Aside.until(ref("soon"), "analyst", "QUOTA_SPENT", datetime.now(UTC) + timedelta(hours=7))
    await table.put([soon])
    assert 25_100 <= await delay(engine, "soon") <= 25_300


async def test_a_row_is_emitted_once_and_forgotten_later(engine: AsyncEngine, table: SetAside) -> None:
    await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
    assert await table.due() == []
    await run(engine, "UPDATE set_aside SET due_at = now()")
    (row,) = await table.due()
    assert (row.ref, row.stage, row.cause, row.attempts) == (ref(), "hydrator", "CRM_UNAVAILABLE", 1)
    assert await table.due() == [], "leased"
    await table.done([row])
    await run(engine, "UPDATE set_aside SET due_at = now()")
    assert await table.due() == []
    assert await table.forget() == 0
    await run(engine, "UPDATE set_aside SET emitted_at = now() - interval '3 hours'")
    assert await table.forget() == 1


async def test_who_dies_with_due_rows_in_hand_loses_none(engine: AsyncEngine, table: SetAside) -> None:
    await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
    await run(engine, "UPDATE set_aside SET due_at = now()")
    assert len(await table.due()) == 1
    await run(engine, "UPDATE set_aside SET due_at = due_at - interval '61 seconds'")
    assert len(await table.due()) == 1


async def test_a_row_put_off_while_its_trigger_was_under_way_stays(engine: AsyncEngine, table: SetAside) -> None:
    """INVARIANT: giving up a row that was renewed meanwhile would lose the record."""
    await table.put([Aside(ref(), "hydrator", "CRM_UNAVAILABLE")])
    await run(engine, "UPDATE set_aside SET due_at = now()")
    rows = await table.due()
    await table.put([Aside(ref(), "hydrator", "QUOTA_SPENT", retry_after=5)])
    await table.done(rows)
    await run(engine, "UPDATE set_aside SET due_at = now()")
    (again,) = await table.due()
    assert (again.cause, again.attempts) == ("QUOTA_SPENT", 2)


async def test_replicas_share_what_is_due(engine: AsyncEngine, table: SetAside) -> None:
    await table.put([Aside(ref(str(number)), "hydrator", "X") for number in range(100)])
    await run(engine, "UPDATE set_aside SET due_at = now() - interval '1 minute'")
    taken = await asyncio.gather(*(SetAside(engine).due(30) for _ in range(4)))
    found = [row.ref for rows in taken for row in rows]
    assert len(found) == len(set(found))
    rest = await table.due(100)
    assert len(found) + len(rest) == 100


async def test_stages_and_records_do_not_mix(engine: AsyncEngine, table: SetAside) -> None:
    await table.put(
        [
            Aside(ref(), "hydrator", "X"),
            Aside(ref(), "analyst", "Y"),
            Aside(ref(), "analyst", "Z"),
            Aside(ref("2"), "analyst", "Y"),
        ]
    )
    await run(engine, "UPDATE set_aside SET due_at = now()")
    assert sorted((row.ref.id, row.stage, row.cause) for row in await table.due()) == [
        ("1", "analyst", "Z"),
        ("1", "hydrator", "X"),
        ("2", "analyst", "Y"),
    ]


async def test_rows_of_a_disconnected_account_wait_until_it_is_back(engine: AsyncEngine, table: SetAside) -> None:
    await run(engine, "INSERT INTO tenants (id, name) VALUES ('t', 't')")
    await run(
        engine, "INSERT INTO accounts (id, tenant, crm, state) VALUES ('hubspot:1', 't', 'hubspot', 'disconnected')"
    )
    await table.put([Aside(ref(), "hydrator", "TOKEN_REVOKED"), Aside(ref(account="hubspot:2"), "hydrator", "X")])
    await run(engine, "UPDATE set_aside SET due_at = now()")
    assert [row.ref.account for row in await table.due()] == ["hubspot:2"]
    await run(engine, "UPDATE accounts SET state = 'active'")
    assert [row.ref.account for row in await table.due()] == ["hubspot:1"]
