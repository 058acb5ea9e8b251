"""What a question took, on its way to Redis; and Redis' state when it was lost, from what Postgres holds.

Law: settling never waits and never fails: what Redis cannot hear now is kept and said later. Redis is never the only copy: a
tenant that it does not know is counted from Postgres before anything is granted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from infra.redis_wire import RedisAway, RedisError, Wire
from infra.telemetry import log
from llm_gateway.prompt import ModelUnavailable
from llm_gateway.question import Grant, pseudonym
from llm_gateway.refusals import redis_away
from llm_gateway.scripts import Scripts

_MOST_UNSETTLED = 100_000
_EPOCH = date(1970, 1, 1)

Amount = tuple[int, int, int]
"""Requests, tokens, nanodollars."""
Done = Callable[[str], None]
"""Hears the generation of Redis' state that a question was counted in."""


class Held(NamedTuple):
    """What quotas hold for a batch that is under way, in the order of `restore.lua`."""

    grant_id: str
    user: str
    """As Redis knows it."""
    tokens: int
    nano: int
    day: str
    month: str
    requests: int
    ms: int
    """So long yet."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What Postgres knows of a tenant: the day (UTC), its amounts by user, and the month's."""

    day: date
    users: Mapping[str, Amount]
    month: Amount
    held: Sequence[Held] = ()
    """In none of these amounts."""
    untold: Sequence[str] = ()
    """Names of batches in these amounts of which Redis may yet be told."""


class Settling:
    """One per core."""

    def __init__(self, wire: Wire, scripts: Scripts, counted: Callable[[str], Awaitable[Counted]]) -> None:
        self._wire = wire
        self._scripts = scripts
        self._counted = counted
        self._unsettled: list[tuple[bytes, Done | None]] = []
        self._rebuilding: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, grant: Grant, packed: bytes, done: Done | None) -> None:
        """Tell Redis the end of `grant`. Never waits, never raises."""
        future = self._wire.send(packed)

        def over(answer: asyncio.Future[bytes]) -> None:
            generation = grant.generation
            error = None if answer.cancelled() else answer.exception()
            if error is None and not answer.cancelled():
                generation = answer.result().decode()
            elif isinstance(error, RedisError) and str(error).startswith("NOSCRIPT"):
                self._later(self._reloaded(packed, done))
                return
            elif grant.day and len(self._unsettled) < _MOST_UNSETTLED:
                # Said when it is sent again; should this process die before, Postgres has it, or nobody.
                self._unsettled.append((packed, done))
                return
            if done is not None:
                done(generation)

        if future.done():
            over(future)
        else:
            future.add_done_callback(over)

    def returned(self) -> None:
        """Redis is there again: tell it what it missed."""
        if self._unsettled:
            self._later(self._caught_up())

    async def catch_up(self, counted: Mapping[tuple[str, str, date], Mapping[str, Amount]]) -> None:
        """Send what could not be settled; and tell Redis what Postgres now holds, by (tenant, generation, day) and user.
        Raises ModelUnavailable; then call it again with the same.
        """
        unsettled, self._unsettled = self._unsettled, []
        confirm = []
        for (tenant, generation, day), users in counted.items():
            whole = _sum(users.values())
            pairs = [part for user, amount in users.items() if user for part in (pseudonym(tenant, user), *amount)]
            confirm.append(self._scripts.confirm.call(tenant, generation, (day - _EPOCH).days, *whole, *pairs))
        if not unsettled and not confirm:
            return
        try:
            await self._wire.ready()
            if confirm:
                await self._wire.run(*confirm)
            while unsettled:
                packed, done = unsettled[0]
                generation = await self._wire.send(packed)
                unsettled.pop(0)
                if done is not None:
                    done(generation.decode())
        except RedisAway as away:
            self._unsettled = unsettled + self._unsettled
            raise redis_away(away) from away
        except RedisError as error:
            log("llm_gateway").warning("unsettled_lost", error=str(error)[:80], count=len(unsettled))

    async def rebuild(self, tenant: str) -> None:
        """Count a tenant that Redis does not know, once however many ask for it. Raises ModelUnavailable."""
        task = self._rebuilding.get(tenant)
        if task is None:
            task = self._rebuilding[tenant] = asyncio.create_task(self._restore(tenant))
            task.add_done_callback(lambda _: self._rebuilding.pop(tenant))
        await asyncio.shield(task)

    async def ended(self) -> None:
        """Return when what was begun is over, or after two seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def _restore(self, tenant: str) -> None:
        counted = await self._counted(tenant)
        users = [part for user, amount in counted.users.items() if user for part in (pseudonym(tenant, user), *amount)]
        command = self._scripts.restore.call(
            tenant,
            secrets.token_hex(8),
            (counted.day - _EPOCH).days,
            *_sum(counted.users.values()),
            *counted.month,
            len(counted.held),
            *(part for each in counted.held for part in each),
            len(counted.untold),
            *counted.untold,
            *users,
        )
        try:
            await self._wire.run(command)
        except RedisAway as away:
            raise redis_away(away) from away

    async def _reloaded(self, packed: bytes, done: Done | None) -> None:
        try:
            await self._wire.load()
            generation = await self._wire.send(packed)
        except (RedisAway, RedisError):
            self._unsettled.append((packed, done))
            return
        if done is not None:
            done(generation.decode())

    async def _caught_up(self) -> None:
        try:
            await self.catch_up({})
        except ModelUnavailable:
            return

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _sum(amounts: object) -> Amount:
    requests = tokens = cost = 0
    for one, two, three in amounts:  # type: ignore[attr-defined]  # an iterable of amounts
        requests, tokens, cost = requests + one, tokens + two, cost + three
    return requests, tokens, cost
