"""Refusals on their way to the admin."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from ingress.ledger import Ledger, Refused
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW


def refused(number: int = 0, *, endpoint: str = "e", cause: Refusal = Refusal.STALE, seconds: int = 0) -> Refused:
    return Refused(f"r{number}", NOW + timedelta(seconds=seconds), endpoint, "acme", cause, 401, "", 10)


class Table:
    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.away = False

    async def __call__(self, rows) -> None:
        if self.away:
            raise OSError("connection refused")
        self.rows.extend(rows)


async def test_one_row_per_endpoint_cause_and_second():
    table = Table()
    ledger = Ledger(table)
    for number in range(5):
        ledger.note(refused(number))
    ledger.note(refused(5, cause=Refusal.VERIFICATION_FAILED))
    ledger.note(refused(6, endpoint="f"))
    ledger.note(refused(7, seconds=1))
    await ledger.flush(everything=True)
    assert [(row["request_id"], row["repeats"]) for row in table.rows] == [("r0", 5), ("r5", 1), ("r6", 1), ("r7", 1)]


async def test_a_flood_of_addresses_that_do_not_exist_is_one_row_a_second():
    table = Table()
    ledger = Ledger(table)
    for number in range(1_000):
        ledger.note(refused(number, endpoint=f"guess{number}", cause=Refusal.UNKNOWN_ENDPOINT))
    await ledger.flush(everything=True)
    assert [(row["endpoint"], row["repeats"]) for row in table.rows] == [("guess0", 1_000)]


async def test_while_postgres_is_away_the_newest_stay_and_the_lost_are_counted():
    """INVARIANT: the ledger is bounded. If this fails, a storm while Postgres is away fills the memory."""
    table = Table()
    table.away = True
    ledger = Ledger(table, max_rows=3)
    for number in range(5):
        ledger.note(refused(number, seconds=number))
        with pytest.raises(OSError):
            await ledger.flush(everything=True)
    table.away = False
    await ledger.flush(everything=True)
    assert [row["request_id"] for row in table.rows] == ["r2", "r3", "r4"]
    assert ledger.dropped == 2
    await ledger.flush(everything=True)
    assert len(table.rows) == 3


async def test_the_running_second_is_left_open(monkeypatch):
    monkeypatch.setattr(time, "time", NOW.timestamp)
    table = Table()
    ledger = Ledger(table)
    ledger.note(refused())
    assert await ledger.flush() == 0
    assert table.rows == []


async def test_what_was_refused_while_the_clock_was_ahead_does_not_wait_for_that_second(monkeypatch):
    """INVARIANT: what is kept for a retry is lost with the process until it is written."""
    monkeypatch.setattr(time, "time", NOW.timestamp)
    table = Table()
    ledger = Ledger(table)
    ledger.note(refused(seconds=3_600))
    assert await ledger.flush() == 1
    assert [row["request_id"] for row in table.rows] == ["r0"]


async def test_stopping_writes_what_waits_and_survives_a_database_that_is_away():
    for away, expected in ((False, 1), (True, 0)):
        table = Table()
        table.away = away
        ledger = Ledger(table, every_seconds=60)
        await ledger.start()
        ledger.note(refused())
        await ledger.stop()
        assert len(table.rows) == expected
