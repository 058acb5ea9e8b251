"""The gateway's core: limits, quotas, cache and flights of all replicas, in one trip to Redis before a question and one after.

Law: knows `Question`s, neither prompts nor HTTP. Who must wait sleeps until he is told; nobody asks again and again. A
process asks Redis nothing while nothing happens, but for one sign of life a second. Redis away: within its time limit, and
from then on at once, the local share holds (`llm_gateway.alone`). Settling never waits and never fails.

    held = await core.enter(question, deadline)     # Hit: open it with llm_gateway.cache; Grant: ask, now
    core.settle(grant, usage, sealed=..., )         # exactly one of the two
    core.release(grant, error, sent=...)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import redis.asyncio

from infra import metrics
from infra.redis_wire import Command, RedisAway, RedisError, Wire, pack
from infra.settings import Settings
from infra.telemetry import log
from llm_gateway import scripts
from llm_gateway.alone import Alone
from llm_gateway.breakers import Breakers
from llm_gateway.policy import Policies, nano
from llm_gateway.prompt import GatewayError, InputRefused, ModelUnavailable, OutputInvalid, QuotaSpent, RateLimited
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Grant, Hit, Line, Question, Usage, pseudonym

P = "hookline:llm:"
GRACE_SECONDS = 30.0
"""A reservation outlives its caller's deadline by this much, so that only a dead process loses one."""
WAITING_SHARE = 0.7
"""Of the time that is left, what may go into waiting for a turn: the model needs some, too."""
ALIVE_SECONDS = 1.0
_DEAD_AFTER_MS = 3_500
_LANES = {"interactive": b"1", "live": b"2", "bulk": b"3"}
_WITHOUT_REDIS = -2
"""Slot of what was granted while Redis was away: its windows hear of it when it is settled."""
_MOST_UNSETTLED = 100_000
_EPOCH = date(1970, 1, 1)

Amount = tuple[int, int, int]
"""Requests, tokens, nanodollars."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What Postgres knows of a tenant: the day (UTC), its amounts by user, and the month's."""

    day: date
    users: Mapping[str, Amount]
    month: Amount


class _Shared:
    """Something that several callers of this process wait for."""

    __slots__ = ("future", "waiting")

    def __init__(self) -> None:
        self.future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.waiting = 0


def _bulk(*values: str | bytes | int) -> bytes:
    parts = []
    for value in values:
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


_ADMIT_ARGS = 37
_SETTLE_ARGS = 29
_NOTHING = b"$0\r\n\r\n"


class Core:
    """One per gateway; used by the tasks of one loop."""

    def __init__(
        self,
        settings: Settings,
        redis: redis.asyncio.Redis,
        policies: Policies,
        counted: Callable[[str], Awaitable[Counted]],
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.replica = secrets.token_hex(6)
        self.policies = policies
        self._counted = counted
        self._closed_quotas = settings.quotas_without_redis == "closed"
        self._grace_ms = int(grace_seconds * 1000)
        self._scripts = scripts.load()
        self._wire = Wire(
            redis,
            self._scripts.all(),
            greeting=(
                ("SUBSCRIBE", f"{P}replica:{self.replica}", f"{P}breakers"),
                ("SET", f"{P}alive:{self.replica}", 1, "PX", _DEAD_AFTER_MS),
            ),
            push=self._pushed,
            changed=self._changed,
        )
        self._alone = Alone(policies, settings.gateway_replicas, lambda: asyncio.get_running_loop().time())
        self.breakers = Breakers(self._wire, self._scripts.breaker, self.replica)
        self._number = 0
        self._turns: dict[str, asyncio.Future[int] | int | None] = {}
        self._follows: dict[str, _Shared] = {}
        self._holders: dict[str, str] = {}
        """Flight → the replica that is asked."""
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._rebuilding: dict[str, asyncio.Task[None]] = {}
        self._unsettled: list[tuple[bytes, Callable[[str], None] | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tails: dict[tuple[str, str, Line], tuple[int, bytes]] = {}
        self._lines: dict[Line, tuple[bytes, bytes, bytes]] = {}
        self._warned: set[tuple[str, str, str]] = set()
        self._observed: dict[Line, tuple[int, int]] = {}
        self._heart: asyncio.Task[None] | None = None
        self._was_away = False
        self._admit_head = _head(self._scripts.admit.digest, _ADMIT_ARGS) + _bulk(self.replica)
        self._settle_head = _head(self._scripts.settle.digest, _SETTLE_ARGS) + _bulk(self.replica)

    @property
    def shared(self) -> bool:
        """Redis is there, as far as is known: limits are shared by all replicas."""
        return self._wire.there

    @property
    def waiting(self) -> int:
        """Questions of this process that wait for their turn."""
        return sum(1 for turn in self._turns.values() if isinstance(turn, asyncio.Future))

    async def connect(self) -> bool:
        """Look for Redis now instead of with the first question; whether it is there."""
        try:
            await self._wire.ready()
        except RedisAway:
            return False
        return True

    async def close(self) -> None:
        """Send what is settled, hang up. May be called twice."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
            self._heart = None
        await self._wire.close()

    # before

    async def enter(self, question: Question, deadline: float) -> Hit | Grant:
        """The answer, or the right to ask now; waits for the answer of another replica that is asking the same, or for its
        turn, for at most WAITING_SHARE of the time until `deadline` (a moment of the loop's clock).

        Raises QuotaSpent, RateLimited (no turn in time; told at once where that is known), ModelUnavailable; and what another
        replica's question ended with, if that was not its own affair. May be called again after any error.
        """
        loop = asyncio.get_running_loop()
        tenant = question.tenant
        for _ in range(8):
            left = max(0.0, deadline - loop.time())
            try:
                held = await self._admitted(question, deadline, left)
            except RedisAway as away:
                return await self._enter_alone(question, left, away)
            if isinstance(held, bytes):
                if held == b"REBUILD":
                    await self._rebuild(tenant)
                continue  # the other replica's question ended without an answer for us
            return held
        raise ModelUnavailable(
            "REDIS_AWAY", "Redis loses what is written to it; look at its memory limit and eviction policy", 5.0
        )

    async def again(self, grant: Grant, deadline: float) -> None:
        """Another turn for a question whose attempt failed: each attempt counts toward the limits. Raises RateLimited and
        ModelUnavailable; the grant is still to be released.
        """
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        again = Question(
            grant.question.tenant, grant.question.user, grant.question.analysis, grant.question.line,
            grant.question.tokens, 0, lane=grant.question.lane,
        )  # fmt: skip
        try:
            held = await self._admitted(again, deadline, left, quotas=False)
        except RedisAway as away:
            await self._turn_alone(again, left * WAITING_SHARE, away)
            return
        if isinstance(held, Grant):
            grant.slot = held.slot

    def quiet(self, line: Line, seconds: float) -> None:
        """The provider asks for `seconds` without questions (429 with retry-after): nobody of any replica is granted a turn."""
        self._send(self._scripts.observe.call(line.name, int(seconds * 1000) + 1, 0, 0, -1))

    def told(self, line: Line, headroom: Headroom) -> None:
        """What the provider's headers say of its limits; sent on only when it changes something."""
        limits = self.policies.line(line)
        tokens = 0 if limits.tokens else headroom.tokens_limit or 0
        requests = 0 if limits.requests_per_day else headroom.requests_limit or 0
        # Groq: `requests` speaks of the day. Near its end others' use of the same key matters.
        used = -1
        whole = limits.requests_per_day or headroom.requests_limit or 0
        if headroom.requests is not None and whole and headroom.requests < whole * 0.1:
            used = max(0, whole - headroom.requests)
        if (tokens, requests) != self._observed.get(line, (0, 0)) or used >= 0:
            self._observed[line] = (tokens, requests)
            self._send(self._scripts.observe.call(line.name, 0, tokens, requests, used))

    # after

    def settle(
        self,
        grant: Grant,
        usage: Usage,
        *,
        sealed: bytes = b"",
        done: Callable[[str], None] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """It was answered: count what it took, keep the answer (`sealed`, for the question's `ttl`), tell who waits for it.
        Never waits, never raises. `done` hears the generation that it was counted in. Without `sealed` the answer was of no
        use: who waits for it is told `error` (see `release`), or asks himself.
        """
        taken = usage.input_tokens + usage.output_tokens
        self._end(
            grant,
            b"answered",
            taken,
            nano(usage.cost_usd),
            taken - usage.cached_input_tokens,
            sealed,
            b"A" + sealed if sealed else _told(error),
            done,
        )

    def release(self, grant: Grant, error: BaseException | None = None, *, sent: bool = True) -> None:
        """It was not answered: what was reserved comes back. `error` is told to the replicas that wait for the same answer,
        unless it was this caller's own affair. `sent` False: the provider was not even asked. Never waits, never raises.
        """
        if grant.over:
            return
        self._end(
            grant, b"failed" if sent else b"unsent", 0, 0, grant.question.tokens if sent else 0, b"", _told(error), None
        )

    async def drained(self) -> None:
        """Return when Redis has heard of everything that was settled and released before. Raises RedisAway."""
        await self._wire.run(("PING",))

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
            raise _redis_away(away) from away
        except RedisError as error:
            log("llm_gateway").warning("unsettled_lost", error=str(error)[:80], count=len(unsettled))

    # one trip

    async def _admitted(  # noqa: C901 -- one branch a verdict of the script
        self, question: Question, deadline: float, left: float, *, quotas: bool = True
    ) -> Hit | Grant | bytes:
        if not self._wire.there:
            await self._wire.ready()
        if self._heart is None:
            self._heart = asyncio.create_task(self._beat(), name="llm-alive")
        self._number += 1
        id_ = f"{self.replica}:{self._number}"
        name = question.digest.hex() if question.digest is not None else ""
        patience = left * WAITING_SHARE
        packed = self._packed(question, id_, name, patience, left, quotas=quotas)
        self._turns[id_] = None
        follow = self._follow(name) if name else None
        try:
            try:
                answer = await self._asked(packed)
            except asyncio.CancelledError:
                self._undo(question, id_, name, quotas=quotas)
                raise
            verdict = answer[0]
            if verdict == b"HIT":
                return Hit(answer[1])
            if verdict == b"FOLLOW":
                assert follow is not None
                return await self._followed(follow, name, answer[1].decode(), deadline)
            if verdict == b"GRANTED" or verdict == b"QUEUED":  # noqa: PLR1714 -- cheaper than a set
                grant = self._granted(question, id_, name, answer, quotas=quotas)
                if answer[7] >= 0:
                    self._look_in(question.line, answer[7])
                if verdict == b"QUEUED":
                    await self._turn(grant, patience)
                return grant
            if verdict == b"LATE":
                wait = int(answer[1]) / 1000
                what = {
                    b"day": "the provider's requests or tokens per day",
                    b"tenant": "the tenant's requests or tokens per minute",
                }
                raise RateLimited(what.get(answer[2], "what the model's provider allows per minute"), _in(wait))
            if verdict == b"SPENT":
                raise QuotaSpent(_quota(answer[1].decode(), answer[2].decode()), _in(float(answer[3])))
            return b"REBUILD"
        finally:
            del self._turns[id_]
            if follow is not None:
                self._unfollow(follow, name)

    def _undo(self, question: Question, id_: str, name: str, *, quotas: bool) -> None:
        """The caller left before Redis answered: whatever was granted comes back."""
        day, month = _today() if quotas else ("", "")
        self.release(Grant(question, id_, "", day, month, -1, (), name), sent=False)

    async def _asked(self, packed: bytes) -> list[Any]:
        try:
            return await self._wire.send(packed)  # type: ignore[no-any-return]  # the script's own answer
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise RedisAway(f"Redis refused a command ({str(error)[:80]})") from error
        await self._wire.load()
        try:
            return await self._wire.send(packed)  # type: ignore[no-any-return]  # as above
        except RedisError as error:
            raise RedisAway(f"Redis refused a command ({str(error)[:80]})") from error

    def _granted(self, question: Question, id_: str, name: str, answer: list[Any], *, quotas: bool) -> Grant:
        warnings: tuple[str, ...] = ()
        if answer[4]:
            warnings = tuple(answer[4].decode().split())
            self._warn(question.tenant, warnings)
        if int(answer[5]) >= 0:
            self._alone.heard(question.tenant, int(answer[5]))
        return Grant(
            question, id_, answer[1].decode(), str(answer[2]) if quotas else "", str(answer[3]) if quotas else "",
            int(answer[6]), warnings, name,
        )  # fmt: skip

    async def _turn(self, grant: Grant, patience: float) -> None:
        """Sleep until told. Gives everything back when that does not come in time, or the caller leaves."""
        early = self._turns[grant.id]
        if isinstance(early, int):
            grant.slot = early
            return
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._turns[grant.id] = turn
        metrics.MODEL_WAITING.inc()
        try:
            async with asyncio.timeout(patience):
                grant.slot = await turn
        except TimeoutError:
            self.release(grant, sent=False)
            raise RateLimited(
                "what the model's provider or the tenant's limits allow per minute", _in(patience)
            ) from None
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                grant.slot = turn.result()
            self.release(grant, sent=False)
            raise
        finally:
            metrics.MODEL_WAITING.dec()

    def _packed(self, question: Question, id_: str, name: str, patience: float, left: float, *, quotas: bool) -> bytes:
        tenant = question.tenant
        key = (tenant, question.user, question.line)
        tail = self._tails.get(key)
        if tail is None or tail[0] != self.policies.version:
            if len(self._tails) > _MOST_UNSETTLED:
                self._tails.clear()
            tail = self._tails[key] = (self.policies.version, self._tail(tenant, question.user, question.line))
        entry = f"{{{tenant}}}:{name}" if name and question.ttl else ""
        return b"".join(
            (
                self._admit_head,
                _bulk(
                    id_, tenant, pseudonym(tenant, question.user), _LANES[question.lane], entry, name,
                    b"0" if question.refresh else b"1", question.tokens, question.most_tokens, question.most_nano,
                    int(patience * 1000), int(left * 1000) + self._grace_ms, b"1" if quotas else b"0",
                ),
                tail[1],
            )
        )  # fmt: skip

    def _tail(self, tenant: str, user: str, line: Line) -> bytes:
        policy, limits = self.policies.of(tenant), self.policies.line(line)
        quotas = (policy.user(user), policy.day, policy.month)
        amounts = [part for each in quotas for part in (each.requests, each.tokens, nano(each.dollars))]
        return _bulk(
            line.name, line.key or "-", *amounts, str(self.policies.soft),
            policy.requests_per_minute, policy.tokens_per_minute, str(policy.weight), self.policies.window_ms,
            limits.requests, limits.tokens, limits.requests_per_day, limits.tokens_per_day, str(self.policies.burst),
            limits.key_requests, limits.key_tokens,
        )  # fmt: skip

    def _end(  # noqa: PLR0917 -- the script's arguments
        self,
        grant: Grant,
        ended: bytes,
        tokens: int,
        cost: int,
        window_tokens: int,
        sealed: bytes,
        told: bytes,
        done: Callable[[str], None] | None,
    ) -> None:
        grant.over = True
        question, line = grant.question, grant.question.line
        limits = self.policies.line(line)
        tenant = question.tenant
        policy = self.policies.of(tenant)
        entry = f"{{{tenant}}}:{grant.flight}" if grant.flight else ""
        packed = b"".join(
            (
                self._settle_head,
                _bulk(
                    grant.id, tenant, pseudonym(tenant, question.user), grant.day, grant.month,
                    question.most_tokens, question.most_nano, ended, tokens, cost,
                    grant.slot, question.tokens, window_tokens, line.name, line.key or "-",
                    self.policies.window_ms, str(self.policies.burst), limits.requests, limits.tokens,
                    limits.key_requests, limits.key_tokens, entry, sealed, question.ttl, grant.flight, told,
                    policy.requests_per_minute, policy.tokens_per_minute,
                ),
            )
        )  # fmt: skip
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

    async def _reloaded(self, packed: bytes, done: Callable[[str], None] | None) -> None:
        try:
            await self._wire.load()
            generation = await self._wire.send(packed)
        except (RedisAway, RedisError):
            self._unsettled.append((packed, done))
            return
        if done is not None:
            done(generation.decode())

    def _send(self, command: Command) -> None:
        """Say it and forget it; what is lost with Redis matters no more when it is back."""
        self._wire.send(pack(command))

    # flights of other replicas

    def _follow(self, name: str) -> _Shared:
        shared = self._follows.get(name)
        if shared is None:
            shared = self._follows[name] = _Shared()
        shared.waiting += 1
        return shared

    def _unfollow(self, shared: _Shared, name: str) -> None:
        shared.waiting -= 1
        if shared.waiting == 0 and self._follows.get(name) is shared:
            del self._follows[name]
            self._holders.pop(name, None)

    async def _followed(self, follow: _Shared, name: str, holder: str, deadline: float) -> Hit | bytes:
        self._holders[name] = holder
        try:
            async with asyncio.timeout_at(deadline):
                told = await asyncio.shield(follow.future)
        except TimeoutError:
            raise ModelUnavailable(
                "TIMEOUT", "another process was asking the same, and was not answered in time"
            ) from None
        if told is None:
            raise RedisAway("Redis went away while another replica was asked")
        if told[:1] == b"A":
            return Hit(told[1:], joined=True)
        if told[:1] == b"E":
            raise _error(told[1:])
        return b"AGAIN"

    # what Redis tells by itself

    def _pushed(self, channel: bytes, message: bytes) -> None:
        if channel.endswith(b":breakers"):
            self.breakers.heard(message)
            return
        if message[:1] == b"G":
            parts = message.decode().split()
            for id_, slot in zip(parts[1::2], parts[2::2], strict=True):
                turn = self._turns.get(id_, 0)
                if turn is None:
                    self._turns[id_] = int(slot)
                elif isinstance(turn, asyncio.Future) and not turn.done():
                    turn.set_result(int(slot))
            return
        _, name, told = message.split(b" ", 2)
        self._landed(name.decode(), told)

    def _landed(self, name: str, told: bytes | None) -> None:
        follow = self._follows.pop(name, None)
        self._holders.pop(name, None)
        if follow is not None and not follow.future.done():
            follow.future.set_result(told)

    def _changed(self, there: bool) -> None:
        metrics.MODEL_SHARED.set(there)
        if there:
            self._alone.returned()
            self._observed.clear()
            if self._unsettled:
                self._later(self._caught_up())
            if self._was_away:
                log("llm_gateway").info("limits_shared")
            return
        self._was_away = True
        log("llm_gateway").warning("limits_local", why="Redis does not answer", share=f"1/{self._alone.replicas}")
        for turn in self._turns.values():
            if isinstance(turn, asyncio.Future) and not turn.done():
                turn.set_exception(RedisAway("Redis went away while a turn was waited for"))
        for name in list(self._holders):
            self._landed(name, None)
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def _caught_up(self) -> None:
        try:
            await self.catch_up({})
        except ModelUnavailable:
            return

    def _look_in(self, line: Line, ms: int) -> None:
        """Somebody waits: look again when it is time, as Redis said."""
        loop = asyncio.get_running_loop()
        at = loop.time() + ms / 1000
        name = line.name
        timer = self._timers.get(name)
        if timer is not None:
            if timer[0] <= at:
                return
            timer[1].cancel()
        self._timers[name] = (at, loop.call_at(at, self._tick, line))

    def _tick(self, line: Line) -> None:
        self._timers.pop(line.name, None)
        limits = self.policies.line(line)
        command = self._scripts.tick.call(
            self.replica, line.name, line.key or "-", limits.requests, limits.tokens, limits.requests_per_day,
            limits.tokens_per_day, str(self.policies.burst), self.policies.window_ms, limits.key_requests, limits.key_tokens,
        )  # fmt: skip

        def told(answer: asyncio.Future[int]) -> None:
            if not answer.cancelled() and answer.exception() is None and answer.result() >= 0:
                self._look_in(line, answer.result())

        self._wire.send(pack(command)).add_done_callback(told)

    async def _beat(self) -> None:
        """The sign of life. Who waits for a replica that gives none any more asks himself."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            holders = sorted(set(self._holders.values()))
            try:
                dead = await self._wire.send(pack(self._scripts.alive.call(self.replica, _DEAD_AFTER_MS, *holders)))
            except (RedisAway, RedisError):
                continue
            gone = {each.decode() for each in dead}
            for name, holder in list(self._holders.items()):
                if holder in gone:
                    self._landed(name, b"N")

    # without Redis

    async def _enter_alone(self, question: Question, left: float, away: RedisAway) -> Grant:
        if self._closed_quotas:
            raise _redis_away(away) from away
        spent = self._alone.spend(question)
        if spent is not None:
            raise ModelUnavailable(
                "REDIS_AWAY",
                f"{away}, and this process' share of the tenant's quota ({spent}) is spent. Look at REDIS_URL",
                2.0,
            ) from away
        await self._turn_alone(question, left * WAITING_SHARE, away)
        self._number += 1
        # The day is known by this process' clock alone; Redis counts it whole when it is settled.
        day, month = _today()
        return Grant(question, f"{self.replica}:{self._number}", "", day, month, _WITHOUT_REDIS)

    async def _turn_alone(self, question: Question, patience: float, away: RedisAway) -> None:
        wait = self._alone.wait(question, patience)
        if wait > patience:
            raise RateLimited("this process' share of the limits, as Redis does not answer", _in(wait)) from away
        if wait > 0:
            await asyncio.sleep(wait)

    async def _rebuild(self, tenant: str) -> None:
        task = self._rebuilding.get(tenant)
        if task is None:
            task = self._rebuilding[tenant] = asyncio.create_task(self._restore(tenant))
            task.add_done_callback(lambda _: self._rebuilding.pop(tenant))
        await asyncio.shield(task)

    async def _restore(self, tenant: str) -> None:
        counted = await self._counted(tenant)
        users = [part for user, amount in counted.users.items() if user for part in (pseudonym(tenant, user), *amount)]
        command = self._scripts.restore.call(
            tenant,
            secrets.token_hex(8),
            (counted.day - _EPOCH).days,
            *_sum(counted.users.values()),
            *counted.month,
            *users,
        )
        try:
            await self._wire.run(command)
        except RedisAway as away:
            raise _redis_away(away) from away

    def _warn(self, tenant: str, warnings: tuple[str, ...]) -> None:
        today = datetime.now(UTC).date().isoformat()
        for quota in warnings:
            metrics.MODEL_QUOTA_WARNINGS.labels(quota).inc()
            if (tenant, quota, today) not in self._warned:
                if len(self._warned) > _MOST_UNSETTLED:
                    self._warned.clear()
                self._warned.add((tenant, quota, today))
                log("llm_gateway").warning("quota_nearly_spent", tenant=tenant, quota=quota, share=self.policies.soft)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _head(digest: str, args: int) -> bytes:
    return b"*%d\r\n" % (args + 3) + _bulk("EVALSHA", digest, 0)


def _sum(amounts: object) -> Amount:
    requests = tokens = cost = 0
    for one, two, three in amounts:  # type: ignore[attr-defined]  # an iterable of amounts
        requests, tokens, cost = requests + one, tokens + two, cost + three
    return requests, tokens, cost


def _quota(scope: str, what: str) -> str:
    whose = {"user": "per day of this user", "day": "per day of this tenant", "month": "per month of this tenant"}
    return f"{what} {whose[scope]}"


def _told(error: BaseException | None) -> bytes:
    """What others who wait for the same answer are told of an error: itself, or nothing if it was the asker's own affair."""
    match error:
        case ModelUnavailable() if error.cause not in {"TIMEOUT", "STOPPING", "REDIS_AWAY"}:
            said = ["ModelUnavailable", error.cause, str(error).partition(": ")[2], error.retry_after]
        case OutputInvalid():
            said = ["OutputInvalid", error.prompt, error.outcome, error.detail]
        case InputRefused():
            said = ["InputRefused", str(error)]
        case _:
            return b"N"
    return b"E" + orjson.dumps(said)


def _error(told: bytes) -> GatewayError:
    kind, *said = orjson.loads(told)
    if kind == "ModelUnavailable":
        return ModelUnavailable(*said)
    if kind == "OutputInvalid":
        return OutputInvalid(*said)
    return InputRefused(*said)


def _today() -> tuple[str, str]:
    """Day since 1970 and year * 12 + month, as the scripts count them."""
    now = datetime.now(UTC)
    return str((now.date() - _EPOCH).days), str(now.year * 12 + now.month - 1)


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _redis_away(away: RedisAway) -> ModelUnavailable:
    return ModelUnavailable("REDIS_AWAY", f"{away}: limits cannot be kept without it. Look at REDIS_URL", 2.0)
