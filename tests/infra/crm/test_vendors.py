"""A client of one CRM for the length of a piece of work."""

import pytest

from infra.crm import vendors
from infra.settings import Settings, SettingsError


class Client:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


class Vendor:
    name = "sugar"

    def __init__(self) -> None:
        self.client = Client()

    def connect(self, settings):
        return self.client


@pytest.fixture
def vendor(monkeypatch):
    found = Vendor()
    monkeypatch.setattr(vendors, "load", lambda package, protocol, names: dict.fromkeys(names, found))
    return found


async def test_it_is_closed_afterwards_whatever_became_of_the_work(vendor):
    settings = Settings(_env_file=None)
    async with vendors.connected(settings, "sugar") as client:
        assert (client, client.closed) == (vendor.client, 0)
    assert vendor.client.closed == 1
    with pytest.raises(LookupError):
        async with vendors.connected(settings, "sugar"):
            raise LookupError
    assert vendor.client.closed == 2


async def test_an_unknown_crm_is_named():
    with pytest.raises(SettingsError, match="pipedrive"):
        async with vendors.connected(Settings(_env_file=None), "pipedrive"):
            pass
