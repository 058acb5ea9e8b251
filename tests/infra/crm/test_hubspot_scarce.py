"""Where calls are scarce, what bulk work reads waits for others to fill its call; live work does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.accounts import Account
from infra.crm.hubspot import HubSpotClient
from infra.crm.limits import bulk_work
from infra.settings import Settings

ACCOUNT = Account("hubspot:1", "acme", "hubspot", "", {}, {"access_token": "t"})


class Portals:
    """Answers batch reads, and says that calls are scarce."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def crowded(self, _account: Account) -> bool:
        return False

    def worth_waiting(self, _account: str) -> float:
        return 60.0

    async def call(self, _account: Account, _method: str, _path: str, body: Any = None, **_more: Any) -> Any:
        inputs = body()["inputs"]
        self.rows.append(len(inputs))
        return {"results": [{"id": row["id"], "properties": {}} for row in inputs]}


async def read(*starts: int, bulk: bool) -> list[int]:
    portals = Portals()
    client = HubSpotClient(Settings(_env_file=None), portals=portals)  # type: ignore[arg-type]
    asks = [[str(number) for number in range(start, start + 50)] for start in starts]
    with bulk_work(bulk):
        async with asyncio.timeout(1):
            await asyncio.gather(*(client.own_fields(ACCOUNT, "contact", ids) for ids in asks))
    return portals.rows


async def test_bulk_reads_wait_for_others_to_fill_their_call():
    assert await read(0, 50, bulk=True) == [100]
    with pytest.raises(TimeoutError):
        await read(0, bulk=True)


async def test_a_live_read_waits_for_nobody():
    assert await read(0, bulk=False) == [50]
