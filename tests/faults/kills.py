"""Roles that die, are restarted in turn, or hang longer than their session lasts."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.roles import KINDS, TELLERS, Member
from tests.faults.stand import Stand

KILLS = 2
SLOW_SECONDS = 0.25
"""Each way."""


class Kill(Fault):
    """SIGKILL of a role at random moments; it is started again after a second."""

    kind: ClassVar[str]
    short, long = 2.5, 7.0

    def __init__(self) -> None:
        self._killed: list[tuple[Member, int]] = []

    async def inject(self, stand: Stand) -> None:
        await self._kill(stand)

    async def _kill(self, stand: Stand) -> None:
        alive = [member for member in stand.roles.of(self.kind) if member.alive]
        if alive:
            member = stand.chance.choice(alive)
            os.kill(member.pid, signal.SIGKILL)
            self._killed.append((member, member.pid))

    async def hold(self, stand: Stand, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.sleep(seconds * stand.chance.uniform(0.4, 0.9))
        if len(self._killed) < KILLS:
            await self._kill(stand)
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def recover(self, stand: Stand) -> None:
        # The roles' watch starts it again.
        await asyncio.sleep(2.0)
        await stand.roles.until_ready()

    async def evidence(self, stand: Stand) -> str:
        died = [pid for member, pid in self._killed if -signal.SIGKILL in member.deaths]
        if not died:
            raise NoEvidenceError(f"no {self.kind} died of SIGKILL")
        return f"{len(died)} killed (pid {', '.join(map(str, died))}, signal 9)"


def _kills() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for kind in KINDS:
        for replicas in (1, 2):
            name = f"kill-{kind}{'-of-2' if replicas == 2 else ''}"
            more = {
                "name": name,
                "said": f"SIGKILL of the {kind} at random moments, {'two replicas' if replicas == 2 else 'one replica'}",
                "kind": kind,
                "replicas": {kind: replicas},
            }
            found[name] = type(name, (KillTeller if kind in TELLERS else Kill,), more)
    return found


class KillTeller(Kill):
    """The same of a role that tells what no webhook tells: it has told something of the accounts that nobody else speaks of."""

    short, long = 6.0, 14.0
    replicas: ClassVar[Mapping[str, int]]

    def __init__(self) -> None:
        super().__init__()
        self._told_before = 0

    async def prepare(self, stand: Stand) -> None:
        self._told_before = await self._told(stand)

    async def evidence(self, stand: Stand) -> str:
        died = await super().evidence(stand)
        told = await self._told(stand) - self._told_before
        if not told:
            raise NoEvidenceError(f"{died}; it told nothing")
        return f"{died}; {told} changes told by it in this round"

    async def _told(self, stand: Stand) -> int:
        statement = {
            "salesforce-events": "SELECT coalesce(sum(events), 0)::bigint FROM event_streams",
            "reconciler": "SELECT coalesce(sum(missed), 0)::bigint FROM reconciliations",
        }[self.kind]
        rows = await asyncio.to_thread(stand.sql, statement)
        return int(rows[0][0])


class KillWhileSlow(Kill):
    """The same while every answer of a server is long under way, so that it dies in the middle of something."""

    wire: ClassVar[str]
    short, long = 4.0, 18.0

    async def _kill(self, stand: Stand) -> None:
        stand.wires.delay(self.wire, SLOW_SECONDS)
        await asyncio.sleep(4 * SLOW_SECONDS * stand.chance.uniform(1.0, 2.0))
        await super()._kill(stand)
        # What is on its way arrives late; others need not suffer longer.
        stand.wires.delay(self.wire, 0.0)

    async def recover(self, stand: Stand) -> None:
        stand.wires.delay(self.wire, 0.0)
        await super().recover(stand)


class KillTellerWhileSlow(KillWhileSlow, KillTeller):
    """Both."""


class KillCutOff(Kill):
    """It dies while the brokers cannot be reached, with work that it could not hand on."""

    name = "kill-translator-cut-off"
    said = "SIGKILL of the translator while it cannot reach any broker"
    kind = "translator"
    short, long = 4.0, 8.0

    async def inject(self, stand: Stand) -> None:
        stand.wires.refuse("kafka", refused=True)
        await asyncio.sleep(stand.chance.uniform(1.0, 2.0))
        await super().inject(stand)

    async def recover(self, stand: Stand) -> None:
        stand.wires.refuse("kafka", refused=False)
        await super().recover(stand)


def _slow_kills() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for kind, wire, server in (
        ("hydrator", "crm", "CRM"),
        ("analyst", "model", "model"),
        ("sink-crm", "crm", "CRM"),
        ("sink-postgres", "postgres", "PostgreSQL"),
        ("salesforce-events", "postgres", "PostgreSQL"),
        ("reconciler", "crm", "CRM"),
    ):
        name = f"kill-{kind}-busy"
        more = {
            "name": name,
            "said": f"SIGKILL of the {kind} while every answer of the {server} takes {2 * SLOW_SECONDS * 1000:.0f} ms longer",
            "kind": kind,
            "wire": wire,
            "replicas": {kind: 1},
        }
        found[name] = type(name, (KillTellerWhileSlow if kind in TELLERS else KillWhileSlow,), more)
    return found


class RollingRestart(Fault):
    """Every role is asked to stop and started anew, one after the other; two doors, so that one is always open."""

    name = "rolling-restart"
    said = "rolling restart of all roles by SIGTERM"
    short, long = 0.0, 0.0
    replicas: ClassVar[Mapping[str, int]] = {"receiver": 2, "salesforce-events": 1, "reconciler": 1}

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    async def inject(self, stand: Stand) -> None:
        for kind in KINDS:
            for member in stand.roles.of(kind):
                member.wanted = False
                self._codes[member.name] = await asyncio.to_thread(member.end, signal.SIGTERM)
                member.wanted = True
                await asyncio.to_thread(member.start)
                await stand.roles.until_ready()

    async def evidence(self, stand: Stand) -> str:
        if set(self._codes.values()) != {0}:
            raise NoEvidenceError(f"they did not all end well: {self._codes}")
        return f"{len(self._codes)} ended with exit code 0 and came back"


class Hang(Fault):
    """A role's process is stopped for longer than its group waits for it, and then goes on where it was."""

    kind: ClassVar[str]
    short, long = 14.0, 16.0

    def __init__(self) -> None:
        self._member: Member | None = None
        self._state = ""

    async def inject(self, stand: Stand) -> None:
        self._member = stand.chance.choice(stand.roles.of(self.kind))
        os.kill(self._member.pid, signal.SIGSTOP)

    async def hold(self, stand: Stand, seconds: float) -> None:
        assert self._member is not None
        await asyncio.sleep(seconds)
        self._state = _state(self._member.pid)

    async def recover(self, stand: Stand) -> None:
        if self._member is not None and self._member.alive:
            os.kill(self._member.pid, signal.SIGCONT)
        await asyncio.sleep(1.0)
        await stand.roles.until_ready()

    async def evidence(self, stand: Stand) -> str:
        if self._state != "T":
            raise NoEvidenceError(f"{self.kind} was not stopped, but in state {self._state or '?'}")
        assert self._member is not None
        return f"pid {self._member.pid} was stopped (state T), longer than a session of 10 s"


class HangWhileSlow(Hang):
    """The same in the middle of a read, which it then publishes long after others have read anew."""

    wire: ClassVar[str]

    async def inject(self, stand: Stand) -> None:
        stand.wires.delay(self.wire, SLOW_SECONDS)
        await asyncio.sleep(4 * SLOW_SECONDS * stand.chance.uniform(1.0, 2.0))
        await super().inject(stand)

    async def recover(self, stand: Stand) -> None:
        stand.wires.delay(self.wire, 0.0)
        await super().recover(stand)


def _state(pid: int) -> str:
    """As the system calls it: `T` is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _hangs() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for kind, wire in (
        ("hydrator", ""),
        ("hydrator", "crm"),
        ("analyst", ""),
        ("sink-postgres", ""),
        ("sink-crm", ""),
        ("sink-crm", "crm"),
    ):
        name = f"hang-{kind}{'-busy' if wire else ''}"
        more = {
            "name": name,
            "said": f"one of two replicas of the {kind} hangs for longer than its session and then goes on"
            + (", while the CRM is slow" if wire else ""),
            "kind": kind,
            "wire": wire,
            "replicas": {kind: 2},
        }
        found[name] = type(name, (HangWhileSlow if wire else Hang,), more)
    return found


FAULTS: dict[str, type[Fault]] = {
    **_kills(),
    **_slow_kills(),
    KillCutOff.name: KillCutOff,
    RollingRestart.name: RollingRestart,
    **_hangs(),
}
