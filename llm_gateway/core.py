"""The gateway's core: limits, quotas, cache and flights of all replicas, in one trip to Redis before a question and one after.

Law: knows `Question`s, neither prompts nor HTTP. Who must wait sleeps until he is told; nobody asks again and again. A
process asks Redis nothing while nothing happens, but for one sign of life a second. Redis away: within its time limit, and
from then on at once, the local share holds (`llm_gateway.alone`). Settling never waits and never fails.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import date
from time import monotonic
from typing import Any

import redis.asyncio

from infra import metrics
from infra.redis_wire import RedisAway, Wire
from infra.settings import Settings, variable
from infra.telemetry import log
from llm_gateway import scripts
from llm_gateway.alone import Alone, settled
from llm_gateway.breakers import Breakers
from llm_gateway.following import DEAD_AFTER_MS, Following, told_of
from llm_gateway.policy import Policies, nano
from llm_gateway.pricing import price_of
from llm_gateway.prompt import ModelUnavailable, QuotaSpent, RateLimited
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import SHORT_WAIT_SECONDS, Grant, Hit, Line, Question, Usage, today
from llm_gateway.refusals import moment, redis_away, refusal
from llm_gateway.settling import Amount, Counted, Settling
from llm_gateway.soft_limits import SoftLimits
from llm_gateway.told import Told
from llm_gateway.trips import P, Trips
from llm_gateway.turns import Turns

GRACE_SECONDS = 30.0
"""A reservation outlives its caller's deadline by this much, so that only a dead process loses one."""
WAITING_SHARE = 0.7
"""Of the time that is left, what may go into waiting for a turn: the model needs some, too."""
UNPRICED_SECONDS = 3_600.0
"""Until a model without a price is looked at again: somebody must say one, and start anew."""
_WITHOUT_REDIS = -2
"""Slot of what was granted while Redis was away: its windows hear of it when it is settled."""


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
        self._closed_quotas = settings.quotas_without_redis == "closed"
        self._scripts = scripts.load()
        self._wire = Wire(
            redis,
            self._scripts.all(),
            greeting=(
                ("SUBSCRIBE", f"{P}replica:{self.replica}", f"{P}breakers"),
                ("SET", f"{P}alive:{self.replica}", 1, "PX", DEAD_AFTER_MS),
            ),
            push=self._pushed,
            changed=self._changed,
        )
        self._trips = Trips(self._scripts, policies, self.replica, grace_seconds)
        self._turns = Turns(self._wire, self._trips)
        self._following = Following(self._wire, self._scripts, self.replica)
        self._settling = Settling(self._wire, self._scripts, counted)
        self._soft = SoftLimits(policies.soft)
        self.breakers = Breakers(self._wire, self._scripts.breaker, self.replica)
        self._number = 0
        self._told = Told(self._wire, self._scripts.observe, policies)
        self._alone = Alone(policies, self._told.learned, settings.gateway_replicas, monotonic)
        self._heart: asyncio.Task[None] | None = None
        self._was_away = False

    @property
    def shared(self) -> bool:
        """Redis is there, as far as is known: limits are shared by all replicas."""
        return self._wire.there

    @property
    def waiting(self) -> int:
        """Questions of this process that wait for their turn."""
        return self._turns.waiting

    async def connect(self) -> bool:
        """Look for Redis now instead of with the first question; whether it is there."""
        try:
            await self._wire.ready()
        except RedisAway:
            return False
        return True

    async def close(self) -> None:
        """Send what is settled, hang up. May be called twice."""
        self._turns.rest()
        await self._settling.ended()
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
            self._heart = None
        await self._wire.close()

    # before

    async def enter(self, question: Question, deadline: float, *, hold_seconds: float = 0.0) -> Hit | Grant:
        """The answer, or the right to ask now; waits for the answer of another replica that is asking the same, or for its
        turn, for at most WAITING_SHARE of the time until `deadline` (a moment of `time.monotonic`, the clock of
        asyncio's loop and of uvloop's), and less where the question says that another model can be asked. What it reserves lives
        `hold_seconds` longer: for a question whose answer comes later, by another process perhaps.

        Raises QuotaSpent, RateLimited (no turn in time; told at once where that is known), ModelUnavailable; and what another
        replica's question ended with, if that was not its own affair. May be called again after any error.
        """
        if not question.most_nano and question.most_tokens and not question.priced:
            self.priced(question.tenant, question.user, question.line)
        for _ in range(8):
            left = max(0.0, deadline - monotonic())
            try:
                held = await self._admitted(question, deadline, left, hold_seconds=hold_seconds)
            except RedisAway as away:
                return await self._enter_alone(question, left, away)
            if held is not None:
                return held
            # What another replica asked ended without an answer for us, or the tenant has just been counted: once more.
        raise ModelUnavailable(
            "REDIS_AWAY", "Redis loses what is written to it; look at its memory limit and eviction policy", 5.0
        )

    async def again(self, grant: Grant, deadline: float) -> None:
        """Another turn for a question whose attempt failed: each attempt counts toward the limits. Raises RateLimited and
        ModelUnavailable; the grant is still to be released.
        """
        left = max(0.0, deadline - monotonic())
        again = replace(grant.question, most_tokens=0, most_nano=0, digest=None, key=None)
        try:
            held = await self._admitted(again, deadline, left, quotas=False)
        except RedisAway as away:
            await self._alone.turn(again, _patience(again, left), away)
            return
        if isinstance(held, Grant):
            grant.slot = held.slot

    def quiet(self, line: Line, seconds: float) -> None:
        """See `Told.quiet`."""
        self._told.quiet(line, seconds)

    def told(self, line: Line, headroom: Headroom, slot: int = -1) -> None:
        """See `Told.headroom`."""
        self._told.headroom(line, headroom, slot)

    def heard(self, grant: Grant, headroom: Headroom | None, quiet: float) -> None:
        """All that one answer said of its limits; see `llm_gateway.attempts`."""
        line = grant.question.line
        if quiet > 0:
            self.quiet(line, quiet)
        if headroom is not None:
            self.told(line, headroom, grant.slot)

    # after

    def settle(
        self,
        grant: Grant,
        usage: Usage,
        *,
        sealed: bytes = b"",
        done: Callable[[str], None] | None = None,
        error: BaseException | None = None,
        answers: int = 1,
        once: str = "",
    ) -> None:
        """It was answered: count what it took, keep the answer (`sealed`, for the question's `ttl`), tell who waits for it.
        Never waits, never raises. `done` hears the generation that it was counted in. Without `sealed` the answer was of no
        use: who waits for it is told `error` (see `release`), or asks himself. `answers`: how many a question of many requests got.
        `once`: a name; what is settled under it is counted once, however often it is settled.
        """
        grant.over = True
        taken = usage.input_tokens + usage.output_tokens
        if grant.alone:
            settled(grant.question, grant.alone, (answers if usage.calls else 0, taken, nano(usage.cost_usd)))
        told = b"A" + sealed if sealed else told_of(error, another=grant.question.another)
        counted = taken - usage.cached_input_tokens
        if grant.unheard:
            # Whoever hears nothing does not know that nothing was said.
            counted = max(counted, grant.question.tokens)
        ended = b"answered" if usage.calls else b"unheard"
        packed = self._trips.settle(
            grant, ended, taken, nano(usage.cost_usd), counted, sealed, told, answers=answers, once=once
        )
        self._settling.send(grant, packed, done)

    def give_back(self, grant: Grant, error: BaseException) -> None:
        """`release`, for whoever does not know whether the provider was asked: a closed circuit is found before that."""
        self.release(grant, error, sent=not (isinstance(error, ModelUnavailable) and error.cause == "CIRCUIT_OPEN"))

    def release(self, grant: Grant, error: BaseException | None = None, *, sent: bool = True) -> None:
        """It was not answered: what was reserved comes back. `error` is told to the replicas that wait for the same answer,
        unless it was this caller's own affair. `sent` False: the provider was not even asked. Never waits, never raises.
        """
        if grant.over:
            return
        grant.over = True
        if grant.alone:
            settled(grant.question, grant.alone)
        ended, tokens = (b"failed", grant.question.tokens) if sent else (b"unsent", 0)
        told = told_of(error, another=grant.question.another)
        self._settling.send(grant, self._trips.settle(grant, ended, 0, 0, tokens, b"", told), None)

    async def drained(self) -> None:
        """Return when Redis has heard of everything that was settled and released before. Raises RedisAway."""
        await self._wire.run(("PING",))

    async def catch_up(self, counted: Mapping[tuple[str, str, date], Mapping[str, Amount]]) -> None:
        """See `Settling.catch_up`."""
        await self._settling.catch_up(counted)

    def priced(self, tenant: str, user: str, line: Line) -> None:
        """Raises QuotaSpent where dollars are limited and nobody knows what the model costs: it would cost nothing."""
        if self.policies.of(tenant).in_dollars(user) and price_of(line.provider, line.model) is None:
            raise QuotaSpent(
                f"dollars are limited, and {line.provider}/{line.model} has no price: say one in [prices] of "
                f"{variable('routes')}",
                moment(UNPRICED_SECONDS),
            )

    # one trip

    async def _admitted(  # noqa: C901, PLR0912 -- one branch a verdict of the script
        self, question: Question, deadline: float, left: float, *, quotas: bool = True, hold_seconds: float = 0.0
    ) -> Hit | Grant | None:
        """None: ask once more."""
        if not self._wire.there:
            await self._wire.ready()
        if self._heart is None:
            self._heart = asyncio.create_task(self._following.beat(), name="llm-alive")
        self._number += 1
        id_ = f"{self.replica}:{self._number}"
        name = question.digest.hex() if question.digest is not None else ""
        patience = _patience(question, left)
        packed = self._trips.admit(question, id_, name, patience, left + hold_seconds, quotas=quotas)
        self._turns.expect(id_)
        follow = self._following.follow(name) if name else None
        try:
            try:
                answer: list[Any] = await self._wire.evaluate(packed)
            except asyncio.CancelledError:
                # The caller left before Redis answered: whatever was granted comes back.
                day, month = today() if quotas else ("", "")
                self.release(Grant(question, id_, "", day, month, -1, (), name), sent=False)
                raise
            verdict = answer[0]
            if verdict == b"HIT":
                return Hit(answer[1])
            if verdict == b"FOLLOW":
                assert follow is not None
                return await self._following.wait(follow, name, answer[1].decode(), deadline)
            if verdict == b"GRANTED" or verdict == b"QUEUED":  # noqa: PLR1714 -- cheaper than a set
                grant = self._granted(question, id_, name, answer, quotas=quotas)
                if answer[7] >= 0:
                    self._turns.look_in(question.line, answer[7])
                if verdict == b"QUEUED":
                    await self._turn(grant, patience)
                return grant
        finally:
            self._turns.forget(id_)
            if follow is not None:
                self._following.unfollow(follow, name)
        if verdict == b"REBUILD":
            await self._settling.rebuild(question.tenant)
            return None
        if verdict == b"LATE" and answer[2] == b"tenant" and question.another and not question.own_wait:
            question.own_wait = True
            return await self._admitted(question, deadline, left, quotas=quotas, hold_seconds=hold_seconds)
        if verdict == b"SPENT":
            self._alone.ended(question, answer[1].decode(), answer[2].decode())
        raise refusal(answer)

    def _granted(self, question: Question, id_: str, name: str, answer: list[Any], *, quotas: bool) -> Grant:
        warnings = tuple(answer[4].decode().split())
        if warnings:
            self._soft.passed(question.tenant, warnings)
        if answer[5]:
            self._alone.heard(question, answer[5], answer[2], answer[3])
        return Grant(
            question, id_, answer[1].decode(), str(answer[2]) if quotas else "", str(answer[3]) if quotas else "",
            int(answer[6]), warnings, name,
        )  # fmt: skip

    async def _turn(self, grant: Grant, patience: float) -> None:
        """Sleep until told. Gives everything back when that does not come in time, or the caller leaves."""
        try:
            grant.slot = await self._turns.wait(grant.id, patience)
        except BaseException as error:
            grant.slot = self._turns.slot(grant.id, grant.slot)
            self.release(grant, sent=False)
            if isinstance(error, TimeoutError):
                what = "what the model's provider or the tenant's limits allow per minute"
                raise RateLimited(what, moment(patience)) from None
            raise

    # what Redis tells by itself

    def _pushed(self, channel: bytes, message: bytes) -> None:
        if channel.endswith(b":breakers"):
            self.breakers.heard(message)
        elif message[:1] == b"G":
            self._turns.told(message)
        else:
            self._following.told(message)

    def _changed(self, there: bool) -> None:
        metrics.MODEL_SHARED.set(there)
        if there:
            self._alone.returned()
            self._told.returned()
            self._settling.returned()
            if self._was_away:
                log("llm_gateway").info("limits_shared")
            return
        self._was_away = True
        log("llm_gateway").warning("limits_local", why="Redis does not answer", share=f"1/{self._alone.replicas}")
        self._turns.away()
        self._following.away()

    # without Redis

    async def _enter_alone(self, question: Question, left: float, away: RedisAway) -> Grant:
        if self._closed_quotas:
            raise redis_away(away) from away
        counted = self._alone.quota(question, away)
        try:
            await self._alone.turn(question, _patience(question, left), away)
        except BaseException:
            settled(question, counted)
            raise
        self._number += 1
        # The day is known by this process' clock alone; Redis counts it whole when it is settled.
        day, month = today()
        return Grant(question, f"{self.replica}:{self._number}", "", day, month, _WITHOUT_REDIS, alone=counted)


def _patience(question: Question, left: float) -> float:
    patience = left * WAITING_SHARE
    return min(patience, SHORT_WAIT_SECONDS) if question.another and not question.own_wait else patience
