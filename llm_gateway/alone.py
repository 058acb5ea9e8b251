"""Limits and quotas of one process while Redis is away: its share of every limit, as if all replicas were as busy.

Law: conservative: never more than 1/replicas of a limit, and of a quota or of a provider's day never more than 1/replicas of
what was left when it was last heard (a tenth of such a share of the whole where nothing was heard today). Who would have to
wait longer than his patience is told so at once. Nothing that was taken here is remembered when Redis is back; it is counted
by its settlement.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infra.redis_wire import RedisAway
from llm_gateway.policy import Amounts, LinePolicy, Policies, nano
from llm_gateway.prompt import ModelUnavailable, RateLimited
from llm_gateway.question import Line, Question, today
from llm_gateway.refusals import moment, spent
from llm_gateway.told import NOTHING, Learned

_MOST = 10_000
"""Tenants and users that are remembered."""
_UNKNOWN_SHARE = 0.1
_LANE_KEEPS = {"interactive": 0.0, "live": 0.1, "bulk": 0.5}
"""Of a bucket, what a lane leaves to those before it."""
_SCOPES = ("day", "month", "user")
_WHAT = ("requests", "tokens", "dollars")
_DAY_SECONDS = 86_400
_NO_LIMIT = Amounts()
_UNHEARD = (None, None, None)
_ALL = 10**18

_Amounts = tuple[int, int, int]
"""Requests, tokens, nanodollars."""
Used = tuple[bytes, int, int, _Amounts]
"""What `admit.lua` said is taken of quotas, its day and month; and what the question took that was told so."""


@dataclass(slots=True)
class _Bucket:
    rate: float
    """A second."""
    size: float
    level: float
    at: float

    def wait(self, need: float, keep: float, now: float) -> float:
        self.level = min(self.size, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        wanted = min(need, self.size) + keep * max(0.0, self.size - need)
        return max(0.0, (wanted - self.level) / self.rate)


@dataclass(frozen=True, slots=True)
class _Spent:
    scope: str
    what: str
    whole: bool
    """Not this process' share alone: the quota itself."""


class Alone:
    """One per gateway. `clock` in seconds, monotonic."""

    def __init__(
        self, policies: Policies, learned: Mapping[Line, Learned], replicas: int, clock: Callable[[], float]
    ) -> None:
        """`learned`: limits that providers' headers told this process; looked at when needed."""
        self._policies = policies
        self._learned = learned
        self.replicas = replicas
        self._clock = clock
        self._used: OrderedDict[str, Used] = OrderedDict()
        self._used_by: OrderedDict[tuple[str, str], Used] = OrderedDict()
        self._spent: dict[tuple[str, str], list[int]] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._days: dict[tuple[str, str, int], list[float]] = {}

    def heard(self, question: Question, used: bytes, day: int, month: int) -> None:
        """What Redis last said is taken of quotas (see `admit.lua`), by its day and month. Costs next to nothing: it is read
        when Redis is away.
        """
        told = (used, day, month, _amounts(question))
        self._used[question.tenant] = told
        if len(self._used) > _MOST:
            self._used.popitem(last=False)
        if used.count(b" ") > 5:  # the user's stand behind day and month
            self._used_by[question.tenant, question.user] = told
            if len(self._used_by) > _MOST:
                self._used_by.popitem(last=False)

    def ended(self, question: Question, scope: str, what: str) -> None:
        """Redis said that a quota has no room for this question: until it is heard again, for none."""
        day, month = map(int, today())
        taken = [b"-"] * 9
        taken[_SCOPES.index(scope) * 3 + _WHAT.index(what)] = b"%d" % _ALL
        told = (b" ".join(taken), day, month, (0, 0, 0))
        if scope == "user":
            self._used_by[question.tenant, question.user] = told
        else:
            self._used[question.tenant] = told

    def returned(self) -> None:
        """Redis is there again."""
        self._spent.clear()
        self._buckets.clear()
        self._days.clear()

    def quota(self, question: Question, away: RedisAway) -> None:
        """Count it against the local share of its quotas; raises ModelUnavailable when that is spent, QuotaSpent when the quota
        itself is.
        """
        found = self._spend(question)
        if found is None:
            return
        if found.whole:
            raise spent(found.scope, found.what) from away
        raise ModelUnavailable(
            "REDIS_AWAY",
            f"{away}, and this process' share of the tenant's quota ({found.scope}:{found.what}) is spent. Look at REDIS_URL",
            2.0,
        ) from away

    async def turn(self, question: Question, patience: float, away: RedisAway) -> None:
        """Sleep until its turn; raises RateLimited at once when that would take longer than `patience` seconds."""
        wait = self.wait(question, patience)
        if wait > patience:
            raise RateLimited("this process' share of the limits, as Redis does not answer", moment(wait)) from away
        if wait > 0:
            await asyncio.sleep(wait)

    def wait(self, question: Question, patience: float) -> float:
        """Seconds until its turn, which is taken if that is within `patience`."""
        now, line, tenant = self._clock(), self._policies.line(question.line), self._policies.of(question.tenant)
        burst = self._policies.burst
        tokens_told, day_told, left = self._learned.get(question.line, NOTHING)
        wanted = (
            (("line", question.line.name), line.requests, line.tokens or tokens_told, burst),
            (("key", question.line.key), line.key_requests, line.key_tokens, burst),
            (("tenant", question.tenant), tenant.requests_per_minute, tenant.tokens_per_minute, 1.0),
        )
        keep = _LANE_KEEPS[question.lane]
        taken, wait = [], 0.0
        for (kind, name), requests, tokens, share in wanted:
            for what, limit, need in (("r", requests, 1), ("t", tokens, question.tokens)):
                if limit:
                    bucket = self._bucket((f"{kind}:{what}", name), limit, share, now)
                    wait = max(wait, bucket.wait(need, 0.0 if kind == "tenant" else keep, now))
                    taken.append((bucket, need))
        days = self._days_of(question, line, day_told, left)
        if any(day[0] < need for day, need in days):
            wait = max(wait, _DAY_SECONDS - time.time() % _DAY_SECONDS)
        if wait <= patience:
            for bucket, need in taken:
                bucket.level -= need
            for day, need in days:
                day[0] -= need
        return wait

    def _spend(self, question: Question) -> _Spent | None:
        policy, user = self._policies.of(question.tenant), question.user
        day, month = map(int, today())
        whole, mine = self._used.get(question.tenant), self._used_by.get((question.tenant, user))
        taken = self._spent.setdefault((question.tenant, ""), [0, 0, 0])
        used = {
            "day": _read(whole, 0) if whole is not None and whole[1] == day else _UNHEARD,
            "month": _read(whole, 3) if whole is not None and whole[2] == month else _UNHEARD,
            "user": _read(mine, 6) if mine is not None and mine[1] == day else _UNHEARD,
        }
        added = _amounts(question)
        quotas = [("day", policy.day, taken), ("month", policy.month, taken)]
        own = policy.user(user)
        if user and own != _NO_LIMIT:
            quotas.append(("user", own, self._spent.setdefault((question.tenant, user), [0, 0, 0])))
        for scope, amounts, had in quotas:
            for index, limit in enumerate((amounts.requests, amounts.tokens, nano(amounts.dollars))):
                before = used[scope][index]
                left = None if before is None else max(0, limit - before)
                share = (limit * _UNKNOWN_SHARE if left is None else left) / self.replicas
                wanted = had[index] + added[index]
                if limit and wanted > share:
                    return _Spent(scope, _WHAT[index], whole=left is not None and wanted > left)
        for had in {id(had): had for _, _, had in quotas}.values():
            had[:] = (was + more for was, more in zip(had, added, strict=True))
        return None

    def _days_of(
        self, question: Question, line: LinePolicy, requests_told: int, requests_left: int
    ) -> list[tuple[list[float], int]]:
        """What is left of the day of line and key for this process, and what the question takes of it."""
        name, key, day = question.line.name, question.line.key, int(time.time() // _DAY_SECONDS)
        requests = line.requests_per_day or requests_told
        # The provider counts what all who use the key took: held against a limit of ours, too.
        left = max(0, requests - requests_told + requests_left) if requests_told and requests_left >= 0 else -1
        wanted = (
            ("line:r", name, requests, left, 1),
            ("line:t", name, line.tokens_per_day, -1, question.tokens),
            ("key:r", key, line.key_requests_per_day, -1, 1),
            ("key:t", key, line.key_tokens_per_day, -1, question.tokens),
        )
        found = []
        for kind, whose, limit, left, need in wanted:
            if limit:
                share = (limit * _UNKNOWN_SHARE if left < 0 else left) / self.replicas
                found.append((self._days.setdefault((kind, whose, day), [share]), need))
        return found

    def _bucket(self, name: tuple[str, str], limit: int, burst: float, now: float) -> _Bucket:
        found = self._buckets.get(name)
        if found is None:
            seconds = self._policies.window_ms / 1000
            share = limit / self.replicas
            # It begins with what a second brings: nobody knows what was taken just before.
            size = max(1.0, share * burst)
            found = self._buckets[name] = _Bucket(share / seconds, size, min(size, max(1.0, share / seconds)), now)
        return found


def _amounts(question: Question) -> _Amounts:
    return question.requests, question.most_tokens, question.most_nano


def _read(told: Used, place: int) -> tuple[int | None, ...]:
    """Requests, tokens and nanodollars that are taken, from the `place`th number on, with what that question took itself."""
    parts = told[0].split()[place : place + 3]
    return (
        tuple(None if part == b"-" else int(part) + more for part, more in zip(parts, told[3], strict=False))
        or _UNHEARD
    )
