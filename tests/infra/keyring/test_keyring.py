from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from infra.keyring import Keyring, MemoryKeys, Undecryptable, new_master_key, open_sealed, seal
from infra.settings import SettingsError
from infra.unavailable import Unavailable
from schemas.record import RecordRef

NOON = datetime(2026, 11, 22, 12, 20, tzinfo=UTC)


def ref(number: int, tenant: str = "acme") -> RecordRef:
    return RecordRef(tenant, "hubspot:1", "contact", str(number))


def keyring(store: MemoryKeys | None = None, masters: str | None = None, **more) -> Keyring:
    return Keyring(store or MemoryKeys(), SecretStr(masters or new_master_key()), **more)


async def test_many_new_records_take_two_round_trips_and_then_none() -> None:
    store = MemoryKeys()
    ring = keyring(store)
    keys = await ring.for_records([ref(number) for number in range(500)])
    assert store.calls == 2, "which there are, and then all that are to be made"
    assert len({key.id for key in keys.values()}) == 500
    assert await ring.for_records([ref(3)]) == {ref(3): keys[ref(3)]}
    assert await ring.by_id([keys[ref(9)].id]) == {keys[ref(9)].id: keys[ref(9)]}
    assert store.calls == 2


async def test_many_known_records_take_one_round_trip_and_so_do_few_new_ones() -> None:
    store, masters = MemoryKeys(), new_master_key()
    refs = [ref(number) for number in range(500)]
    keys = await keyring(store, masters).for_records(refs)
    another = keyring(store, masters)
    await another.start()
    store.calls = 0
    assert await another.for_records(refs) == keys
    assert store.calls == 1
    await another.for_records([ref(1_000), ref(1_001)])
    assert store.calls == 2


async def test_two_processes_get_the_same_key() -> None:
    store, masters = MemoryKeys(), new_master_key()
    first, second = keyring(store, masters), keyring(store, masters)
    assert await first.for_tenant("acme") == await second.for_tenant("acme")
    assert (await first.for_records([ref(1)]))[ref(1)] == (await second.for_records([ref(1)]))[ref(1)]


async def test_a_destroyed_key_is_absent_and_its_record_gets_another_one() -> None:
    store = MemoryKeys()
    ring = keyring(store)
    old = (await ring.for_records([ref(1)]))[ref(1)]
    assert await ring.destroy_records([ref(1)]) == 1
    assert await ring.by_id([old.id]) == {}
    assert (await ring.for_records([ref(1)]))[ref(1)].id != old.id


async def test_another_process_forgets_a_destroyed_key_in_bounded_time() -> None:
    store, masters = MemoryKeys(), new_master_key()
    first, second = keyring(store, masters), keyring(store, masters, cache_seconds=0.0)
    key = await first.for_records([ref(1)])
    assert len(await second.by_id([key[ref(1)].id])) == 1
    await first.destroy_records([ref(1)])
    assert await second.by_id([key[ref(1)].id]) == {}


async def test_delivery_keys_are_per_endpoint_and_hour_and_expire_after_retention() -> None:
    store = MemoryKeys()
    ring = keyring(store)
    key = await ring.for_delivery("acme", "e1", NOON)
    assert await ring.for_delivery("acme", "e1", NOON + timedelta(minutes=39)) == key
    assert (await ring.for_delivery("acme", "e2", NOON)).id != key.id
    assert (await ring.for_delivery("acme", "e1", NOON + timedelta(hours=1))).id != key.id
    row = next(row for row in store.rows.values() if row.key_id == key.id)
    assert row.name.endswith("/2026-11-22T12")
    assert "e1" not in row.name.split("/"), "an endpoint's id may be its secret, and names of keys are in the clear"
    assert row.expires_at == datetime(2026, 11, 25, 14, tzinfo=UTC)


async def test_the_front_door_goes_on_without_postgres_for_this_hour_and_the_next() -> None:
    """INVARIANT: an outage of Postgres costs no delivery while the next hour's key is there."""
    store = MemoryKeys()
    ring = keyring(store)
    await ring.for_delivery("acme", "e1", NOON)
    store.away = True
    assert ring.cached_delivery_key("acme", "e1", NOON + timedelta(minutes=30))
    later = ring.cached_delivery_key("acme", "e1", NOON + timedelta(minutes=60))
    assert later
    assert seal(later, b"body", purpose="crm.deliveries")
    with pytest.raises(Unavailable, match="postgres"):
        await ring.for_delivery("acme", "e1", NOON + timedelta(hours=2))
    await ring.stop()


async def test_the_next_hours_key_is_made_as_soon_as_an_hour_begins() -> None:
    store = MemoryKeys()
    ring = keyring(store)
    await ring.for_delivery("acme", "e1", NOON)
    assert ring.cached_delivery_key("acme", "e1", NOON + timedelta(hours=1))
    async with asyncio.timeout(2):
        while not any(name.endswith("/2026-11-22T14") for _, name in store.rows):  # noqa: ASYNC110 -- the store has no event
            await asyncio.sleep(0)
    assert ring.cached_delivery_key("acme", "e1", NOON + timedelta(hours=2))
    await ring.stop()


async def test_rotation_the_first_master_key_wraps_and_all_unwrap() -> None:
    store, old, new = MemoryKeys(), new_master_key(), new_master_key()
    key = await keyring(store, old).for_tenant("acme")
    sealed = seal(key, b"text", purpose="p")
    both = keyring(store, f"{new}, {old}")
    assert open_sealed((await both.by_id([key.id]))[key.id], sealed, purpose="p") == b"text"
    assert await both.rewrap(page=1) == len(store.rows)
    assert await both.rewrap() == 0
    after = keyring(store, new)
    assert open_sealed((await after.by_id([key.id]))[key.id], sealed, purpose="p") == b"text"


async def test_a_missing_master_key_is_a_setting_to_mend_and_no_dead_letter() -> None:
    """INVARIANT: starting with the wrong master key stops a role; it must not lay every message aside."""
    store = MemoryKeys()
    key = await keyring(store).for_tenant("acme")
    with pytest.raises(SettingsError, match="HOOKLINE_MASTER_KEYS"):
        await keyring(store).by_id([key.id])


async def test_a_wrapped_key_that_was_moved_to_another_row_does_not_unwrap() -> None:
    store, masters = MemoryKeys(), new_master_key()
    ring = keyring(store, masters)
    key = await ring.for_tenant("acme")
    row = store.rows["tenant", "acme"]
    store.rows["tenant", "acme"] = type(row)(row.key_id, "globex", row.scope, row.name, row.wrapped)
    with pytest.raises(SettingsError):
        await keyring(store, masters).by_id([key.id])


async def test_fingerprints_tell_tenants_apart_and_survive_rotation() -> None:
    store, old = MemoryKeys(), new_master_key()
    ring = keyring(store, old)
    with pytest.raises(RuntimeError, match="start"):
        ring.fingerprint("acme", b"x")
    await ring.start()
    assert ring.fingerprint("acme", b"x") == ring.fingerprint("acme", b"x")
    assert len({ring.fingerprint("acme", b"x"), ring.fingerprint("globex", b"x"), ring.fingerprint("acme", b"y")}) == 3
    assert ring.fingerprint("ab", b"c") != ring.fingerprint("a", b"bc")
    rotated = keyring(store, f"{new_master_key()},{old}")
    await rotated.start()
    assert rotated.fingerprint("acme", b"x") == ring.fingerprint("acme", b"x")


async def test_our_own_secrets_open_for_their_purpose_alone() -> None:
    ring = keyring()
    sealed = ring.seal_secret(b"client secret", purpose="endpoint_secrets.sealed_secret/e1")
    assert ring.open_secret(sealed, purpose="endpoint_secrets.sealed_secret/e1") == b"client secret"
    with pytest.raises(Undecryptable):
        ring.open_secret(sealed, purpose="endpoint_secrets.sealed_secret/e2")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Undecryptable):
            ring.open_secret(bytes(changed), purpose="endpoint_secrets.sealed_secret/e1")


@pytest.mark.parametrize(
    "setting",
    ["", " , ", "c2hvcnQ=", "not base64 at all!", f"{new_master_key()},c2hvcnQ="],
    ids=["empty", "only commas", "too short", "not base64", "a good one and a short one"],
)
def test_a_master_key_that_is_none_is_refused_without_showing_it(setting: str) -> None:
    with pytest.raises(SettingsError, match="HOOKLINE_MASTER_KEYS") as caught:
        keyring(masters=setting or " ")
    assert "c2hvcnQ" not in str(caught.value)


async def test_nothing_that_is_shown_holds_key_material(caplog) -> None:
    store, masters = MemoryKeys(), new_master_key()
    ring = keyring(store, masters)
    key = await ring.for_tenant("acme")
    shown = repr(ring) + repr(vars(ring)) + repr(store.rows) + caplog.text
    assert key.material.hex() not in shown
    assert repr(key.material)[2:-1] not in shown
    assert masters not in shown
    assert repr(store.rows["tenant", "acme"].wrapped)[2:-1] not in shown


async def test_memory_is_bounded() -> None:
    ring = keyring(max_cached=10)
    await ring.for_records([ref(number) for number in range(50)])
    assert repr(ring) == "Keyring(10 cached)"
