"""The match index on a real PostgreSQL: who is found, who never is, and what can be read in it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from infra.crm.concepts import MAPS
from infra.database.engine import build_engine
from infra.keyring import Keyring
from processors.match_store import MOST_MATCHES, PER_RECORD, MatchStore
from schemas.record import RecordSnapshot

pytestmark = pytest.mark.connected

AT = datetime(2026, 11, 1, tzinfo=UTC)


def person(
    id_: str,
    first: str = "Anna",
    last: str = "Lindqvist",
    email: str = "anna@nordic.se",
    *,
    account: str = "hubspot:1",
    tenant: str = "t",
    object_: str = "contact",
    **more,
):
    concepts = MAPS["hubspot"]["contact"]
    fields = {"firstname": first, "lastname": last, "email": email, **more.pop("fields", {})}
    return RecordSnapshot(
        tenant=tenant, account=account, object=object_, id=id_, crm="hubspot", fields={k: v for k, v in fields.items() if v},
        concepts=concepts, modified_at=AT, read_at=AT, **more,
    )  # fmt: skip


@pytest.fixture
async def world(settings):
    engine = build_engine(settings)
    keyring = Keyring(engine, settings.master_keys)
    yield MatchStore(engine, keyring), engine, keyring
    await engine.dispose()


async def kept_and_found(store, snapshots):
    await store.upsert(snapshots)
    return await store.candidates(snapshots)


async def test_two_new_duplicates_of_one_batch_find_each_other(world):
    store, _, _ = world
    a, b, c = person("1"), person("2", "Lindqvist", "Anna"), person("3", "Per", "Holm", "per@holm.se")
    found = await kept_and_found(store, [a, b, c])
    assert {match.id for match in found[a.ref]} == {"2"}
    assert {match.id for match in found[b.ref]} == {"1"}
    assert c.ref not in found
    assert "same e-mail address" in found[a.ref][0].evidence


async def test_other_accounts_tenants_and_kinds_are_never_found(world):
    """INVARIANT: who is in one customer's CRM is nobody else's business."""
    store, _, _ = world
    await store.upsert([person("1", account="hubspot:2"), person("2", tenant="other"), person("3", object_="lead")])
    assert await kept_and_found(store, [person("4")]) == {}


async def test_nothing_about_a_person_can_be_read_in_the_table(world):
    """INVARIANT: blocks are HMACs and features are sealed; a dump of the table names nobody."""
    store, engine, _ = world
    await store.upsert([person("1", fields={"city": "Stockholm", "date_of_birth": "1980-02-03"})])
    async with engine.connect() as connection:
        dump = str(
            (
                await connection.execute(text("SELECT t::text, encode(sealed_features, 'escape') FROM match_index t"))
            ).all()
        ).casefold()
    assert not any(word in dump for word in ("anna", "lindqvist", "nordic", "stockholm", "1980"))


async def test_a_record_whose_key_is_destroyed_is_never_found_again(world):
    store, _, keyring = world
    a, b = person("1"), person("2")
    await store.upsert([a])
    await keyring.destroy_records([a.ref])
    assert await kept_and_found(store, [b]) == {}
    # Seen again, it is sealed anew under its new key.
    found = await kept_and_found(store, [a])
    assert found[a.ref][0].id == "2"
    assert (await store.candidates([b]))[b.ref][0].id == "1"


async def test_forgotten_deleted_and_emptied_records_are_not_found(world):
    store, _, _ = world
    b = person("2")
    for gone in ("removed", "deleted", "emptied"):
        a = person("1")
        await store.upsert([a])
        assert (await kept_and_found(store, [b]))[b.ref][0].id == "1"
        if gone == "removed":
            await store.remove([a.ref])
            await store.remove([a.ref])
        else:
            await store.upsert([person("1", deleted=True) if gone == "deleted" else person("1", last="", email="")])
        assert await kept_and_found(store, [b]) == {}


async def test_a_record_that_did_not_change_is_not_written_again(world):
    store, engine, _ = world
    await store.upsert([person("1")])
    async with engine.connect() as connection:
        first = (await connection.execute(text("SELECT xmin::text FROM match_index"))).scalar_one()
    await store.upsert([person("1")])
    async with engine.connect() as connection:
        second = (await connection.execute(text("SELECT xmin::text FROM match_index"))).scalar_one()
    assert first == second
    await store.upsert([person("1", fields={"city": "Oslo"})])
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT xmin::text FROM match_index"))).scalar_one() != first


async def test_a_block_that_everybody_shares_costs_no_more_than_another(world, monkeypatch: pytest.MonkeyPatch):
    """INVARIANT: an address like info@ in thousands of records must not make each of them be compared with thousands."""
    store, _, _ = world
    crowd = [person(str(i), f"First{i:04}", f"Last{i:04}", "info@shared.example") for i in range(400)]
    await store.upsert(crowd)
    compared = 0
    from processors import match_store

    real = match_store.likely

    def counting(a, b):
        nonlocal compared
        compared += 1
        return real(a, b)

    monkeypatch.setattr(match_store, "likely", counting)
    found = await store.candidates(crowd[:1])
    assert compared <= PER_RECORD
    assert all(len(matches) <= MOST_MATCHES for matches in found.values())


async def test_an_empty_batch_and_records_without_features_ask_nothing(world):
    store, _, _ = world
    assert await kept_and_found(store, []) == {}
    assert await kept_and_found(store, [person("1", object_="deal")]) == {}
