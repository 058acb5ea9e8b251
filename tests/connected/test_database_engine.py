"""A connection that the server closed while it lay in the pool is replaced unseen, without a ping before each statement."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import sqlalchemy as sa

from infra.database import engine as module
from infra.database.engine import build_engine
from infra.database.statement import WITHOUT_FLUSH, Statements
from infra.unavailable import Unavailable, as_unavailable

pytestmark = pytest.mark.connected


@pytest.fixture
async def engine(settings):
    engine = build_engine(settings)
    yield engine
    await engine.dispose()


def hang_up(settings) -> int:
    """The server ends every connection of this test's database, and has; returns how many."""
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as admin:
        ended = admin.execute(
            "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity "
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


async def test_a_commit_that_is_not_waited_for_is_that_statements_own(engine):
    """INVARIANT: the next statement of the same connection waits for the disk again. If this fails, an acknowledged effect may be lost."""
    statements = Statements(engine)
    asked = "select current_setting('synchronous_commit')"
    assert await statements.run(f"{asked} from {WITHOUT_FLUSH}", {}) == [("off",)]
    assert await statements.run(asked, {}) == [("on",)]


async def test_lean_statements_keep_half_of_the_pool_at_most_and_give_it_up_with_the_engine(settings):
    """INVARIANT: what is kept for the next statement starves no transaction. If this fails, a busy process waits 30 s for a connection."""
    engine = build_engine(settings.model_copy(update={"database_pool": 4}))
    statements = [Statements(engine), Statements(engine)]
    answers = await asyncio.gather(*(each.run("select pg_sleep(0.05), 1", {}) for each in statements * 4))
    assert len(answers) == 8
    async with asyncio.timeout(20):
        connections = [await engine.connect() for _ in range(2)]
        for connection in connections:
            assert (await connection.execute(sa.text("select 1"))).scalar_one() == 1
            assert not (await connection.get_raw_connection()).driver_connection.autocommit
            await connection.close()
    await engine.dispose()
    assert hang_up(settings) == 0


async def test_a_statement_that_is_cut_short_leaves_no_answer_to_the_next(engine):
    statements = Statements(engine)
    await statements.run("select 1", {})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await statements.run("select pg_sleep(30)", {})
    assert await statements.run("select %(number)s::int", {"number": 8}) == [(8,)]


async def test_a_server_that_says_nothing_is_away_and_never_waited_for_for_ever(engine, monkeypatch):
    """INVARIANT: a connection whose other side vanished unsaid costs its time limit. If it breaks, a role hangs with all it holds."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="postgres"):
        await Statements(engine).run("select pg_sleep(30)", {})
    with pytest.raises(sa.exc.OperationalError) as caught:
        async with engine.connect() as connection:
            await connection.execute(sa.text("select pg_sleep(30)"))
    assert as_unavailable(caught.value).part == "postgres"
    monkeypatch.undo()
    assert await Statements(engine).run("select 1", {}) == [(1,)]


async def test_arrays_of_any_texts_and_numbers_arrive_as_they_are(engine):
    """INVARIANT: what is written as one text is what was given. If this fails, a record is found under another name."""
    hard = [
        "",
        " ",
        "NULL",
        "null",
        '"',
        "\\",
        '\\"',
        "{",
        "}",
        ",",
        "a b",
        "'",
        "%s",
        "%",
        "ä€😀",
        "\t\n\r",
        "x" * 5_000,
        None,
    ]
    texts = [*hard, *(f"{a}{b}" for a in hard for b in hard if a is not None and b is not None)]
    numbers = [0, -1, 2**63 - 1, -(2**63), None]
    run = Statements(engine).run
    for statement in (
        "SELECT %(texts)s::text[], %(numbers)s::bigint[], %(none)s::text[]",
        "SELECT %(texts)b::text[], %(numbers)b::bigint[], %(none)b::text[]",
    ):
        for _ in range(7):  # from the sixth time on it is prepared
            [row] = await run(statement, {"texts": texts, "numbers": numbers, "none": []})
            assert row == (texts, numbers, [])
