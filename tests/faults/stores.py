"""PostgreSQL and Redis: restarted, away, cut off in the middle, slow, forgetful."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psycopg
import redis.asyncio as redis

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.stand import Stand

CUT_EVERY = 0.25
LOOK_EVERY = 0.005


class Killed(Fault):
    """A server dies of SIGKILL and is started again."""

    server: str

    def __init__(self) -> None:
        self._pid = 0
        self._code: int | None = None

    async def inject(self, stand: Stand) -> None:
        self._pid = stand.stack.pids()[self.server]
        await asyncio.to_thread(stand.stack.kill, self.server)
        self._code = stand.stack.ended().get(self.server)

    async def recover(self, stand: Stand) -> None:
        await asyncio.to_thread(stand.stack.revive, self.server)

    async def evidence(self, stand: Stand) -> str:
        now = stand.stack.pids().get(self.server)
        if self._code != -9 or now in {None, self._pid}:
            raise NoEvidenceError(f"{self.server}: exit code {self._code}, pid {self._pid} and now {now}")
        return f"{self.server} died (pid {self._pid}, signal 9) and came back as pid {now}"


class PostgresRestarted(Killed):
    name = "postgres-restarted"
    said = "PostgreSQL is killed (SIGKILL) and restarted at once"
    short, long = 0.0, 0.0
    server = "postgres"


class PostgresAway(Killed):
    name = "postgres-away"
    said = "PostgreSQL is away for 30 s"
    short, long = 4.0, 30.0
    server = "postgres"


class ConnectionsCut(Fault):
    """Every connection that is in the middle of a statement is cut, again and again."""

    name = "postgres-cut"
    said = f"connections are cut mid-transaction (pg_terminate_backend) every {CUT_EVERY:g} s"
    short, long = 2.5, 10.0

    def __init__(self) -> None:
        self._cut = 0
        self._active = 0
        self._task: asyncio.Task[None] | None = None

    async def inject(self, stand: Stand) -> None:
        self._task = asyncio.create_task(self._work(stand))

    async def _work(self, stand: Stand) -> None:
        statement = (
            "SELECT pg_terminate_backend(pid), state FROM pg_stat_activity "
            "WHERE application_name = 'hookline' AND pid <> pg_backend_pid() AND (state <> 'idle' OR random() < %s)"
        )
        url = stand.addresses.database_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, application_name="faults") as connection:

            async def cut(idle: float) -> int:
                cursor = await connection.execute(statement, (idle,))
                rows = await cursor.fetchall()
                self._cut += len(rows)
                at_work = sum(state != "idle" for _, state in rows)
                self._active += at_work
                return at_work

            while True:
                until = time.monotonic() + CUT_EVERY
                found = await cut(0.2)
                # Statements are short: under a light load it takes many looks to meet one.
                while not found and time.monotonic() < until:
                    await asyncio.sleep(LOOK_EVERY)
                    found = await cut(0.0)
                await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def recover(self, stand: Stand) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def evidence(self, stand: Stand) -> str:
        if not self._active:
            raise NoEvidenceError(f"{self._cut} connections were cut, none of them at work")
        return f"{self._cut} connections cut, {self._active} of them in the middle of a statement"


class RedisEmptied(Killed):
    name = "redis-emptied"
    said = "Redis is killed and comes back empty"
    short, long = 0.5, 2.0
    server = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    async def inject(self, stand: Stand) -> None:
        client = redis.Redis.from_url(stand.addresses.redis_url)
        try:
            self._lost = await client.dbsize()
            await client.flushall()
        finally:
            await client.aclose()
        await super().inject(stand)

    async def evidence(self, stand: Stand) -> str:
        died = await super().evidence(stand)
        if not self._lost:
            raise NoEvidenceError("it held nothing")
        return f"{died}; {self._lost} keys forgotten"


class RedisAway(Killed):
    name = "redis-away"
    said = "Redis is away for 30 s"
    short, long = 4.0, 30.0
    server = "valkey"


class RedisSlow(Fault):
    name = "redis-slow"
    said = "every answer of Redis takes 500 ms longer"
    short, long = 4.0, 15.0

    async def inject(self, stand: Stand) -> None:
        stand.wires.struck("redis")
        stand.wires.delay("redis", 0.25)

    async def recover(self, stand: Stand) -> None:
        stand.wires.delay("redis", 0.0)

    async def evidence(self, stand: Stand) -> str:
        held = stand.wires.struck("redis")["chunks held"]
        if not held:
            raise NoEvidenceError("nothing passed while it was slow")
        return f"{held} packets held for 250 ms each way"


FAULTS: dict[str, type[Fault]] = {
    each.name: each for each in (PostgresRestarted, PostgresAway, ConnectionsCut, RedisEmptied, RedisAway, RedisSlow)
}
