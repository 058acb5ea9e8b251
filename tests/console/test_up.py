"""`hookline up` and the servers that it started: when one ends, somebody is told."""

import asyncio
from pathlib import Path

import pytest

from console.serve import while_servers_run
from infra.local.engine import StackError

LOGS = Path("data") / "logs"


async def test_a_server_that_ends_stops_the_roles_and_is_named(capsys):
    """INVARIANT: a dead embedded server ends `hookline up` with its name. If it fails, all stages wait for it for ever."""
    drained = asyncio.Event()
    codes: dict[str, int] = {}

    async def roles() -> None:
        codes["postgres"] = -9
        try:
            await asyncio.Event().wait()
        finally:
            drained.set()

    with pytest.raises(StackError, match=r"postgres \(signal 9\) of the embedded stack has ended by itself.*logs"):
        await asyncio.wait_for(while_servers_run(roles(), lambda: codes, LOGS, every=0.001), 5)
    assert drained.is_set()
    assert "postgres (signal 9) has ended by itself" in capsys.readouterr().err


async def test_roles_that_end_end_it_with_their_reason():
    async def roles() -> None:
        raise RuntimeError("the port is taken")

    with pytest.raises(RuntimeError, match="the port is taken"):
        await while_servers_run(roles(), dict, LOGS)


async def test_nothing_is_said_while_all_servers_run():
    looks = 0
    enough = asyncio.Event()

    def ended() -> dict[str, int]:
        nonlocal looks
        looks += 1
        if looks == 3:
            enough.set()
        return {}

    async def roles() -> None:
        await enough.wait()

    await asyncio.wait_for(while_servers_run(roles(), ended, LOGS, every=0.001), 5)
    assert looks >= 3
