"""The registry and the directory on a real PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from infra.accounts import Directory, Registry, RegistryError
from infra.database.engine import build_engine, migrate
from infra.keyring import Keyring

pytestmark = pytest.mark.connected

SECRET = "shhh-shhh-shhh"
TOKEN = "pat-eu1-very-secret"


@pytest.fixture
async def engine(settings):
    await asyncio.to_thread(migrate, settings)
    engine = build_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def registry(settings, engine):
    found = Registry(engine, Keyring(engine, settings.master_keys))
    await found.add_tenant("acme", "Acme")
    return found


async def test_an_endpoint_and_its_accounts(registry):
    endpoint = await registry.add_endpoint("acme", "hubspot", "app", {"app_id": "1"}, SECRET, known_sources={"hubspot"})
    account = await registry.add_account(
        "acme", "hubspot", "hubspot:123", "P", {"app_id": "1"}, {"access_token": TOKEN}, [endpoint.id]
    )
    found = await registry.endpoint(endpoint.id)
    assert len(endpoint.id) >= 32
    assert found.valid_secrets(datetime.now(UTC) + timedelta(seconds=1)) == [SECRET.encode()]
    assert found.accounts == {"hubspot:123"}
    assert (await registry.account("hubspot:123")).credentials == {"access_token": TOKEN}
    assert [one.id for one in await registry.accounts()] == [account.id]
    assert await registry.tenants() == {"acme": "Acme"}


async def test_nothing_secret_is_readable_in_the_database_or_in_texts(registry, engine):
    """INVARIANT: secrets are sealed at rest and absent from reprs. If it fails, a database dump or a log gives away every CRM."""
    endpoint = await registry.add_endpoint("acme", "hubspot", secret=SECRET)
    account = await registry.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": TOKEN})
    async with engine.connect() as connection:
        for table in ("endpoints", "endpoint_secrets", "accounts"):
            rows = (
                await connection.execute(
                    text(f"SELECT row_to_json(t)::text, encode(t.*::text::bytea, 'escape') FROM {table} t")
                )
            ).all()
            assert rows
            assert SECRET not in str(rows)
            assert TOKEN not in str(rows)
            assert TOKEN.encode().hex() not in str(rows)
            assert SECRET.encode().hex() not in str(rows)
    assert SECRET not in repr(endpoint)
    assert TOKEN not in repr(account)


async def test_a_secret_copied_to_another_endpoint_does_not_open_there(registry, engine):
    first = await registry.add_endpoint("acme", "hubspot", secret=SECRET)
    second = await registry.add_endpoint("acme", "hubspot", secret="another-secret")
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE endpoint_secrets SET sealed_secret = (SELECT sealed_secret FROM endpoint_secrets WHERE endpoint = :a) WHERE endpoint = :b"
            ),
            {"a": first.id, "b": second.id},
        )
    assert (await registry.endpoint(second.id)).secrets == ()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: r.add_endpoint("nobody", "hubspot"), "hookline tenant add nobody"),
        (lambda r: r.add_endpoint("acme", "sugar", known_sources={"hubspot", "salesforce"}), "hubspot, salesforce"),
        (lambda r: r.add_account("acme", "hubspot", "hubspot:abc"), "portal id"),
        (lambda r: r.add_account("acme", "salesforce", "salesforce:00Dxx"), "15 or 18"),
        (lambda r: r.add_account("acme", "hubspot", "salesforce:00D5g000004XyzA"), "not of hubspot"),
        (lambda r: r.add_account("acme", "hubspot", "hubspot:5", endpoints=["nope"]), "hookline endpoint list"),
        (lambda r: r.add_tenant("Not Good"), "lower-case"),
        (lambda r: r.set_account_state("hubspot:99", "disconnected"), "hookline account list"),
        (lambda r: r.account("hubspot:99"), "hookline account list"),
        (lambda r: r.endpoint("nope"), "hookline endpoint list"),
    ],
)
async def test_errors_say_what_to_do_next(registry, call, says):
    with pytest.raises(RegistryError, match=says):
        await call(registry)


async def test_an_account_has_one_tenant(registry):
    """INVARIANT: one tenant cannot take over another's org by registering it. If it fails, tenants read each other's CRM."""
    await registry.add_tenant("other")
    await registry.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": TOKEN})
    with pytest.raises(RegistryError, match="another tenant"):
        await registry.add_account("other", "hubspot", "hubspot:123", credentials={"access_token": "mine"})
    assert (await registry.account("hubspot:123")).credentials == {"access_token": TOKEN}
    endpoint = await registry.add_endpoint("other", "hubspot")
    with pytest.raises(RegistryError, match="another tenant"):
        await registry.allow(endpoint.id, "hubspot:123")


async def test_an_account_added_again_is_connected_again(registry):
    await registry.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": "old"})
    await registry.set_account_state("hubspot:123", "disconnected", "token revoked")
    again = await registry.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": "new"})
    assert (again.state, again.state_reason, again.credentials) == ("active", "", {"access_token": "new"})


async def test_fifteen_characters_become_eighteen(registry):
    account = await registry.add_account("acme", "salesforce", "salesforce:00D5g000004XyzA")
    assert account.id == "salesforce:00D5g000004XyzAEAS"
    assert (await registry.account("salesforce:00D5g000004XyzA")).id == account.id


async def test_a_rotated_secret_overlaps_the_old_one(registry):
    endpoint = await registry.add_endpoint("acme", "hubspot", secret="the-old-one")
    rotated = await registry.rotate_secret(endpoint.id, "the-new-one", overlap_seconds=60)
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert rotated.valid_secrets(soon) == [b"the-new-one", b"the-old-one"]
    assert rotated.valid_secrets(soon + timedelta(hours=1)) == [b"the-new-one"]


async def test_touch_never_moves_a_time_back(registry):
    await registry.add_account("acme", "hubspot", "hubspot:123")
    late = datetime(2026, 11, 22, tzinfo=UTC)
    await registry.touch("hubspot:123", last_delivery_at=late)
    await registry.touch("hubspot:123", last_delivery_at=late - timedelta(days=1), last_insight_at=late)
    found = await registry.account("hubspot:123")
    assert (found.last_delivery_at, found.last_insight_at) == (late, late)


async def test_the_directory_sees_every_kind_of_change_and_no_touch(registry):
    directory = Directory(registry)
    await directory.refresh()
    endpoint = await registry.add_endpoint("acme", "hubspot", secret="a-good-secret")
    assert await directory.refresh()
    await registry.add_account("acme", "hubspot", "hubspot:123")
    assert await directory.refresh()
    await registry.allow(endpoint.id, "hubspot:123")
    assert await directory.refresh()
    assert directory.endpoint(endpoint.id).accounts == {"hubspot:123"}
    await registry.enable_endpoint(endpoint.id, False)
    assert await directory.refresh()
    assert not directory.endpoint(endpoint.id).enabled
    await registry.rotate_secret(endpoint.id)
    assert await directory.refresh()
    await registry.set_account_state("hubspot:123", "disconnected", "why")
    assert await directory.refresh()
    assert directory.account("hubspot:123").state_reason == "why"
    await registry.touch("hubspot:123", last_insight_at=datetime.now(UTC))
    assert not await directory.refresh()


async def test_the_directory_follows_by_itself(registry):
    directory = Directory(registry, poll_seconds=0.01)
    await directory.start()
    try:
        await registry.add_account("acme", "hubspot", "hubspot:123")
        async with asyncio.timeout(5):
            while directory.account("hubspot:123") is None:  # noqa: ASYNC110 - a directory has no event to wait for
                await asyncio.sleep(0)
    finally:
        await directory.stop()


async def test_a_lost_master_key_costs_the_secrets_not_the_view(settings, registry, engine):
    from infra.keyring import new_master_key

    endpoint = await registry.add_endpoint("acme", "hubspot", secret="a-good-secret")
    await registry.add_account("acme", "hubspot", "hubspot:123", credentials={"access_token": TOKEN})
    key = new_master_key()
    from pydantic import SecretStr

    other = Registry(engine, Keyring(engine, key if isinstance(key, SecretStr) else SecretStr(key)))
    assert (await other.endpoint(endpoint.id)).secrets == ()
    assert (await other.account("hubspot:123")).credentials is None


async def test_a_refused_token_disconnects_unless_the_account_was_connected_this_moment(registry, engine):
    await registry.add_tenant("acme")
    await registry.add_account("acme", "hubspot", "hubspot:5", credentials={"access_token": "new"})
    assert not await registry.disconnect("hubspot:5", "refused")
    assert (await registry.account("hubspot:5")).state == "active"
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE accounts SET changed_at = now() - interval '1 minute'"))
    assert await registry.disconnect("hubspot:5", "refused")
    assert await registry.disconnect("hubspot:5", "refused again"), "it stays so"
    assert (await registry.account("hubspot:5")).state == "disconnected"


async def test_a_secret_that_is_none_is_not_taken(registry):
    found = await registry.add_endpoint("acme", "hubspot", secret="a-good-secret")
    for weak in ("", "changeme", "short", "<client secret>"):
        with pytest.raises(RegistryError, match="the secret does not count"):
            await registry.add_endpoint("acme", "hubspot", secret=weak)
        with pytest.raises(RegistryError, match="the secret does not count"):
            await registry.rotate_secret(found.id, weak)


async def test_an_overlap_that_is_none_is_not_taken(registry):
    found = await registry.add_endpoint("acme", "hubspot", secret="a-good-secret")
    for seconds in (-1, 10**9):
        with pytest.raises(RegistryError, match="overlap"):
            await registry.rotate_secret(found.id, overlap_seconds=seconds)
    rotated = await registry.rotate_secret(found.id, "a-better-secret", overlap_seconds=0)
    assert rotated.valid_secrets(datetime.now(UTC) + timedelta(seconds=2)) == [b"a-better-secret"]


async def test_an_endpoint_is_configured_anew(registry):
    found = await registry.add_endpoint("acme", "salesforce", config={"networks": ["10.0.0.0/8"]})
    before = await registry.stamp()
    changed = await registry.configure_endpoint(found.id, {"networks": []})
    assert changed.config == {"networks": []}
    assert await registry.stamp() != before
    with pytest.raises(RegistryError, match="not known"):
        await registry.configure_endpoint("nobody", {})
