"""`make bench-gateway`: CPU per chat request at the gateway's server, beside a floor and others; the last line is JSON.

Each side is one process alone on the last CPU while it is asked; the upstream (at 0 ms), Redis, PostgreSQL and who asks are on the others. Rounds
take turns. The peers come from PyPI into throw-away environments (`BENCH_PEERS=folder` keeps them); one that cannot be
installed is left out and named. `--soak 200000` sends so many requests more and shows memory on the way: above 150 MiB, or more than 5 % above what it was when warm, the end is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import uvloop
from pydantic import SecretStr

from bench.failure import BenchError
from bench.gateway import sides
from bench.gateway.load import CONCURRENCY, HITS, all_of, body, streams
from bench.gateway.sides import Process, Side
from console.runtime import new_master_key
from infra.accounts import Registry
from infra.database.engine import build_engine, migrate
from infra.keyring import Keyring
from infra.local.ports import Ports
from infra.local.stack import EmbeddedStack
from infra.settings import Settings
from llm_gateway.server.keys import VirtualKeys

MODEL = "openai/gpt-oss-20b"
STAMPEDE = 64
MOST_MIB = 150.0
MOST_GROWTH = 1.05
_WARM = 3
"""Tenths of a soak after which a process has grown to its size."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1_500)
    parser.add_argument("--soak", type=int, default=0, help="more requests, for memory")
    parser.add_argument("--without", action="append", default=[], help="a peer (litellm, tensorzero), or `library`")
    options = parser.parse_args()
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        result = _measured(options, stack)
        print(json.dumps(result))
    return 0 if steady(result["soak_mib"]) else 1


def steady(memory: list[float]) -> bool:
    """Whether a soak's memory (after each tenth of it) stays small and, once it is warm, as it is."""
    return not memory or (max(memory) <= MOST_MIB and max(memory[_WARM:]) <= memory[_WARM - 1] * MOST_GROWTH)


def _measured(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    folder = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="hookline-bench-", ignore_cleanup_errors=True))
    )
    folder.chmod(0o755)
    cpus = sorted(os.sched_getaffinity(0))
    alone = {cpus[-1]}
    others = set(cpus[:-1]) or alone
    os.sched_setaffinity(0, others)
    addresses = stack.enter_context(
        EmbeddedStack(folder / "stack", kafka_url="127.0.0.1:9", database_url=os.environ.get("BENCH_DATABASE_URL"),
                      redis_url=os.environ.get("BENCH_REDIS_URL"))
    )  # fmt: skip
    ports = Ports(folder / "ports")
    port = {name: ports.choose(name) for name in ("mock", "floor", "ours", "ops", "litellm")}
    upstream = f"http://127.0.0.1:{port['mock']}"
    mock = Process("mock", [sys.executable, "-m", "bench.gateway.mock", str(port["mock"])], {}, folder, others)
    stack.callback(mock.stop)
    mock.wait(f"{upstream}/mock", 30)

    found = [
        _floor(folder, port["floor"], upstream, addresses.redis_url, alone, options.requests),
        _ours(folder, port, upstream, addresses.database_url, addresses.redis_url, alone, options.requests),
    ]
    for side in found:
        stack.callback(side.process.stop)
    starts: dict[str, tuple[str, Callable[[Path], Side]]] = {
        "litellm": (
            "litellm[proxy]",
            lambda python: sides.litellm(folder, python, port["litellm"], upstream, addresses.redis_url, alone),
        ),
        "tensorzero": ("tensorzero", lambda python: sides.tensorzero(folder, python, upstream, alone)),
    }
    for name, (package, start) in starts.items():
        if name in options.without:
            continue
        try:
            side = start(sides.environment(folder, name, package))
        except BenchError as error:
            print(f"{name} is left out: {error}")
            continue
        stack.callback(side.process.stop)
        found.append(side)
    print(
        f"{options.rounds} rounds in turn, {options.requests} requests each (litellm fewer), concurrency {CONCURRENCY}, "
        f"each side on CPU {cpus[-1]} alone, all else on {sorted(others)}"
    )
    result = uvloop.run(_run(found, upstream, options))
    if "library" not in options.without:
        result |= _library(addresses.database_url, addresses.redis_url)
    return result


def _floor(folder: Path, port: int, upstream: str, redis: str, cpus: set[int], requests: int) -> Side:  # noqa: PLR0917
    process = Process(
        "floor", [sys.executable, "-m", "bench.gateway.floor", str(port), upstream, redis], {}, folder, cpus
    )
    process.wait(f"http://127.0.0.1:{port}/health/live", 30)
    return Side("floor", process, f"http://127.0.0.1:{port}/v1", "x", MODEL, requests)


def _ours(  # noqa: PLR0917
    folder: Path, port: dict[str, int], upstream: str, database: str, redis: str, cpus: set[int], requests: int
) -> Side:
    shown = {
        "HOOKLINE_GATEWAY_PORT": str(port["ours"]),
        "HOOKLINE_OPS_PORT": str(port["ops"]),
        "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "1000000",
        "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "1000000000",
        "HOOKLINE_MODEL_REQUESTS_PER_DAY": "100000000",
        "HOOKLINE_USER_REQUESTS_PER_DAY": "100000000",
        "HOOKLINE_PROVIDER_LIMITS": json.dumps({MODEL: {"requests_per_minute": 10_000_000, "tokens_per_minute": 10_000_000_000}}),
        "GROQ_BASE_URL": upstream,
    }  # fmt: skip
    print(
        "ours: `hookline serve gateway`, all on (keys, sealed cache, single flight, quotas, limits, accounts), with "
        + json.dumps(shown)
    )
    master = new_master_key()
    settings = Settings(database_url=SecretStr(database), master_keys=SecretStr(master), _env_file=None)
    migrate(settings)
    key = asyncio.run(_key(settings))
    process = Process(
        "ours", [sys.executable, "-m", "console", "serve", "gateway"],
        {**shown, "DATABASE_URL": database, "REDIS_URL": redis, "HOOKLINE_MASTER_KEYS": master, "GROQ_API_KEY": "bench"}, folder, cpus,
    )  # fmt: skip
    process.wait(f"http://127.0.0.1:{port['ours']}/health/live", 60)
    return Side("ours", process, f"http://127.0.0.1:{port['ours']}/v1", key, MODEL, requests)


async def _key(settings: Settings) -> str:
    engine = build_engine(settings)
    assert settings.master_keys is not None
    try:
        tenant = f"bench{secrets.token_hex(3)}"
        await Registry(engine, Keyring(engine, settings.master_keys)).add_tenant(tenant)
        return (await VirtualKeys(engine).create(tenant))[1]
    finally:
        await engine.dispose()


async def _run(found: list[Side], upstream: str, options: argparse.Namespace) -> dict[str, Any]:
    by_name = {side.name: side for side in found}
    ours = by_name["ours"]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for side in found:  # warm: connections, imports, the cache of the hit part
            await all_of(session, side, [body(side, f"hit-{number}") for number in range(HITS)] * 2)
        for number in range(options.rounds):
            for side in found:
                count = min(side.requests, options.requests)
                mark = secrets.token_hex(4)
                side.miss.append(await all_of(session, side, [body(side, f"{mark}-{each}") for each in range(count)]))
                if side.caches:
                    side.hit.append(
                        await all_of(session, side, [body(side, f"hit-{each % HITS}") for each in range(count)])
                    )
            print(
                f"round {number + 1}: "
                + ", ".join(
                    f"{side.name} {side.miss[-1]:.3f}" + (f"/{side.hit[-1]:.3f}" if side.hit else "") for side in found
                )
                + " ms CPU (miss/hit)"
            )
        memory = ", ".join(f"{side.name} {side.process.rss_mib():.0f} MiB" for side in found)
        for side in found:
            if side is not ours and side.name != "floor":
                # What they do by themselves, on the same CPU, would be part of a stream's milliseconds.
                side.process.stop()
        held = await streams(session, [by_name["floor"], ours], upstream, max(20, options.rounds * 10))
        calls = await _stampede(session, ours, upstream)
        soak = await _soak(session, ours, options.soak) if options.soak else []
        rss = ours.process.rss_mib()
    print(f"a stream's end is held back by {held['ours'][1]:.2f} ms (floor {held['floor'][1]:.2f}); memory {memory}")

    def of(name: str, what: str) -> float | None:
        taken = getattr(by_name[name], what) if name in by_name else []
        return round(median(taken), 3) if taken else None

    return {
        "floor_miss_ms": of("floor", "miss"),
        "miss_ms": of("ours", "miss"),
        "floor_hit_ms": of("floor", "hit"),
        "hit_ms": of("ours", "hit"),
        "litellm_miss_ms": of("litellm", "miss"),
        "litellm_hit_ms": of("litellm", "hit"),
        "tensorzero_miss_ms": of("tensorzero", "miss"),
        "stampede_calls": calls,
        "first_chunk_added_ms": round(held["ours"][0], 2),
        "floor_first_chunk_added_ms": round(held["floor"][0], 2),
        "stream_end_added_ms": round(held["ours"][1], 2),
        "rss_mib": round(rss, 1),
        "soak_mib": soak,
    }


async def _stampede(session: aiohttp.ClientSession, side: Side, upstream: str) -> int:
    """Upstream calls for identical requests at once, with an upstream that takes a moment."""
    await session.post(f"{upstream}/mock", data=b'{"latency": 0.5}')
    before = (await (await session.get(f"{upstream}/mock")).json())["came"]
    raw = body(side, f"stampede-{secrets.token_hex(4)}")
    headers = {"content-type": "application/json", "authorization": f"Bearer {side.key}"}

    async def one() -> None:
        async with session.post(f"{side.url}/chat/completions", data=raw, headers=headers) as response:
            if response.status != 200:
                raise BenchError(f"stampede: HTTP {response.status}")
            await response.read()

    await asyncio.gather(*(one() for _ in range(STAMPEDE)))
    came = (await (await session.get(f"{upstream}/mock")).json())["came"]
    await session.post(f"{upstream}/mock", data=b'{"latency": 0}')
    return int(came - before)


async def _soak(session: aiohttp.ClientSession, side: Side, requests: int) -> list[float]:
    """Half of them misses, of many users; memory after each tenth."""
    each, shown = requests // 10, []
    for part in range(10):
        mark = secrets.token_hex(4)
        await all_of(
            session,
            side,
            [body(side, f"{mark}-{number}" if number % 2 else f"hit-{number % HITS}") for number in range(each)],
        )
        shown.append(round(side.process.rss_mib(), 1))
        print(f"soak: {(part + 1) * each} requests, {shown[-1]} MiB", flush=True)
    return shown


def _library(database: str, redis: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.gateway_library"], check=False, capture_output=True, text=True, cwd=sides.ROOT,
        env={**os.environ, "BENCH_DATABASE_URL": database, "BENCH_REDIS_URL": redis},
    )  # fmt: skip
    if ran.returncode != 0:
        raise BenchError(f"the library was not measured:\n{ran.stderr[-1500:]}")
    said = json.loads(ran.stdout.strip().splitlines()[-1])
    return {name: said[name] for name in ("library_hit_ms", "library_miss_added_ms")}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench-gateway: {error}")
