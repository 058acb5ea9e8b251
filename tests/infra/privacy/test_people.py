"""What the index of people asks the database, and what it need not ask again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from infra.keyring import DataKey
from infra.privacy import people
from infra.privacy.people import People
from infra.unavailable import Unavailable
from schemas.record import RecordRef, Related
from tests.infra.privacy.test_calling import person


class Keys:
    """A keyring of one key a record, which can be destroyed."""

    def __init__(self) -> None:
        self.generation = 1

    async def start(self) -> None:
        return None

    async def for_records(self, refs: Collection[RecordRef]) -> dict[RecordRef, DataKey]:
        name = f"{self.generation:032x}"
        return {ref: DataKey(name, ref.tenant, "record", str(ref), bytes(32)) for ref in refs}

    def fingerprint(self, tenant: str, data: bytes) -> bytes:
        return hashlib.sha256(tenant.encode() + data).digest()


class Database:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False

    async def run(self, statement: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        if self.away:
            raise Unavailable("postgres", why="away")
        self.asked.append(" ".join(statement.split()[:3]))
        return []


@pytest.fixture
def database(monkeypatch):
    found = Database()
    monkeypatch.setattr(people, "Statements", lambda _: found)
    return found


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def index(database, keys):
    return People(None, keys).index


async def test_what_was_noted_is_not_asked_about_again(index, database):
    await index([person()])
    noted = list(database.asked)
    assert noted
    await index([person(), person(fields={"email": "Zoe@Berg.example", "hs_score": "3"} | person().fields)])
    assert database.asked == noted


async def test_another_person_is_noted(index, database):
    await index([person()])
    database.asked.clear()
    await index([person(related=(Related(object="contact", id="9", label="colleague"),))])
    assert "INSERT INTO key_people" in database.asked


async def test_under_another_key_it_is_noted_anew(index, database, keys):
    """INVARIANT: an erasure takes rows away and destroys the key. If this fails, the next erasure misses the record."""
    await index([person()])
    noted = list(database.asked)
    keys.generation += 1
    await index([person()])
    assert database.asked == noted * 2


async def test_what_failed_is_not_remembered(index, database):
    database.away = True
    with pytest.raises(Unavailable):
        await index([person()])
    database.away = False
    await index([person()])
    assert database.asked


async def test_what_is_remembered_is_bounded(database, keys, monkeypatch):
    monkeypatch.setattr(people, "MOST_NOTED", 2)
    index = People(None, keys).index
    for number in range(3):
        await index([person(id=str(number))])
    database.asked.clear()
    await index([person(id="2")])
    assert not database.asked
    await index([person(id="0")])
    assert database.asked
