"""A connection that the server closed while it lay in the pool is replaced unseen, without a ping before each statement."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa

from infra.database.engine import build_engine
from infra.database.statement import Statements

pytestmark = pytest.mark.connected


@pytest.fixture
async def engine(settings):
    engine = build_engine(settings)
    yield engine
    await engine.dispose()


def hang_up(settings) -> int:
    """The server ends every connection of this test's database; returns how many."""
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as admin:
        ended = admin.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() and application_name = 'hookline'"
        ).fetchone()
    return ended[0] if ended else 0


async def test_a_pooled_connection_that_was_closed_costs_no_statement(engine, settings):
    """INVARIANT: a restart of PostgreSQL between two statements is nobody's error. If this fails, each costs a batch."""
    for _ in range(3):
        async with engine.connect() as connection:
            assert (await connection.execute(sa.text("select 1"))).scalar_one() == 1
        assert hang_up(settings) >= 1


async def test_the_same_holds_for_a_lean_statement(engine, settings):
    statements = Statements(engine)
    for _ in range(3):
        rows = await statements.run("select %(number)s::int as number", {"number": 7})
        assert rows == [(7,)]
        assert hang_up(settings) >= 1
