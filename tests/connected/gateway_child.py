"""A replica of the gateway as a process of its own, for tests that kill it.

`quota TENANT LIMIT COUNT LOG`: asks the core COUNT times at once when told; a line in LOG for every pass and settlement.
`flight TENANT KEY COUNT`: asks one and the same question COUNT times at once when told; prints how it ended.
Both print `ready` and wait for a line on stdin.
"""

from __future__ import annotations

import asyncio
import os
import sys

from pydantic import BaseModel

from infra.database.engine import build_engine
from infra.keyring import DataKey
from infra.redis import build_redis
from infra.settings import Settings
from infra.telemetry import configure
from llm_gateway.core import Core
from llm_gateway.gateway import Gateway
from llm_gateway.policy import Policies
from llm_gateway.prompt import Answer, Caller, Prompt, QuotaSpent
from llm_gateway.question import Grant, Line, Question, Usage


class Verdict(BaseModel):
    score: int


async def told() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def quota(tenant: str, limit: str, count: str, log: str) -> None:
    settings = Settings(
        model_requests_per_day=int(limit),
        model_requests_per_minute=10**9,
        model_tokens_per_minute=10**12,
        _env_file=None,
    )
    redis = build_redis(settings)
    core = Core(settings, redis, Policies(settings), None, grace_seconds=2.0)  # type: ignore[arg-type]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    loop = asyncio.get_running_loop()
    ended: dict[str, int] = {"passed": 0, "spent": 0}

    async def one() -> None:
        try:
            held = await core.enter(Question(tenant, "u", "x", Line("scripted", "m"), 1, 1), loop.time() + 20.0)
        except QuotaSpent:
            ended["spent"] += 1
            return
        assert isinstance(held, Grant)
        os.write(file, b"passed\n")
        ended["passed"] += 1
        await asyncio.sleep(0.3)
        core.settle(held, Usage("m", 1), done=lambda _: os.write(file, b"settled\n") and None)

    await told()
    await asyncio.gather(*(one() for _ in range(int(count))))
    await core.close()
    await redis.aclose()
    sys.stdout.write(f"{ended['passed']} {ended['spent']}\n")


async def flight(tenant: str, key: str, count: str) -> None:
    settings = Settings(_env_file=None)
    redis, engine = build_redis(settings), build_engine(settings)
    gateway = Gateway(settings, redis, engine)
    await gateway.start()
    data_key = DataKey(id=key, tenant=tenant, scope="record", name=f"{tenant}/r", material=bytes.fromhex(key) * 2)
    caller = Caller(tenant, "a", "u", "x", data_key)
    prompt = Prompt("verdict", "1", "Judge.", "a lead", Verdict, {})
    await told()
    answers = await asyncio.gather(*(gateway.ask(prompt, caller) for _ in range(int(count))), return_exceptions=True)
    await gateway.stop()
    await redis.aclose()
    await engine.dispose()
    good = sum(isinstance(answer, Answer) for answer in answers)
    other = sorted({repr(answer) for answer in answers if not isinstance(answer, Answer)})
    sys.stdout.write(" ".join([str(good), *other]) + "\n")


if __name__ == "__main__":
    configure(Settings(_env_file=None), "child")
    asyncio.run({"quota": quota, "flight": flight}[sys.argv[1]](*sys.argv[2:]))
