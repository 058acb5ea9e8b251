"""Data keys in real PostgreSQL: races, round trips, expiry, outages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from infra.database.engine import build_engine
from infra.database.statement import Statements
from infra.keyring import Keyring, open_sealed, seal
from infra.keyring.store import PostgresKeys
from infra.settings import Settings
from infra.unavailable import Unavailable
from schemas.record import RecordRef

pytestmark = pytest.mark.connected

REFS = [RecordRef("acme", "hubspot:1", "contact", str(number)) for number in range(200)]

MAKE = """
import asyncio, json, os, sys
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.record import RecordRef
async def main():
    settings = Settings(_env_file=None)
    engine = build_engine(settings)
    ring = Keyring(engine, settings.master_keys)
    print("ready", flush=True)
    sys.stdin.readline()
    keys = await ring.for_records([RecordRef("acme", "hubspot:1", "contact", str(n)) for n in range(200)])
    print(json.dumps({str(ref): key.id for ref, key in keys.items()}), flush=True)
    await engine.dispose()
asyncio.run(main())
"""


@pytest.fixture
async def engine(settings: Settings):
    engine = build_engine(settings)
    yield engine
    await engine.dispose()


async def test_processes_that_create_at_the_same_moment_get_one_key(settings: Settings, engine) -> None:
    """INVARIANT: one key per record, whoever asks first; else half of a record's messages could not be opened."""
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_ENVIRONMENT": "development",
        "PATH": "/usr/bin:/bin",
    }

    def race() -> list[dict[str, str]]:
        members = [
            subprocess.Popen(
                [sys.executable, "-c", MAKE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        for member in members:
            assert member.stdout.readline().strip() == "ready"
        for member in members:
            member.stdin.write("go\n")
            member.stdin.flush()
        return [json.loads(member.communicate(timeout=60)[0]) for member in members]

    first, *others = await asyncio.to_thread(race)
    assert len(set(first.values())) == 200
    assert all(other == first for other in others)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM data_keys WHERE scope = 'record'")) == 200


async def test_two_rings_of_one_process_race_to_one_key(settings: Settings, engine) -> None:
    rings = [Keyring(engine, settings.master_keys) for _ in range(6)]
    found = await asyncio.gather(
        *(ring.for_records(REFS[place * 10 :] + REFS[: place * 10]) for place, ring in enumerate(rings))
    )
    assert len({tuple(keys[ref].id for ref in REFS) for keys in found}) == 1


async def test_any_number_of_keys_takes_one_statement_and_new_ones_another(
    settings: Settings, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    run = Statements.run

    async def counted(self: Statements, statement: str, given: dict[str, Any]) -> list[tuple[Any, ...]]:
        statements.append(statement)
        return await run(self, statement, given)

    monkeypatch.setattr(Statements, "run", counted)
    ring = Keyring(engine, settings.master_keys)
    keys = await ring.for_records(REFS)
    assert len(statements) == 2
    # Each further ring has to load the root of its fingerprints besides.
    await Keyring(engine, settings.master_keys).by_id([key.id for key in keys.values()])
    assert len(statements) == 4
    assert await Keyring(engine, settings.master_keys).for_records(REFS) == keys
    assert len(statements) == 6


async def test_another_process_opens_what_this_one_sealed(settings: Settings, engine) -> None:
    key = (await Keyring(engine, settings.master_keys).for_records(REFS[:1]))[REFS[0]]
    sealed = seal(key, b"text", purpose="p")
    again = await Keyring(engine, settings.master_keys).by_id([key.id])
    assert open_sealed(again[key.id], sealed, purpose="p") == b"text"


async def test_fingerprints_are_the_same_in_every_process(settings: Settings, engine) -> None:
    first, second = Keyring(engine, settings.master_keys), Keyring(engine, settings.master_keys)
    await asyncio.gather(first.start(), second.start())
    assert first.fingerprint("acme", b"x") == second.fingerprint("acme", b"x")


async def test_expired_keys_are_absent_and_then_destroyed(settings: Settings, engine) -> None:
    ring = Keyring(engine, settings.master_keys)
    old = await ring.for_delivery("acme", "e1", datetime.now(UTC) - timedelta(hours=80))
    new = await ring.for_delivery("acme", "e1", datetime.now(UTC))
    assert set(await Keyring(engine, settings.master_keys).by_id([old.id, new.id])) == {new.id}
    assert await ring.destroy_expired() == 2
    assert await ring.destroy_expired() == 0


async def test_destroying_and_rewrapping(settings: Settings, engine) -> None:
    ring = Keyring(engine, settings.master_keys)
    keys = await ring.for_records(REFS)
    assert await ring.destroy_records(REFS[:3]) == 3
    assert len(await Keyring(engine, settings.master_keys).by_id([keys[ref].id for ref in REFS])) == len(REFS) - 3
    assert await ring.rewrap() == 0


async def test_postgres_away_is_unavailable_and_what_is_in_memory_serves_on(settings: Settings, engine) -> None:
    ring = Keyring(engine, settings.master_keys)
    keys = await ring.for_records(REFS[:1])
    elsewhere = build_engine(
        settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://x@127.0.0.1:1/x")})
    )
    ring._store = PostgresKeys(elsewhere)
    assert await ring.for_records(REFS[:1]) == keys
    with pytest.raises(Unavailable, match="postgres"):
        await ring.for_records(REFS[1:2])
    await elsewhere.dispose()
