"""What replicas share: processes of their own against one Valkey, some of them killed."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.local.groq_stand_in import GroqStandIn, Step
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway.core import Core
from llm_gateway.policy import Policies
from llm_gateway.prompt import QuotaSpent
from llm_gateway.question import Grant, Line, Question
from llm_gateway.settling import Counted

pytestmark = pytest.mark.connected

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def children(
    settings: Settings, *arguments: list[str], **more: str
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Replicas that are ready and wait to be told."""
    assert settings.redis_url is not None
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "PYTHONPATH": str(ROOT),
        **more,
    }
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.connected.gateway_child", *each),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        for each in arguments
    ]
    try:
        for child in started:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
        yield started
    finally:
        for child in started:
            if child.returncode is None:
                child.kill()
            await child.communicate()


def go(child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    child.stdin.write(b"go\n")


async def said(child: asyncio.subprocess.Process) -> list[str]:
    assert child.stdout is not None
    async with asyncio.timeout(40):
        return (await child.stdout.readline()).decode().split(maxsplit=1)


@asynccontextmanager
async def core_of(settings: Settings, **changes: object) -> AsyncIterator[Core]:
    async def nothing(_tenant: str) -> Counted:
        return Counted(datetime.now(UTC).date(), {}, (0, 0, 0))

    mine = settings.model_copy(
        update={"model_requests_per_minute": 10**9, "model_tokens_per_minute": 10**12, **changes}
    )
    redis = build_redis(mine)
    core = Core(mine, redis, Policies(mine), nothing)
    yield core
    await core.close()
    await redis.aclose()


async def test_ten_thousand_at_once_never_pass_a_quota_of_a_thousand_though_a_process_is_killed(
    settings: Settings, tenant: str, tmp_path: Path
):
    """INVARIANT: if this fails, quotas multiply by replicas (a limit of 100 let 544 through), or a crash eats the day."""
    line, loop = Line("scripted", "m"), asyncio.get_running_loop()
    question = Question(tenant, "u", "x", line, 1, 1)
    logs = [tmp_path / f"replica-{n}" for n in range(4)]
    async with core_of(settings, model_requests_per_day=1_000) as core:
        first = await core.enter(question, loop.time() + 5)  # the day is rebuilt from Postgres here
        assert isinstance(first, Grant)
        core.release(first)
        async with children(settings, *(["quota", tenant, "1000", "2500", str(log)] for log in logs)) as replicas:
            for replica in replicas:
                go(replica)
            async with asyncio.timeout(30):
                while not (begun := [n for n, log in enumerate(logs) if log.exists() and log.stat().st_size]):  # noqa: ASYNC110 -- another process writes it
                    await asyncio.sleep(0.005)
            replicas[begun[0]].kill()
            await asyncio.gather(*(said(replica) for n, replica in enumerate(replicas) if n != begun[0]))
        lines = [log.read_text().splitlines() for log in logs]
        passed = sum(each.count("passed") for each in lines)
        assert 0 < passed <= 1_000
        settled = sum(each.count("settled") for each in lines)
        lost = 1_000 - settled
        assert lost > 0, "the killed one held something"
        back = 0
        async with asyncio.timeout(40):
            while back < lost:
                try:
                    held = await core.enter(question, loop.time() + 5)
                except QuotaSpent:
                    await asyncio.sleep(0.2)
                    continue
                assert isinstance(held, Grant)
                back += 1
        with pytest.raises(QuotaSpent):
            await core.enter(question, loop.time() + 5)


async def test_five_hundred_equal_questions_of_four_processes_are_one_call(settings: Settings, tenant: str):
    stand_in = GroqStandIn(lambda _: '{"score": 7}', latency=0.5)
    key = secrets.token_hex(16)
    async with stand_in.serve() as url:
        given = {"GROQ_API_KEY": "k", "GROQ_BASE_URL": url}
        async with children(settings, *(["flight", tenant, key, "125"] for _ in range(4)), **given) as replicas:
            for replica in replicas:
                go(replica)
            answers = await asyncio.gather(*(said(replica) for replica in replicas))
    assert answers == [["125"]] * 4
    assert len(stand_in.asked) == 1


async def test_an_error_is_everybodys_and_is_not_kept(settings: Settings, tenant: str):
    stand_in = GroqStandIn(lambda _: '{"score": 7}', latency=0.3)
    stand_in.script.append(Step(status=401, hang=0.5))
    key = secrets.token_hex(16)
    async with stand_in.serve() as url:
        given = {"GROQ_API_KEY": "k", "GROQ_BASE_URL": url}
        async with children(settings, *(["flight", tenant, key, "20"] for _ in range(2)), **given) as replicas:
            for replica in replicas:
                go(replica)
            answers = await asyncio.gather(*(said(replica) for replica in replicas))
            assert len(stand_in.asked) == 1
        assert [answer[0] for answer in answers] == ["0", "0"]
        assert all("AUTHENTICATION" in answer[1] for answer in answers)
        async with children(settings, ["flight", tenant, key, "1"], **given) as [replica]:
            go(replica)
            assert await said(replica) == ["1"]


async def test_who_waits_for_a_process_that_dies_asks_himself(settings: Settings, tenant: str):
    stand_in = GroqStandIn(lambda _: '{"score": 7}', latency=8.0)
    key = secrets.token_hex(16)
    async with stand_in.serve() as url:
        given = {"GROQ_API_KEY": "k", "GROQ_BASE_URL": url}
        async with children(settings, *(["flight", tenant, key, "5"] for _ in range(2)), **given) as [holder, waiter]:
            go(holder)
            async with asyncio.timeout(10):
                while not stand_in.asked:  # noqa: ASYNC110 -- it has no event for it
                    await asyncio.sleep(0.01)
            go(waiter)
            stand_in.latency = 0.0
            await asyncio.sleep(0.2)
            assert len(stand_in.asked) == 1, "it waits"
            holder.kill()
            assert await said(waiter) == ["5"]
    assert len(stand_in.asked) == 2
