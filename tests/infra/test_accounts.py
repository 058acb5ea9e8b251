import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.accounts import Account, Directory, Endpoint, RegistryError, Secret, account_id, salesforce_id
from infra.accounts.unguessable import unguessable

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("hubspot:145883449", "hubspot:145883449"),
        (" hubspot:1 ", "hubspot:1"),
        ("salesforce:00D5g000004XyzA", "salesforce:00D5g000004XyzAEAS"),
        ("salesforce:00D5g000004XyzAEAS", "salesforce:00D5g000004XyzAEAS"),
    ],
)
def test_an_account_id_has_one_form(given, found):
    assert account_id(given) == found


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("145883449", "hubspot:<portal id> or"),
        ("hubspot:", "portal id"),
        ("hubspot:0123", "portal id"),
        ("hubspot:12x", "portal id"),
        ("salesforce:00D5g", "15 or 18"),
        ("salesforce:0015g000004XyzA", "starts with 00D"),
        ("salesforce:00d5g000004xyzaEAS", "case"),
        ("sugar:1", "hubspot:<portal id> or"),
    ],
)
def test_a_malformed_id_says_how_to_write_it(given, says):
    with pytest.raises(RegistryError, match=says):
        account_id(given)


@given(st.from_regex(r"[A-Za-z0-9]{15}", fullmatch=True))
def test_eighteen_characters_tell_ids_apart_without_case(text):
    full = salesforce_id(text)
    assert len(full) == 18
    assert salesforce_id(full) == full
    other = text.swapcase()
    assert text == other or full.lower() != salesforce_id(other).lower()


def test_the_known_example_of_the_suffix():
    assert salesforce_id("001A0000006Vm9u") == "001A0000006Vm9uIAC"


def endpoint(**more) -> Endpoint:
    return Endpoint(
        **{
            "id": "e",
            "tenant": "t",
            "source": "hubspot",
            "name": "n",
            "config": {},
            "enabled": True,
            "secrets": (),
            **more,
        }
    )


def test_secrets_and_credentials_are_in_no_text():
    found = endpoint(secrets=(Secret(NOON, None, b"hush"),))
    account = Account(
        id="hubspot:1", tenant="t", crm="hubspot", name="", config={}, credentials={"access_token": "hush"}
    )
    assert "hush" not in f"{found!r} {found.secrets!r} {account!r} {account}"


def test_secrets_overlap_newest_first_and_end_exactly():
    found = endpoint(
        secrets=(
            Secret(NOON - HOUR, NOON + HOUR, b"old"),
            Secret(NOON, None, b"new"),
            Secret(NOON + 2 * HOUR, None, b"not yet"),
        )
    )
    assert found.valid_secrets(NOON) == [b"new", b"old"]
    assert found.valid_secrets(NOON + HOUR) == [b"new"]
    assert found.valid_secrets(NOON - HOUR) == [b"old"]


class FakeRegistry:
    def __init__(self) -> None:
        self.now = "1"
        self.endpoints = [endpoint()]
        self.away = False
        self.full_reads = 0

    async def stamp(self) -> str:
        if self.away:
            raise OSError("no route")
        return self.now

    async def everything(self):
        self.full_reads += 1
        if self.away:
            raise OSError("no route")
        return self.now, list(self.endpoints), []


async def test_an_unchanged_registry_is_not_read_again():
    registry = FakeRegistry()
    directory = Directory(registry)
    assert await directory.refresh()
    assert not await directory.refresh()
    assert registry.full_reads == 1


async def test_the_last_view_stays_while_postgres_is_away_and_says_its_age(monkeypatch):
    """INVARIANT: the front door goes on without Postgres. If it fails, a database restart refuses deliveries."""
    registry = FakeRegistry()
    directory = Directory(registry, poll_seconds=0)
    await directory.start()
    registry.away = True
    registry.now = "2"
    async with asyncio.timeout(5):
        while not directory.last_error:  # noqa: ASYNC110 - a directory has no event to wait for
            await asyncio.sleep(0)
    assert directory.endpoint("e") is not None
    assert await directory.readiness() is None
    monkeypatch.setattr("infra.accounts.directory.STALE_SECONDS", -1.0)
    assert "PostgreSQL" in await directory.readiness()
    assert "OSError" in await directory.readiness()
    registry.away = False
    registry.endpoints = []
    async with asyncio.timeout(5):
        while directory.endpoint("e") is not None:  # noqa: ASYNC110 - a directory has no event to wait for
            await asyncio.sleep(0)
    await directory.stop()
    await directory.stop()


async def test_without_a_first_view_it_does_not_start():
    registry = FakeRegistry()
    registry.away = True
    with pytest.raises(OSError, match="no route"):
        await Directory(registry).start()


def test_what_we_make_up_is_never_taken_for_an_option(monkeypatch):
    drawn = iter(["-Yq1", "--all", "_aB9", "never drawn"])
    monkeypatch.setattr("infra.accounts.unguessable.secrets.token_urlsafe", lambda size: next(drawn))
    assert unguessable(24) == "_aB9"
