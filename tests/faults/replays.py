"""A replay whose runner is killed in the middle, beside live traffic, and that goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.topics import CHANGES
from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.roles import ROOT
from tests.faults.stand import TENANT, Stand

LOOK_BACK = timedelta(seconds=20)
PLAN_SECONDS = 90.0
RATE = 15.0


class RunnerKilled(Fault):
    """`hookline replay run` dies of SIGKILL; the same command goes on where it was."""

    name = "kill-replay"
    said = "a replay of the last changes runs beside live traffic; its runner is killed (SIGKILL) and started again"
    short, long = 3.0, 8.0

    def __init__(self) -> None:
        self._id = ""
        self._first: subprocess.Popen[bytes] | None = None
        self._done_before = 0
        self._last: dict[str, Any] = {}

    async def inject(self, stand: Stand) -> None:
        since = (datetime.now(UTC) - LOOK_BACK).isoformat(timespec="seconds").replace("+00:00", "Z")
        planned = await asyncio.to_thread(
            _command, stand, "plan", "--topic", CHANGES.name, "--tenant", TENANT, "--since", since, "--rate", str(RATE)
        )
        self._id = planned["id"]
        self._first = await asyncio.to_thread(_start, stand, "run", self._id)
        # It is at work once its row says so.
        async with asyncio.timeout(PLAN_SECONDS):
            while not await self._progress(stand):  # noqa: ASYNC110 -- a row tells nobody that it changes
                await asyncio.sleep(0.2)

    async def hold(self, stand: Stand, seconds: float) -> None:
        assert self._first is not None
        await asyncio.sleep(stand.chance.uniform(0.1, 0.5) * seconds)
        self._done_before = await self._progress(stand)
        os.kill(self._first.pid, signal.SIGKILL)
        await asyncio.to_thread(self._first.wait)
        await asyncio.sleep(seconds / 2)

    async def recover(self, stand: Stand) -> None:
        if self._id:
            self._last = await asyncio.to_thread(_command, stand, "run", self._id)

    async def evidence(self, stand: Stand) -> str:
        code = self._first.returncode if self._first else None
        state = self._last.get("state")
        if code != -signal.SIGKILL or state != "done":
            raise NoEvidenceError(
                f"its runner ended with {code} after {self._done_before} records, and then it was {state}"
            )
        return f"its runner died of signal 9 after {self._done_before} records; started again it was done"

    async def _progress(self, stand: Stand) -> int:
        rows = await asyncio.to_thread(stand.sql, "SELECT records_done FROM replays WHERE id = %s", (self._id,))
        return rows[0][0] if rows else 0


def _start(stand: Stand, *arguments: str) -> subprocess.Popen[bytes]:
    with (stand.folder / "replay.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "console", "replay", *arguments, "--json"],
            env={**os.environ, **stand.environment, "PYTHONPATH": str(ROOT)},
            cwd=stand.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )


def _command(stand: Stand, *arguments: str) -> dict[str, Any]:
    process = _start(stand, *arguments)
    written, _ = process.communicate(timeout=PLAN_SECONDS)
    if process.returncode:
        raise RuntimeError(f"replay {arguments[0]}: {(stand.folder / 'replay.log').read_text()[-1500:]}")
    return json.loads(written.splitlines()[-1])


FAULTS: dict[str, type[Fault]] = {RunnerKilled.name: RunnerKilled}
