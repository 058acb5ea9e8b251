"""One replica of the gateway under load: asks as it is told, and prints how each question ended.

Law: a process of its own with the production gateway; nothing in it knows of the other replicas. Started by
`bench.limits`; its plan comes as JSON in the argument, its results go out as one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from pydantic import BaseModel

from infra.database.engine import build_engine
from infra.keyring import DataKey
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway.gateway import Gateway
from llm_gateway.prompt import Caller, GatewayError, Lane, Prompt


class Verdict(BaseModel):
    """The smallest answer."""

    score: int


class Source:
    """Questions of one tenant in one lane, at a steady rate, without waiting for answers: an open loop."""

    def __init__(self, gateway: Gateway, plan: dict[str, Any], chance: random.Random, began: float) -> None:
        self._gateway = gateway
        self._rate = float(plan["rate"])
        self._deadline = float(plan["deadline"])
        self._lane: Lane = plan["lane"]
        self._words = int(plan["words"])
        self._starts, self._ends = began + float(plan["starts"]), began + float(plan["ends"])
        tenant = plan["tenant"]
        self._caller = Caller(
            tenant, "bench", "", "bench",
            DataKey(id=secrets.token_hex(16), tenant=tenant, scope="record", name=f"{tenant}/bench", material=secrets.token_bytes(32)),
            self._lane,
        )  # fmt: skip
        self._chance = chance
        self._number = 0
        self.ended: list[tuple[str, str, float, float, str]] = []
        """Tenant, lane, when it was asked, seconds until it ended, how."""

    async def run(self) -> None:
        """Ask from `starts` to `ends` (times of the clock on the wall)."""
        await asyncio.sleep(max(0.0, self._starts - time.time()))
        asking: set[asyncio.Task[None]] = set()
        due = time.time() + self._chance.uniform(0, 1 / self._rate)
        while due < self._ends:
            await asyncio.sleep(max(0.0, due - time.time()))
            task = asyncio.create_task(self._ask())
            asking.add(task)
            task.add_done_callback(asking.discard)
            due += self._chance.expovariate(self._rate)
        if asking:
            await asyncio.wait(asking)

    async def _ask(self) -> None:
        self._number += 1
        words = self._chance.randint(self._words // 2, self._words * 3 // 2)
        prompt = Prompt(
            name="bench",
            version="1",
            system="Judge.",
            user="lead " * words + secrets.token_hex(8),
            answer=Verdict,
            facts={},
            max_output_tokens=200,
        )
        began = time.time()
        try:
            await self._gateway.ask(prompt, self._caller, deadline_seconds=self._deadline)
            ended = "answered"
        except GatewayError as error:
            ended = getattr(error, "cause", type(error).__name__)
        self.ended.append((self._caller.tenant, self._lane, began, time.time() - began, ended))


def _told(go: Path) -> float:
    """When everybody's clock begins; `bench.limits` writes it once all replicas are ready."""
    while not go.exists():
        time.sleep(0.02)
    return float(go.read_text())


async def _run(plan: dict[str, Any]) -> None:
    settings = Settings(_env_file=None)
    redis, engine = build_redis(settings), build_engine(settings)
    gateway = Gateway(settings, redis, engine)
    await gateway.start()
    chance = random.Random(plan["seed"])
    # Connected, and everything is imported, before anybody's clock begins.
    await gateway.core.connect()
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    began = await asyncio.to_thread(_told, Path(plan["go"]))
    sources = [Source(gateway, each, chance, began) for each in plan["sources"]]
    await asyncio.gather(*(source.run() for source in sources))
    await gateway.stop()
    await redis.aclose()
    await engine.dispose()
    ended = [each for source in sources for each in source.ended]
    sys.stdout.write("RESULT " + json.dumps({"ended": ended, "cpu_s": time.process_time()}) + "\n")


if __name__ == "__main__":
    uvloop.run(_run(json.loads(sys.argv[1])))
