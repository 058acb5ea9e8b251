"""One round of saves in one portal, and what the sandbox's journal says came of it.

Law: a round counts only if every save of it is settled; latency is the journal's, from the save to the insight on the
record, and asks neither side for its own opinion.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.failure import BenchError
from console.sandbox import SandboxProcess
from infra.local.sandbox.journal import Journal

SETTLE_SECONDS = 30.0
QUIET_SECONDS = 0.6
"""Nothing has moved for this long: echoes of the last writes are through as well."""

_CITIES = ("Hamburg", "Lyon", "Porto", "Turin", "Gdansk", "Leeds", "Malmo", "Graz", "Ghent", "Cork")
_WORDS = (
    "pilot",
    "renewal",
    "rollout",
    "audit",
    "migration",
    "training",
    "integration",
    "pricing",
    "security",
    "support",
)
_TITLES = ("Head of IT", "Buyer", "CTO", "Operations Manager", "Data Lead", "Managing Director", "Assistant")
_STAGES = ("appointmentscheduled", "qualifiedtobuy", "presentationscheduled", "decisionmakerboughtin", "contractsent")
_OBJECTS = ("contact", "company", "deal")


def edit(chance: random.Random, kind: str) -> dict[str, str]:
    """Two or three properties, as a person changes them in one go; the number makes each value a new one."""
    pick, number = chance.choice, chance.randrange(10_000, 99_999)
    edits = {
        "contact": {
            "jobtitle": f"{pick(_TITLES)} {number % 97}",
            "phone": f"+49 40 {number}{number % 89:02}",
            "city": pick(_CITIES),
        },
        "company": {
            "description": f"Asked about {pick(_WORDS)} and {pick(_WORDS)}, reference {number}.",
            "numberofemployees": str(number % 900 + 10),
            "city": pick(_CITIES),
        },
        "deal": {
            "amount": str(number),
            "hs_next_step": f"Send the {pick(_WORDS)} plan {number % 97}",
            "dealstage": pick(_STAGES),
        },
    }[kind]
    names = list(edits)
    return {name: edits[name] for name in names[: chance.choice((2, 3))]}


@dataclass(frozen=True)
class Round:
    """What one round measured; times in milliseconds."""

    saves: int
    p50: int
    p95: int
    latencies: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """How saves are made."""

    sandbox: SandboxProcess
    rate: float
    chance: random.Random

    async def records(self, account: str) -> list[tuple[str, str]]:
        """Every (object, id) that a round may choose from."""
        found = await asyncio.gather(
            *(self.sandbox.acall("records", account=account, object=kind) for kind in _OBJECTS)
        )
        return [(kind, one) for kind, ids in zip(_OBJECTS, found, strict=True) for one in ids]

    async def round(
        self, account: str, records: Sequence[tuple[str, str]], seconds: float, alive: Callable[[], None]
    ) -> Round:
        """Save `rate` records a second, each once; return when all is settled. Raises BenchError when something is not."""
        chosen = self.chance.sample(list(records), int(self.rate * seconds))
        since = int((await self.sandbox.look("/sandbox/state"))["at"])
        loop = asyncio.get_running_loop()
        start, saves = loop.time(), []
        for place, (kind, one) in enumerate(chosen):
            await asyncio.sleep(max(0.0, start + place / self.rate - loop.time()))
            saves.append(
                asyncio.create_task(
                    self.sandbox.acall("save", account=account, object=kind, id=one, properties=edit(self.chance, kind))
                )
            )
        answers = await asyncio.gather(*saves)
        if not all(answer["changed"] for answer in answers):
            raise BenchError("a save changed nothing: the sandbox refuses the values of this benchmark")
        return await self._settled(account, since, len(chosen), alive)

    async def _settled(self, account: str, since: int, saves: int, alive: Callable[[], None]) -> Round:
        journal = Journal(self.sandbox.data)
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet_since, before = time.monotonic(), -1
        while True:
            alive()
            state = await self.sandbox.look("/sandbox/state")
            found = await asyncio.to_thread(journal.reconcile, since=since)
            now = time.monotonic()
            if found.insight_writes != before or not state["idle"] or found.unsettled:
                quiet_since, before = now, found.insight_writes
            elif now - quiet_since >= QUIET_SECONDS:
                break
            if now > deadline:
                raise BenchError(
                    f"{account}: {len(found.unsettled)} of {len(found.outcomes)} records are not settled after "
                    f"{SETTLE_SECONDS:.0f} s, the deliveries are {'' if state['idle'] else 'not '}through"
                )
            await asyncio.sleep(0.2)
        if found.backwards:
            raise BenchError(f"{account}: {len(found.backwards)} insights went backwards")
        if found.saves != saves or len(found.latencies_ms) != saves:
            raise BenchError(f"{account}: {saves} saves, of which the journal counts {found.saves} and {len(found.latencies_ms)} settled")  # fmt: skip
        assert found.p50_ms is not None
        assert found.p95_ms is not None
        return Round(saves, found.p50_ms, found.p95_ms, tuple(found.latencies_ms))
