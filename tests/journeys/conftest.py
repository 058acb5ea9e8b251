"""One house per module: starting all roles takes seconds, and its tenants do not see one another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from infra.local.stack import Addresses
from tests.journeys.house import House, open_house
from tests.journeys.place import Place, open_place


@pytest.fixture(scope="module")
def house(addresses: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(addresses, tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture
async def hubspot(house: House) -> AsyncIterator[Place]:
    """A tenant with a HubSpot portal."""
    async with open_place(house) as place:
        yield place


@pytest.fixture
async def both(house: House) -> AsyncIterator[Place]:
    """A tenant with a HubSpot portal and a Salesforce org."""
    async with open_place(house, salesforce=True) as place:
        yield place
