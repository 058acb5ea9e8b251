"""How much a tenant and a user may ask: requests and tokens a minute, requests a day.

Law: decided in Redis, by one script, for all replicas; reserved before a question is asked and settled after. What a
dead process reserved comes back by itself. Redis holds no count that Postgres cannot give back: found empty, a tenant's
day is counted from `llm_usage` before its first grant. A caller who must wait is told once how long; nobody polls.

The minute's limits are token buckets that hold one minute's worth: after an idle minute a burst of one minute's worth
passes at once, and from then on the rate holds. The day is UTC, by Redis' clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from infra.settings import Settings
from llm_gateway.prompt import Caller, ModelUnavailable, QuotaSpent, RateLimited
from llm_gateway.round_trips import Command, RedisAway, RoundTrips, Script

RESERVE, SETTLE, RESTORE, CONFIRM = (Script(name) for name in ("reserve", "settle", "restore", "confirm"))
SCRIPTS = (RESERVE, SETTLE, RESTORE, CONFIRM)

_EPOCH = date(1970, 1, 1)
GRACE_SECONDS = 30.0
"""A reservation outlives its caller's deadline by this much, so that only a dead process loses one."""

CountedDay = Callable[[str], Awaitable[tuple[date, Mapping[str, int]]]]
"""What Postgres knows of a tenant's day: the day (UTC), and requests by user."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The cached answer, sealed."""

    sealed: bytes


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to ask once, after `wait` seconds."""

    tenant: str
    user: str
    reservation: str
    tokens: int
    wait: float
    generation: str
    day: int


class Limits:
    """Reserves and settles. Every method raises ModelUnavailable when Redis is away."""

    def __init__(
        self, settings: Settings, trips: RoundTrips, counted: CountedDay, *, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._trips = trips
        self._counted = counted
        self._per_minute = settings.model_requests_per_minute
        self._tokens_per_minute = settings.model_tokens_per_minute
        self._per_day = settings.model_requests_per_day
        self._user_per_day = settings.user_requests_per_day
        self._grace = grace_seconds
        self._rebuilding: dict[str, asyncio.Task[None]] = {}
        self._unsettled: list[Command] = []

    async def reserve(
        self, caller: Caller, *, entry: str | None, tokens: int, patience: float, life: float | None = None
    ) -> Hit | Grant:
        """The answer cached under `entry`, or the right to ask, after a wait of at most `patience` seconds. The caller
        settles or releases it within `life` seconds (by default as many).

        Raises QuotaSpent, RateLimited (the wait would be longer than `patience`) and ModelUnavailable.
        """
        tenant = caller.tenant
        user = pseudonym(tenant, caller.user)
        reservation = secrets.token_hex(8)
        command = RESERVE.call(
            (entry or quota_key(tenant), _key(tenant, "bucket"), quota_key(tenant), _key(tenant, "reserved")),
            *("1" if entry else "0", self._per_minute, self._tokens_per_minute, self._per_day, self._user_per_day),
            *(
                tokens,
                int(patience * 1000),
                reservation,
                user,
                int(((patience if life is None else life) + self._grace) * 1000),
            ),
        )
        for _ in range(3):
            [(verdict, *rest)] = await self._run(command)
            if verdict == b"HIT":
                return Hit(rest[0])
            if verdict == b"GRANTED":
                return Grant(tenant, user, reservation, tokens, int(rest[0]) / 1000, rest[1].decode(), int(rest[2]))
            if verdict == b"LATE":
                raise RateLimited("the tenant's requests or tokens per minute", _in(int(rest[0]) / 1000))
            if verdict == b"SPENT":
                raise QuotaSpent(f"requests per day of this {rest[0].decode()}", _in(int(rest[1])))
            await self._rebuild(tenant)
        raise ModelUnavailable(
            "REDIS_AWAY", "Redis loses what is written to it; look at its memory limit and eviction policy", 5.0
        )

    def settled(self, grant: Grant, tokens: int) -> Command:
        """The command that says: asked and answered, it took this many tokens. It returns the generation counted in."""
        return self._settle(grant, answered=True, more=tokens - grant.tokens)

    async def run(self, *commands: Command) -> list[object]:
        """Settle, with whatever else goes along. When Redis is away they are kept for `catch_up`, and [] comes back:
        an answer that was paid for is not thrown away.
        """
        try:
            return await self._trips.run(*commands)
        except RedisAway:
            self._unsettled.extend(command for command in commands if command[1] == SETTLE.digest)
            return []

    async def release(self, grant: Grant) -> None:
        """It was not asked, or not answered: the day's request comes back, the minute's does not."""
        await self.run(self._settle(grant, answered=False, more=0))

    async def catch_up(self, counted: Mapping[tuple[str, str, date], Mapping[str, int]]) -> None:
        """Send what could not be settled; and tell Redis what Postgres now holds, by (tenant, generation, day) and user.

        Raises ModelUnavailable; then call it again with the same.
        """
        unsettled, self._unsettled = self._unsettled, []
        confirm = []
        for (tenant, generation, day), users in counted.items():
            pairs = [part for user, count in users.items() if user for part in (pseudonym(tenant, user), count)]
            confirm.append(
                CONFIRM.call((quota_key(tenant),), generation, (day - _EPOCH).days, sum(users.values()), *pairs)
            )
        if not unsettled and not confirm:
            return
        try:
            await self._trips.run(*unsettled, *confirm)
        except RedisAway as away:
            self._unsettled = unsettled + self._unsettled
            raise _redis_away(away) from away

    def _settle(self, grant: Grant, *, answered: bool, more: int) -> Command:
        keys = (_key(grant.tenant, "bucket"), quota_key(grant.tenant), _key(grant.tenant, "reserved"))
        return SETTLE.call(keys, grant.reservation, grant.user, grant.day, int(answered), more, self._tokens_per_minute)

    async def _run(self, command: Command) -> list[list[bytes]]:
        try:
            return await self._trips.run(command)
        except RedisAway as away:
            raise _redis_away(away) from away

    async def _rebuild(self, tenant: str) -> None:
        task = self._rebuilding.get(tenant)
        if task is None:
            task = self._rebuilding[tenant] = asyncio.create_task(self._restore(tenant))
            task.add_done_callback(lambda _: self._rebuilding.pop(tenant))
        await asyncio.shield(task)

    async def _restore(self, tenant: str) -> None:
        day, users = await self._counted(tenant)
        by_user: defaultdict[str, int] = defaultdict(int)
        for user, count in users.items():
            by_user[pseudonym(tenant, user)] += count
        pairs = [part for user, count in by_user.items() if user for part in (user, count)]
        await self._run(
            RESTORE.call((quota_key(tenant),), secrets.token_hex(8), (day - _EPOCH).days, sum(users.values()), *pairs)
        )


def pseudonym(tenant: str, user: str) -> str:
    """How a user is called in Redis' keys; '' for nobody."""
    if not user:
        return ""
    return hashlib.blake2b(user.encode(), key=hashlib.sha256(tenant.encode()).digest(), digest_size=12).hexdigest()


def quota_key(tenant: str) -> str:
    """Where a tenant's day is counted."""
    return _key(tenant, "quota")


def _key(tenant: str, what: str) -> str:
    # The braces keep one tenant's keys on one node of a Redis cluster, where a script may touch them together.
    return f"hookline:llm:{{{tenant}}}:{what}"


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _redis_away(away: RedisAway) -> ModelUnavailable:
    return ModelUnavailable("REDIS_AWAY", f"{away}: limits cannot be kept without it. Look at REDIS_URL", 2.0)
