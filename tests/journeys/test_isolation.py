"""One tenant's trouble is its own: others are served while it waits, and it loses nothing.

Told by counting and order, not by the clock; what it costs in milliseconds is measured by `make bench-flood`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from infra.settings import Settings
from ingress.allowances import Allowances
from schemas.topics import CHANGES, CHANGES_BULK
from tests.journeys.house import House, until
from tests.journeys.place import Place, open_place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

NAME = {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": "Buyer"}


class Pair(NamedTuple):
    noisy: Place
    quiet: Place


@pytest.fixture
async def pair(house: House) -> AsyncIterator[Pair]:
    async with open_place(house) as noisy, open_place(house) as quiet:
        yield Pair(noisy, quiet)


async def made(place: Place, number: int) -> list[str]:
    ids = [place.controls.create_record(place.portal, "contact", NAME)["id"] for _ in range(number)]
    await until("all have an insight", lambda: settled(place))
    return ids


def settled(place: Place) -> bool:
    result = place.reconciled()
    return bool(result.outcomes) and not result.unsettled


def edit(place: Place, ids: list[str], title: str) -> None:
    for one in ids:
        place.controls.save(place.portal, "contact", one, {"jobtitle": title})


@pytest.mark.parametrize("trouble", ["token", "quota"])
async def test_others_are_served_while_one_waits_and_it_gets_all_of_its_own_in_the_end(pair: Pair, trouble: str):
    """INVARIANT: a revoked token or a spent quota is one tenant's trouble. If it fails, one customer stops all."""
    noisy, quiet = pair
    theirs, ours = await made(noisy, 6), await made(quiet, 3)
    if trouble == "token":
        noisy.controls.revoke_token(noisy.token)
    else:
        noisy.controls.set_limits(noisy.portal, daily=1, used_today=1)
    cause = {"token": "TOKEN_REVOKED", "quota": "QUOTA_SPENT"}[trouble]
    edit(noisy, theirs[:1], "Director")

    async def waits() -> bool:
        return ("hydrator", cause) in await noisy.aside()

    await until("the first is set aside by its cause", waits)
    for round_ in range(3):
        edit(noisy, theirs, f"Director {round_}")
        edit(quiet, ours, f"Head {round_}")
        await until("the other tenant's changes are on their records", lambda: settled(quiet))
        assert len(noisy.reconciled().unsettled) == len(theirs), "and all of the first still wait"
    if trouble == "token":
        noisy.controls.revoke_token(noisy.token, revoked=False)
        await noisy.reconnect()
    else:
        noisy.controls.set_limits(noisy.portal, daily=None)
        await noisy.new_day()

    async def through() -> bool:
        await noisy.hurry()
        return settled(noisy)

    await until("all of the first is delivered", through, 40)
    for place in pair:
        assert (place.reconciled().backwards, place.reconciled().duplicate_effects) == ([], [])
        assert await place.dead_letters() == []


async def test_a_tenant_over_its_rate_moves_to_the_bulk_lane_and_comes_back(pair: Pair):
    noisy, quiet = pair
    ids, ours = await made(noisy, 8), await made(quiet, 2)
    allowances = Allowances(noisy.engine, Settings(_env_file=None))
    await allowances.set(noisy.tenant, 1, 1)
    title = iter(range(1_000))

    async def shifted() -> bool:
        edit(noisy, ids, f"Director {next(title)}")
        edit(quiet, ours, f"Head {next(title)}")
        return bool(await noisy.raw(CHANGES_BULK))

    await until("its changes go to the bulk lane", shifted)
    await until("and are on their records all the same", lambda: settled(noisy) and settled(quiet))
    assert await quiet.raw(CHANGES_BULK) == []
    await allowances.set(noisy.tenant, None, None)

    async def back() -> bool:
        live, bulk = len(await noisy.raw(CHANGES)), len(await noisy.raw(CHANGES_BULK))
        edit(noisy, ids, f"Manager {next(title)}")
        await until("they are on their records", lambda: settled(noisy))
        return len(await noisy.raw(CHANGES)) >= live + len(ids) and len(await noisy.raw(CHANGES_BULK)) == bulk

    await until("under its rate it is on the live lane again", back)
