"""Migrations on a real PostgreSQL."""

import subprocess
import sys

import psycopg
import pytest

from infra.database.engine import build_engine, differences, migrate, rollback
from infra.settings import Settings

pytestmark = pytest.mark.connected

OURS = (
    "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
)


@pytest.fixture
def empty(settings: Settings) -> Settings:
    rollback(settings, "base")
    return settings


def _tables(settings: Settings) -> int:
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        return connection.execute(OURS).fetchone()[0]


def test_migrations_make_what_tables_py_says(empty):
    """INVARIANT: the migrations and tables.py agree. If it fails, a fresh installation and an upgraded one differ."""
    assert migrate(empty) != []
    assert differences(empty) == []


def test_a_difference_is_found(empty):
    migrate(empty)
    with psycopg.connect(empty.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("ALTER TABLE set_aside DROP COLUMN attempts")
    assert any("attempts" in found for found in differences(empty))


def test_up_down_up(empty):
    made = migrate(empty)
    assert _tables(empty) > 10
    rollback(empty, "base")
    assert _tables(empty) == 0
    assert migrate(empty) == made


def test_migrating_again_does_nothing(empty):
    migrate(empty)
    assert migrate(empty) == []


def test_two_processes_migrate_at_once(empty):
    """INVARIANT: roles that start together may all migrate. If it fails, a rolling deploy breaks at random."""
    program = (
        "import sys; from infra.settings import Settings; from infra.database.engine import migrate;"
        "print(len(migrate(Settings(_env_file=None, database_url=sys.stdin.read()))))"
    )
    url = empty.database_url.get_secret_value()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in running:
        process.stdin.write(url)
        process.stdin.close()
    said = []
    for process in running:
        process.wait(60)
        said.append(process.stdout.read().strip() or process.stderr.read())
        process.stdout.close()
        process.stderr.close()
    assert all(one.isdigit() for one in said), said
    assert min(map(int, said)) == 0
    assert max(map(int, said)) >= 1
    assert differences(empty) == []


async def test_the_engine_answers(settings):
    engine = build_engine(settings)
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await engine.dispose()
