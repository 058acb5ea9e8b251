"""Destroyed and retired keys leave every process, and nobody seals for whoever was erased."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from infra.keyring import Keyring, MemoryKeys, new_master_key, open_sealed, ring, seal
from schemas.record import RecordRef

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
PERSON = RecordRef("acme", "hubspot:1", "contact", "1")
DEAL = RecordRef("acme", "hubspot:1", "deal", "9")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rings(clock: Clock) -> tuple[MemoryKeys, Keyring, Keyring]:
    store, master = MemoryKeys(), SecretStr(new_master_key())
    one, other = (Keyring(store, master, monotonic=clock.monotonic) for _ in range(2))
    return store, one, other


async def test_another_process_forgets_a_destroyed_key_within_two_seconds(
    rings: tuple[MemoryKeys, Keyring, Keyring], clock: Clock
) -> None:
    """INVARIANT: what is destroyed opens nowhere. If it fails, a running role reads the erased for a quarter of an hour."""
    _store, one, other = rings
    key = (await other.for_records([DEAL]))[DEAL]
    assert await one.destroy_keys(await one.record_key_ids([DEAL])) == 1
    clock.now += ring.HEARD_SECONDS + 0.1
    assert await other.by_id([key.id]) == {}
    again = (await other.for_records([DEAL]))[DEAL]
    assert again.id != key.id
    assert (await one.for_records([DEAL]))[DEAL].id == again.id


async def test_a_process_that_was_deaf_for_long_believes_nothing_that_it_remembers(
    rings: tuple[MemoryKeys, Keyring, Keyring], clock: Clock
) -> None:
    store, one, other = rings
    key = (await other.for_records([DEAL]))[DEAL]
    store.away = True
    clock.now += 2
    assert await other.by_id([key.id]) == {key.id: key}, "the store away: what is in memory serves on"
    store.away = False
    await one.destroy_keys([key.id])
    store.listed.clear()
    clock.now += 200
    assert await other.by_id([key.id]) == {}


async def test_what_is_sealed_for_an_erased_person_opens_for_nobody(
    rings: tuple[MemoryKeys, Keyring, Keyring], clock: Clock
) -> None:
    """INVARIANT: whatever was still under way about the erased stays unreadable, whoever seals it, and however late."""
    store, one, other = rings
    old = (await other.for_records([PERSON]))[PERSON]
    store.erased_marks.add(one.person_mark(PERSON) if one._root else await _mark(one))
    store.any_erased = True
    assert (await one.for_records([PERSON, DEAL]))[PERSON].id != old.id
    assert await one.by_id([old.id]) == {old.id: old}, "it is the eraser's to destroy, who still has to read"
    await one.destroy_keys([old.id])
    clock.now += 2
    for keyring in (one, other):
        made = (await keyring.for_records([PERSON, DEAL]))[PERSON]
        assert await keyring.by_id([made.id]) == {}
    assert not [row for row in store.rows.values() if row.name == str(PERSON)]
    assert (await one.for_records([DEAL]))[DEAL] == (await other.for_records([DEAL]))[DEAL]


async def _mark(keyring: Keyring) -> bytes:
    await keyring.start()
    return keyring.person_mark(PERSON)


async def test_a_retired_key_opens_and_seals_nothing_new(
    rings: tuple[MemoryKeys, Keyring, Keyring], clock: Clock
) -> None:
    """INVARIANT: deliveries that come in while keys are retired are not lost."""
    _store, one, door = rings
    key = await door.for_delivery("acme", "door", NOW)
    other = await door.for_delivery("acme", "another", NOW)
    sealed = seal(key, b"body", purpose="p")
    retired = await one.retire_deliveries("acme", ["door"])
    assert key.id in retired
    assert other.id not in retired
    clock.now += 2
    door.cached_delivery_key("acme", "door", NOW)  # hears of it in the background
    await door.by_id([other.id])
    assert door.cached_delivery_key("acme", "door", NOW) is None
    newer = await door.for_delivery("acme", "door", NOW)
    assert newer.id not in retired
    assert open_sealed((await door.by_id([key.id]))[key.id], sealed, purpose="p") == b"body"
    assert newer.id in await one.retire_deliveries("acme", ["door"])
    assert await one.destroy_keys(retired) == len(retired)
    clock.now += 2
    assert await door.by_id([key.id]) == {}
    await door.stop()
