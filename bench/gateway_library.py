"""What the gateway costs as a library: a hit, and a miss beside calling the `groq` package directly; the last line is JSON.

Directly: `AsyncGroq.chat.completions.create` on the aiohttp transport, and the answer read into its pydantic type. Both go against the Groq stand-in in a process of its own, at latency 0, with a Valkey of their own; rounds take turns.
CPU of this process alone, at concurrency 16. `python -m bench.gateway_library`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
import uvloop
from groq import AsyncGroq, DefaultAioHttpClient
from pydantic import BaseModel, SecretStr

from bench.children import Child
from infra.database.engine import build_engine, migrate
from infra.keyring import DataKey
from infra.local.ports import Ports
from infra.local.stack import EmbeddedStack
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway.gateway import Gateway
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.shape import shape_of

ROUNDS = 7
QUESTIONS = 400
CONCURRENCY = 16
MODEL = "openai/gpt-oss-20b"


class Verdict(BaseModel):
    """The smallest answer."""

    score: int


def main() -> int:
    """Measure and report."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hookline-bench-")))
        folder.chmod(0o755)
        addresses = stack.enter_context(
            EmbeddedStack(folder / "stack", kafka_url="127.0.0.1:9", database_url=os.environ.get("BENCH_DATABASE_URL"),
                          redis_url=os.environ.get("BENCH_REDIS_URL"))
        )  # fmt: skip
        migrate(Settings(database_url=SecretStr(addresses.database_url), _env_file=None))
        port = Ports(folder / "ports").choose("stand-in")
        stand_in = Child(["infra.local.groq_stand_in", "--port", str(port), "--forget-bodies"], {}, folder, "stand-in")
        stack.callback(stand_in.stop)
        url = f"http://127.0.0.1:{port}"
        stand_in.wait_for_answer(f"{url}/stand-in", 30)
        settings = Settings(
            provider="groq",
            groq_api_key=SecretStr("stand-in"),
            groq_base_url=url,
            model=MODEL,
            database_url=SecretStr(addresses.database_url),
            redis_url=SecretStr(addresses.redis_url),
            model_requests_per_minute=1_000_000,
            model_tokens_per_minute=1_000_000_000,
            _env_file=None,
        )
        print(
            f"{QUESTIONS} questions a round, {ROUNDS} rounds, concurrency {CONCURRENCY}; cache, quotas, limits, accounts on"
        )
        uvloop.run(_measure(settings))
    return 0


async def _measure(settings: Settings) -> None:
    redis, engine = build_redis(settings), build_engine(settings)
    gateway = Gateway(settings, redis, engine)
    await gateway.start()
    assert settings.groq_api_key is not None
    client = AsyncGroq(
        api_key=settings.groq_api_key.get_secret_value(),
        base_url=settings.groq_base_url,
        max_retries=0,
        http_client=DefaultAioHttpClient(limits=httpx.Limits(max_connections=100, max_keepalive_connections=100)),
    )
    tenant = "bench"
    key = DataKey(
        id=secrets.token_hex(16), tenant=tenant, scope="record", name="bench", material=secrets.token_bytes(32)
    )
    caller = Caller(tenant, "bench", "42", "bench", key)
    shape = shape_of(Verdict)

    def prompt(name: str) -> Prompt[Verdict]:
        return Prompt(
            "bench", "1", "You judge leads.", f"lead {'word ' * 200}{name}", Verdict, {}, max_output_tokens=200
        )

    async def direct(name: str) -> None:
        asked = prompt(name)
        answer = await client.chat.completions.create(  # type: ignore[call-overload]  # its TypedDicts, one per format
            model=MODEL,
            messages=[{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}],
            response_format=shape.response_format("strict"),
            max_completion_tokens=1_224,
            temperature=0.0,
            reasoning_effort="low",
        )
        Verdict.model_validate_json(answer.choices[0].message.content or "")

    async def miss(name: str) -> None:
        await gateway.ask(prompt(name), caller)

    async def hit(name: str) -> None:
        await gateway.ask(prompt(name.rpartition("-")[2]), caller)

    for number in range(QUESTIONS):
        await gateway.ask(prompt(str(number)), caller)
    taken: dict[str, list[float]] = {"direct": [], "miss": [], "hit": []}
    ways: dict[str, Callable[[str], Awaitable[None]]] = {"direct": direct, "miss": miss, "hit": hit}
    for number in range(ROUNDS):
        for way, ask in ways.items():
            taken[way].append(await _round(ask, f"{way}-{number}"))
    added = [one - other for one, other in zip(taken["miss"], taken["direct"], strict=True)]
    await gateway.stop()
    await client.close()
    await redis.aclose()
    await engine.dispose()
    print(
        json.dumps(
            {
                "library_hit_ms": round(median(taken["hit"]), 3),
                "library_miss_added_ms": round(median(added), 3),
                "miss_ms": round(median(taken["miss"]), 3),
                "groq_direct_ms": round(median(taken["direct"]), 3),
                "rounds": ROUNDS,
            }
        )
    )


async def _round(ask: Callable[[str], Awaitable[None]], name: str) -> float:
    """CPU milliseconds a question."""
    numbers = iter(range(QUESTIONS))

    async def worker() -> None:
        for number in numbers:
            await ask(f"{name}-{number}")

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return (time.process_time() - began) / QUESTIONS * 1000


if __name__ == "__main__":
    sys.exit(main())
