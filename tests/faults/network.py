"""The wires between roles and servers, and a clock that is wrong."""

from __future__ import annotations

import asyncio
import platform
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.roles import Member
from tests.faults.stand import Stand

SERVERS = ("kafka", "postgres", "redis", "crm", "model", "door")
FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")
"""Where Debian and Ubuntu put it."""


class Latency(Fault):
    name = "network-latency"
    said = "100 ms more each way between roles and all servers, and before the door"
    short, long = 5.0, 15.0

    async def inject(self, stand: Stand) -> None:
        stand.wires.struck("")
        stand.wires.delay("", 0.1)

    async def recover(self, stand: Stand) -> None:
        stand.wires.delay("", 0.0)

    async def evidence(self, stand: Stand) -> str:
        held = stand.wires.struck("")["chunks held"]
        if not held:
            raise NoEvidenceError("nothing passed")
        return f"{held} packets held"


class Resets(Fault):
    name = "network-resets"
    said = "all connections between roles and servers are reset, again and again"
    short, long = 4.0, 12.0

    def __init__(self) -> None:
        self._reset = 0

    async def inject(self, stand: Stand) -> None:
        self._reset += stand.wires.cut("")

    async def hold(self, stand: Stand, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(stand.chance.uniform(0.5, 1.5))
            self._reset += stand.wires.cut(stand.chance.choice(SERVERS))

    async def evidence(self, stand: Stand) -> str:
        if not self._reset:
            raise NoEvidenceError("no connection was there to reset")
        return f"{self._reset} connections reset"


class HalfOpen(Fault):
    """The other side of every connection is gone and nobody says so: only a time limit of ours can find out."""

    name = "network-half-open"
    said = "the server's side of every connection vanishes; the role's side stays open and hears nothing, for ever"
    short, long = 3.0, 10.0

    def __init__(self) -> None:
        self._left = 0

    async def inject(self, stand: Stand) -> None:
        stand.wires.struck("")
        self._left = sum(stand.wires.half_open(name) for name in SERVERS)

    async def evidence(self, stand: Stand) -> str:
        unheard = stand.wires.struck("")["bytes unanswered"]
        if not self._left or not unheard:
            raise NoEvidenceError(f"{self._left} connections, {unheard} bytes sent into them")
        return f"{self._left} connections, {unheard} bytes sent into them"


class ClockStepped(Fault):
    """One role runs with a clock an hour ahead (libfaketime), and later with the right one again."""

    kind: ClassVar[str]
    short, long = 4.0, 12.0

    def __init__(self) -> None:
        self._member: Member | None = None
        self._ahead = 0.0

    @classmethod
    def lacks(cls) -> str | None:
        return None if FAKETIME.exists() else "install libfaketime (apt-get install libfaketime)"

    async def inject(self, stand: Stand) -> None:
        member = self._member = stand.roles.of(self.kind)[0]
        await self._restart(
            stand,
            member,
            {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME": "+1h",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_RESET": "1",
            },
        )

    @staticmethod
    async def _restart(stand: Stand, member: Member, more: Mapping[str, str]) -> None:
        member.wanted = False
        await asyncio.to_thread(member.end, 15)
        right = member.environment
        member.environment = {**right, **more}
        await asyncio.to_thread(member.start)
        member.environment = right
        member.wanted = True
        await stand.roles.until_ready()

    async def recover(self, stand: Stand) -> None:
        if self._member is not None:
            stamps = re.findall(r'"timestamp": ?"([^"]+)"', self._member.tail())
            if stamps:
                told = datetime.fromisoformat(stamps[-1])
                self._ahead = (told - datetime.now(UTC)).total_seconds()
            await self._restart(stand, self._member, {})

    async def evidence(self, stand: Stand) -> str:
        if self._ahead < 3_000:
            raise NoEvidenceError(f"its log was {self._ahead:.0f} s ahead")
        return f"its log was {self._ahead:.0f} s ahead"


def _clocks() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for kind in ("receiver", "translator", "hydrator", "analyst", "sink-crm"):
        name = f"clock-{kind}"
        found[name] = type(
            name,
            (ClockStepped,),
            {"name": name, "said": f"the {kind}'s clock is stepped an hour ahead, and back", "kind": kind},
        )
    return found


FAULTS: dict[str, type[Fault]] = {
    **{each.name: each for each in (Latency, Resets, HalfOpen)},
    **_clocks(),
}
