"""The wires between roles and servers, and a clock that is stepped."""

from __future__ import annotations

import asyncio
import platform
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.roles import KINDS, Member
from tests.faults.stand import Stand

SERVERS = ("kafka", "postgres", "redis", "crm", "model", "door")
FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")
"""Where Debian and Ubuntu put it."""
TOLD_WITHIN = 30.0
"""A busy process does not write the date of its answers anew each second."""
NEAR = 60.0


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
    """The clock of a running role is stepped by an hour (libfaketime), and later back; its process lives through both."""

    kind: ClassVar[str]
    step: ClassVar[int]
    """Seconds."""
    short, long = 4.0, 12.0

    def __init__(self) -> None:
        self._member: Member | None = None
        self._pid = 0
        self._told: list[float] = []

    @classmethod
    def lacks(cls) -> str | None:
        return None if FAKETIME.exists() else "install libfaketime (apt-get install libfaketime)"

    async def prepare(self, stand: Stand) -> None:
        member = self._member = stand.roles.of(self.kind)[0]
        self._set(member, 0)
        await self._restart(
            stand,
            member,
            {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(_clock(member)),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_RESET": "1",
                # Its mending of an old glibc lets every wait for another thread last tens of milliseconds.
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            },
        )
        self._pid = member.pid

    async def inject(self, stand: Stand) -> None:
        assert self._member is not None
        self._set(self._member, self.step)

    async def hold(self, stand: Stand, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._look(self.step)

    async def recover(self, stand: Stand) -> None:
        assert self._member is not None
        self._set(self._member, 0)
        await self._look(0)

    async def evidence(self, stand: Stand) -> str:
        assert self._member is not None
        told = ", then ".join(f"{ahead:+.0f} s" for ahead in self._told)
        near = [abs(ahead - wanted) < NEAR for ahead, wanted in zip(self._told, (self.step, 0), strict=False)]
        if len(near) < 2 or not all(near):
            raise NoEvidenceError(f"its own clock was {told or 'not told'}")
        if self._member.pid != self._pid or not self._member.alive:
            raise NoEvidenceError(f"pid {self._pid} did not live through it")
        return f"pid {self._pid} lived through it and told {told}"

    async def leave(self, stand: Stand) -> None:
        if self._member is not None:
            await self._restart(stand, self._member, {})
            _clock(self._member).unlink(missing_ok=True)

    async def _look(self, wanted: int) -> None:
        """How far ahead of ours its clock is, seconds: every answer of its health page says what time it is."""
        assert self._member is not None
        until, ahead = time.monotonic() + TOLD_WITHIN, None
        while time.monotonic() < until and (ahead is None or abs(ahead - wanted) >= NEAR):
            await asyncio.sleep(0.5)
            told = await asyncio.to_thread(self._member.told_date)
            ahead = None if told is None else (told - datetime.now(UTC)).total_seconds()
        if ahead is not None:
            self._told.append(ahead)

    @staticmethod
    def _set(member: Member, step: int) -> None:
        # Replaced, not written over: it is read at every look at the clock.
        new = _clock(member).with_suffix(".new")
        new.write_text(f"{step:+d}\n")
        new.replace(_clock(member))

    @staticmethod
    async def _restart(stand: Stand, member: Member, more: Mapping[str, str]) -> None:
        member.wanted = False
        await asyncio.to_thread(member.end, signal.SIGTERM)
        right = member.environment
        member.environment = {**right, **more}
        await asyncio.to_thread(member.start)
        member.environment = right
        member.wanted = True
        await stand.roles.until_ready()


def _clock(member: Member) -> Path:
    return member.log.with_suffix(".clock")


def _clocks() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for kind in KINDS:
        for name, step, said in (
            (f"clock-{kind}", 3_600, f"the {kind}'s clock is stepped an hour ahead while it runs, and back"),
            (
                f"clock-{kind}-back",
                -3_600,
                f"the {kind}'s clock is stepped an hour back while it runs, and ahead again",
            ),
        ):
            found[name] = type(
                name, (ClockStepped,), {"name": name, "said": said, "kind": kind, "step": step, "replicas": {kind: 1}}
            )
    return found


FAULTS: dict[str, type[Fault]] = {
    **{each.name: each for each in (Latency, Resets, HalfOpen)},
    **_clocks(),
}
