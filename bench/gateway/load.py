"""Asks a side: so many requests at a time, each answer looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median

import aiohttp
import orjson

from bench.failure import BenchError
from bench.gateway.sides import Side

CONCURRENCY = 16
_FILL = "word " * 160
HITS = 20
"""Different questions of the hit part."""


def body(side: Side, name: str, *, stream: bool = False) -> bytes:
    """One request."""
    messages = [
        {"role": "system", "content": "You judge leads. Answer in one sentence."},
        {"role": "user", "content": f"{_FILL}{name}"},
    ]
    asked = {"model": side.model, "messages": messages, "max_tokens": 200, "temperature": 0}
    return orjson.dumps({**asked, "stream": True} if stream else asked)


async def ask(session: aiohttp.ClientSession, side: Side, raw: bytes) -> None:
    """One answer; raises BenchError when it is none."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {side.key}"}
    async with session.post(f"{side.url}/chat/completions", data=raw, headers=headers) as response:
        said = await response.read()
    if response.status != 200 or b'"chat.completion"' not in said:
        raise BenchError(f"{side.name} answers HTTP {response.status}: {said[:300]!r}")


async def all_of(session: aiohttp.ClientSession, side: Side, bodies: list[bytes]) -> float:
    """CPU milliseconds of the side for each of these requests."""
    waiting = iter(bodies)

    async def worker() -> None:
        for raw in waiting:
            await ask(session, side, raw)

    began = side.process.cpu_seconds()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    # What is done off the path belongs to the requests, too.
    await asyncio.sleep(0.5)
    return (side.process.cpu_seconds() - began) / len(bodies) * 1000


async def stream(session: aiohttp.ClientSession, url: str, side: Side, name: str) -> tuple[float, float]:
    """Milliseconds to the first chunk, and to the end, of one stream."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {side.key}"}
    began, first = time.perf_counter(), 0.0
    async with session.post(f"{url}/chat/completions", data=body(side, name, stream=True), headers=headers) as response:
        async for _ in response.content.iter_any():
            first = first or time.perf_counter()
    return (first - began) * 1000, (time.perf_counter() - began) * 1000


async def streams(
    session: aiohttp.ClientSession, found: Sequence[Side], upstream: str, rounds: int
) -> dict[str, tuple[float, float]]:
    """Milliseconds that each side adds to a stream's first chunk, and to its end: medians over rounds in which they and the
    upstream itself take turns.
    """
    first: dict[str, list[float]] = {side.name: [] for side in found}
    end: dict[str, list[float]] = {side.name: [] for side in found}
    for number in range(rounds):
        there = await stream(session, f"{upstream}/v1", found[0], f"direct-{number}")
        for side in found:
            through = await stream(session, side.url, side, f"stream-{number}-{time.time_ns()}")
            first[side.name].append(through[0] - there[0])
            end[side.name].append(through[1] - there[1])
    return {side.name: (median(first[side.name]), median(end[side.name])) for side in found}
