"""The sandbox CRM in a process of its own, with people whose work shows every loss.

Law: a record is edited in one short session and then left alone, so that the last change of some record falls into every
moment of a round: people who come back to all records would mend with their next save what a fault had lost. What is
said of the records' truth is read from the sandbox's memory, never from the pipeline.

    python -m tests.faults.crm --data DIR --seed N     prints {"sandbox": URL, "events": URL} when it is ready
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.local.sandbox import texts
from infra.local.sandbox.__main__ import _until_orphaned
from infra.local.sandbox.controls import Controls
from infra.local.sandbox.limits import Fault
from infra.local.sandbox.people import People
from infra.local.sandbox.server import Application, Sandbox
from infra.local.sandbox.state import Account, Record
from infra.local.sandbox.web import Request, Response

KINDS = {"hubspot": ("contacts", "companies", "deals"), "salesforce": ("Contact", "Account", "Opportunity", "Lead")}
SAVES_A_SESSION = 16
SESSION_SECONDS = 3.0
NOTED = frozenset({"deals", "Opportunity"})
NOTE_RATE = 0.15
DELETE_RATE = 0.01
CREATE_RATE = 0.02


class Session:
    """One record that somebody works on."""

    def __init__(self, account: Account, record: Record, saves: int) -> None:
        self.account = account
        self.record = record
        self.left = saves


class Load:
    """People who make `rate` saves a second, each of two to six properties; seeded."""

    def __init__(self, people: People, controls: Controls, seed: int) -> None:
        self._people = people
        self._controls = controls
        self._chance = random.Random(seed)
        self._pools: dict[str, Iterator[Record]] = {}
        self._choices: list[Account] = []
        """Each as often as it weighs."""
        self._sessions: list[Session] = []
        self._task: asyncio.Task[None] | None = None
        self.saves = 0

    def start(self, accounts: dict[str, int], rate: float, notes: bool) -> None:
        """`accounts`: account → weight."""
        self.stop()
        world = self._people.world
        self._choices = [world.account(key) for key, weight in accounts.items() for _ in range(weight)]
        for account in self._choices:
            self._pools.setdefault(account.key, self._pool(account))
        self._sessions = []
        self._task = asyncio.get_running_loop().create_task(self._work(rate, notes))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _pool(self, account: Account) -> Iterator[Record]:
        """Every record again and again, in an order that is drawn anew each time."""
        while True:
            records = [record for kind in KINDS[account.vendor] for record in account.live(kind)]
            self._chance.shuffle(records)
            yield from records

    async def _work(self, rate: float, notes: bool) -> None:
        loop = asyncio.get_running_loop()
        open_ones = max(2, round(rate * SESSION_SECONDS / SAVES_A_SESSION))
        due = loop.time()
        while True:
            due += self._chance.expovariate(rate)
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -0.5:
                due = loop.time()
            while len(self._sessions) < open_ones:
                self._sessions.append(self._begin())
            self._save(self._chance.choice(self._sessions), notes)

    def _begin(self) -> Session:
        account = self._chance.choice(self._choices)
        pool = self._pools[account.key]
        if self._chance.random() < CREATE_RATE:
            self._people._create(account, self._people.world.person(account))
        saves = 1 + round(self._chance.expovariate(1 / (SAVES_A_SESSION - 1)))
        while True:
            record = next(pool)
            busy = any(session.record is record for session in self._sessions)
            if not (record.archived or record.gone or busy):
                return Session(account, record, saves)

    def _save(self, session: Session, notes: bool) -> None:
        account, record, chance, world = session.account, session.record, self._chance, self._people.world
        actor = world.person(account, chance.randrange(len(account.users)))
        session.left -= 1
        if session.left <= 0:
            self._sessions.remove(session)
            if record.type in {"contacts", "Lead"} and chance.random() < DELETE_RATE:
                world.archive(account, record, actor)
                self.saves += 1
                return
        if notes and record.type in NOTED and chance.random() < NOTE_RATE:
            text = self._people._written(texts.NOTES)
            self._controls.note(account.key, record.id, text, object=record.type)
        else:
            choices = self._people._choices(account, record)
            burst = chance.sample(sorted(choices), min(len(choices), chance.randint(2, 6)))
            world.update(account, record, {name: choices[name]() for name in burst}, actor)
        self.saves += 1


class FaultControls:
    """What the harness asks of this process beside the sandbox's own controls; JSON in, JSON out."""

    def __init__(self, application: Application, load: Load) -> None:
        self._world = application.world
        self._load = load
        self._met: Counter[str] = Counter()
        faults = application.hubspot.faults
        take = faults.take

        def counted(account: str, operation: str) -> Fault | None:
            fault = take(account, operation)
            if fault is not None:
                self._met[f"{fault.kind} at {operation}"] += 1
            return fault

        faults.take = counted

        self._answering: dict[str, Any] | None = None
        self._answered = 0
        self._chance = random.Random(1)
        route = application._route

        async def routed(request: Request) -> Response:
            told = self._answering
            vendor = request.path.startswith(("/crm/", "/services/", "/oauth/", "/account-info/"))
            if told is None or not vendor or self._chance.random() >= told["share"]:
                return await route(request)
            self._answered += 1
            headers = [(name.encode(), value.encode()) for name, value in told["headers"].items()]
            return Response(told["status"], told["body"].encode(), headers)

        application._route = routed

    def answer_with(
        self, status: int = 0, body: str = "", headers: dict[str, str] | None = None, share: float = 1.0
    ) -> dict[str, Any]:
        """Answer a share of all calls to the vendors' APIs with this alone; status 0: no more. How many met it before."""
        met, self._answered = self._answered, 0
        self._answering = {"status": status, "body": body, "headers": headers or {}, "share": share} if status else None
        return {"met": met}

    def faults_met(self) -> dict[str, int]:
        """How many calls met a planted fault since this was last asked, by fault and operation."""
        met = dict(self._met)
        self._met.clear()
        return met

    def load_start(self, accounts: dict[str, int], rate: float, notes: bool = True) -> dict[str, Any]:
        """Let people work."""
        self._load.start(accounts, rate, notes)
        return {}

    def load_stop(self) -> dict[str, Any]:
        """Let them stop at once."""
        self._load.stop()
        self._world.journal.flush()
        return {"saves": self._load.saves}

    def truth(self, account: str, records: list[list[str]]) -> list[dict[str, Any]]:
        """How these records ([object, id]) stand."""
        owner = self._world.account(account)
        kinds = {owner.canonical(kind): kind for kind in KINDS[owner.vendor]}
        found = []
        for object_, record_id in records:
            record = owner.records[kinds[object_]].get(record_id)
            if record is None:
                found.append({"gone": True, "modified_at": 0, "properties": {}})
                continue
            found.append(
                {
                    "gone": record.archived or record.gone,
                    "modified_at": record.modified,
                    "properties": {name: value for name, value in record.values.items() if value is not None},
                }
            )
        return found


def extend(sandbox: Sandbox, seed: int) -> None:
    """Give the sandbox's control API the harness's calls, too."""
    application, people = sandbox._app, sandbox._people
    assert application is not None
    assert people is not None
    ours = FaultControls(application, Load(people, application.controls, seed))
    names = [name for name in dir(FaultControls) if not name.startswith("_")]
    for name in names:
        setattr(application.controls, name, getattr(ours, name))
    application.control_api.methods |= frozenset(names)


async def serve(data: Path, seed: int, time_scale: float) -> None:
    """Until SIGTERM, or until the process that started it is gone."""
    parent = os.getppid()
    sandbox = Sandbox(data, seed=seed, time_scale=time_scale, events=True)
    base = await sandbox.start()
    sandbox.call(lambda: extend(sandbox, seed))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sys.stdout.write(json.dumps({"sandbox": base, "events": sandbox.events_url}) + "\n")
    sys.stdout.flush()
    watching = asyncio.ensure_future(_until_orphaned(parent, stopped))
    await stopped.wait()
    watching.cancel()
    await sandbox.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--time-scale", type=float, default=1.0)
    given = parser.parse_args()
    asyncio.run(serve(given.data, given.seed, given.time_scale))
