"""The roles as processes of their own, started as an operator starts them, killed as nobody would, and kept up.

Law: a role runs `hookline serve ROLE` (or, where a protection is switched off, the same behind `tests.faults.unprotected`);
nothing of it runs in the harness. A role that ends by itself is started again after a second, as an orchestrator does, and
that is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from infra.local.ports import Ports

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
RESTART_AFTER = 1.0

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "receiver": ("ingress", {}),
    "translator": ("translator", {}),
    "hydrator": ("hydrator", {}),
    "analyst": ("analyst", {}),
    "sink-postgres": ("sinks", {"HOOKLINE_DESTINATIONS": "postgres"}),
    "sink-crm": ("sinks", {"HOOKLINE_DESTINATIONS": "hubspot,salesforce"}),
    "salesforce-events": ("salesforce-events", {}),
    "reconciler": ("reconciler", {}),
}
"""Name here → role, and what it is given beside what all are given."""
TELLERS = frozenset({"salesforce-events", "reconciler"})
"""They tell what no webhook tells, and run where a fault asks for them: what one of them alone told must not be told by the other."""
_NOT_OURS = ("HOOKLINE_", "KAFKA_", "DATABASE_", "REDIS_", "GROQ_", "OTEL_")


@dataclass
class Member:
    """One replica: what it is started with, and its process."""

    kind: str
    number: int
    environment: dict[str, str]
    log: Path
    ops_port: int
    port: int = 0
    """Of the front door, for a receiver."""
    unprotected: str = ""
    process: subprocess.Popen[bytes] | None = None
    deaths: list[int] = field(default_factory=list)
    """Exit codes so far; negative: the signal."""
    wanted: bool = True
    ended_at: float = 0.0
    restarts: int = 0
    """Starts after it had ended by itself."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.alive:
            return
        role, more = KINDS[self.kind]
        module = ["tests.faults.unprotected", self.unprotected] if self.unprotected else ["console"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module, "serve", role],
                env={**kept, "PYTHONPATH": str(ROOT), **self.environment, **more},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, number: int = signal.SIGKILL, seconds: float = STOP_SECONDS) -> int:
        """Send the signal and wait until it is gone; its exit code. Blocks."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.deaths.append(self.process.returncode)
        return self.process.returncode

    def ready(self) -> str | None:
        """None when it says that it is ready, else what it lacks."""
        if not self.alive:
            return f"{self.name} does not run"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/health/ready", timeout=5):
                return None
        except urllib.error.HTTPError as error:
            return f"{self.name}: {error.read().decode(errors='replace')[:300]}"
        except OSError as error:
            return f"{self.name}: {type(error).__name__}"

    def told_date(self) -> datetime | None:
        """What time it believes it is, to the second; None when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/health/live", timeout=5) as answer:
                return parsedate_to_datetime(answer.headers["date"])
        except OSError:
            return None

    def metrics(self) -> str:
        """Its metrics as Prometheus reads them; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2_000:] if self.log.exists() else ""


class Roles:
    """All members. Blocking methods are for threads; `watch` keeps them up."""

    def __init__(self, folder: Path, environment: Mapping[str, str], ports: Ports) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._ports = ports
        self.members: dict[str, Member] = {}

    def of(self, kind: str) -> list[Member]:
        """The replicas of one kind that are wanted, first first."""
        return sorted((m for m in self.members.values() if m.kind == kind and m.wanted), key=lambda m: m.number)

    def member(self, kind: str, number: int) -> Member:
        """A replica, made when it is first asked for."""
        name = f"{kind}-{number}"
        found = self.members.get(name)
        if found is None:
            ops = self._ports.choose(f"{name} health")
            environment = {**self._environment, "HOOKLINE_OPS_PORT": str(ops)}
            port = 0
            if kind == "receiver":
                port = self._ports.choose(f"{name} door")
                environment["HOOKLINE_INGRESS_PORT"] = str(port)
            found = self.members[name] = Member(kind, number, environment, self._folder / f"{name}.log", ops, port)
        return found

    def scale(self, replicas: Mapping[str, int]) -> list[Member]:
        """Have so many of each kind (where nothing is said, 1, and none of TELLERS): start what is missing, stop what is too many.
        Blocks; returns who was started.
        """
        started = []
        for kind in KINDS:
            wanted = replicas.get(kind, kind not in TELLERS)
            for number in range(1, wanted + 1):
                member = self.member(kind, number)
                member.wanted = True
                if not member.alive:
                    member.start()
                    started.append(member)
            for member in self.of(kind)[wanted:]:
                member.wanted = False
                if member.alive:
                    member.end(signal.SIGTERM)
        return started

    async def until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until all that are wanted say that they are ready."""
        deadline = time.monotonic() + seconds
        waiting = [member for member in self.members.values() if member.wanted]
        while True:
            answers = await asyncio.gather(*(asyncio.to_thread(member.ready) for member in waiting))
            missing = [(member, said) for member, said in zip(waiting, answers, strict=True) if said]
            if not missing:
                return
            if time.monotonic() > deadline:
                member, said = missing[0]
                raise RuntimeError(f"not ready after {seconds:g} s: {said}\n{member.tail()}")
            waiting = [member for member, _ in missing]
            await asyncio.sleep(0.1)

    async def watch(self) -> None:
        """Start again what ended by itself, for ever."""
        while True:
            await asyncio.sleep(0.2)
            for member in list(self.members.values()):
                if not member.wanted or member.process is None or member.alive:
                    member.ended_at = 0.0
                elif not member.ended_at:
                    member.ended_at = time.monotonic()
                elif time.monotonic() - member.ended_at > RESTART_AFTER:
                    member.deaths.append(member.process.returncode)
                    # Killed is not ended by itself.
                    member.restarts += member.process.returncode != -signal.SIGKILL
                    member.ended_at = 0.0
                    await asyncio.to_thread(member.start)

    async def without(self, protections: Mapping[str, str]) -> None:
        """Start roles anew with protections switched off (kind → switches of `unprotected`), or with all of them."""
        changed = [m for m in self.members.values() if m.wanted and m.unprotected != protections.get(m.kind, "")]
        for member in self.members.values():
            member.unprotected = protections.get(member.kind, "")
        for member in changed:
            member.wanted = False
            await asyncio.to_thread(member.end, signal.SIGTERM)
            member.wanted = True
            await asyncio.to_thread(member.start)
        await self.until_ready()

    def stop(self) -> None:
        """End all: asked, then killed."""
        running = [member for member in self.members.values() if member.alive]
        for member in self.members.values():
            member.wanted = False
        for member in running:
            assert member.process is not None
            member.process.send_signal(signal.SIGCONT)
            member.process.send_signal(signal.SIGTERM)
        for member in running:
            member.end(signal.SIGTERM, 15.0)
