"""Limits and quotas of one process while Redis is away: its share of every limit, as if all replicas were as busy.

Law: conservative: never more than 1/replicas of a limit, and of a quota or of a provider's day never more than 1/replicas of
what was left when it was last heard (a tenth of such a share of the whole where nothing was heard today), however often Redis
goes and comes until it is heard anew. Who would have to wait longer than his patience is told so at once; whose share is used
up is to come again soon, as Redis may be back. What is taken here is counted by its settlement when Redis is back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.redis_wire import RedisAway
from llm_gateway.policy import Amounts, Policies, nano
from llm_gateway.prompt import ModelUnavailable, RateLimited
from llm_gateway.question import Line, Question, today
from llm_gateway.refusals import moment, spent
from llm_gateway.told import DAY_SECONDS, NOTHING, Learned

_MOST = 10_000
"""Tenants and users that are remembered."""
_UNKNOWN_SHARE = 0.1
_LANE_KEEPS = {"interactive": 0.0, "live": 0.1, "bulk": 0.5}
"""Of a bucket, what a lane leaves to those before it."""
_SCOPES = ("day", "month", "user")
_WHAT = ("requests", "tokens", "dollars")
_SOON = 2.0
"""Seconds until whose share is used up may ask again."""
_PAUSE = 60.0
"""The longest time between two questions of a day that the provider calls spent; see `window.lua`."""
_UNHEARD = ((0, None),) * 3

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


@dataclass(slots=True)
class _Since:
    """Of a tenant's or user's quota, since Redis last said how much of it is taken."""

    period: int
    """Which day, or month."""
    alone: list[int]
    """Requests, tokens, nanodollars that this process took while Redis was away; what is under way at the most it may take."""
    least: list[int]
    """As many are taken of the whole, at least: a refusal showed it."""


@dataclass(slots=True)
class _Share:
    """This process' share of a provider's day."""

    day: int
    whole: float
    """It is a share of this."""
    left: float
    earlier: bool = False
    """From an earlier absence: since then questions of all replicas may have been asked."""


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
        self._since: OrderedDict[tuple[str, str], dict[str, _Since]] = OrderedDict()
        """By tenant and user ('' for the tenant's own), by scope."""
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._days: dict[tuple[str, str], _Share] = {}
        self._tries: dict[str, float] = {}
        """By line, when the next question may look whether a day that is spent has room again."""

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
            if self._since:
                self._since.pop((question.tenant, question.user), None)
        if self._since:
            self._since.pop((question.tenant, ""), None)

    def ended(self, question: Question, scope: str, what: str) -> None:
        """Redis said that a quota has no room for this question: a smaller one may still fit."""
        index, (day, month) = _WHAT.index(what), map(int, today())
        limit = _limits(self._quota(question, scope))[index]
        least = self._since_heard(question, scope, month if scope == "month" else day).least
        least[index] = max(least[index], limit - _amounts(question)[index] + 1)

    def returned(self) -> None:
        """Redis is there again. What was taken of quotas and days stays known until more is heard of them."""
        self._buckets.clear()
        for share in self._days.values():
            share.earlier = True

    def quota(self, question: Question, away: RedisAway) -> tuple[list[int], ...]:
        """Count it, at the most it may take, against the local share of its quotas; what it is counted in is for `settled`. Raises
        ModelUnavailable when that is spent, QuotaSpent when the quota itself has no room for it.
        """
        day, month = map(int, today())
        added, counted = _amounts(question), []
        for scope in _SCOPES if question.user else _SCOPES[:2]:
            limits = _limits(self._quota(question, scope))
            if not any(limits):
                continue
            mine = scope == "user"
            told = self._used_by.get((question.tenant, question.user)) if mine else self._used.get(question.tenant)
            used = _read(told, scope, day, month)
            since = self._since_heard(question, scope, month if scope == "month" else day)
            for index, limit in enumerate(limits):
                if not limit:
                    continue
                said, with_its_own = used[index]
                left = limit - max(said, since.least[index])
                if added[index] > left:
                    raise spent(scope, _WHAT[index]) from away
                # What is merely reserved may come back, and is nobody's to take until then.
                share = min(left, limit * _UNKNOWN_SHARE if with_its_own is None else limit - with_its_own)
                if since.alone[index] + added[index] > share / self.replicas:
                    raise _used_up(f"the tenant's quota ({scope}:{_WHAT[index]})", away) from away
            counted.append(since.alone)
        for alone in counted:
            alone[:] = (was + more for was, more in zip(alone, added, strict=True))
        return tuple(counted)

    async def turn(self, question: Question, patience: float, away: RedisAway) -> None:
        """Sleep until its turn; raises RateLimited at once when that would take longer than `patience` seconds, ModelUnavailable
        when this process' share of the provider's day is used up.
        """
        wait = self.wait(question, patience)
        if wait == math.inf and not question.another:
            raise _used_up(f"the day of {question.line.provider}/{question.line.model}", away) from away
        if wait > patience:
            # Another model has a day of its own: this one is passed over.
            until = moment(_SOON if wait == math.inf else wait)
            raise RateLimited("this process' share of the limits, as Redis does not answer", until) from away
        if wait > 0:
            await asyncio.sleep(wait)

    def wait(self, question: Question, patience: float) -> float:
        """Seconds until its turn, which is taken if that is within `patience`; infinite: its share of the day is used up."""
        now, line, tenant = self._clock(), self._policies.line(question.line), self._policies.of(question.tenant)
        burst = self._policies.burst
        tokens_told, day_told, left, said_on = self._learned.get(question.line, NOTHING)
        day = int(time.time() // DAY_SECONDS)
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
        # The provider counts what all who use the key took: held against a limit of ours, too.
        requests = min(line.requests_per_day or day_told, day_told or line.requests_per_day)
        left = max(0, left - day_told + requests) if day_told and left >= 0 and said_on == day else -1
        probes = left == 0 and requests == day_told
        if probes:
            # Its day may be another than ours: one question goes now and then, and hears how it stands.
            wait = max(wait, self._tries.get(question.line.name, now) - now)
        shares = [
            (self._share((kind, name), day, limit * _UNKNOWN_SHARE if known < 0 else known), need)
            for kind, name, limit, known, need in (
                ("line:r", question.line.name, 0 if probes else requests, left, 1),
                ("line:t", question.line.name, line.tokens_per_day, -1, question.tokens),
                ("key:r", question.line.key, line.key_requests_per_day, -1, 1),
                ("key:t", question.line.key, line.key_tokens_per_day, -1, question.tokens),
            )
            if limit
        ]
        if any(of_day.left < need for of_day, need in shares):
            return math.inf
        if wait <= patience:
            for bucket, need in taken:
                bucket.level -= need
            for of_day, need in shares:
                of_day.left -= need
            if probes:
                self._tries[question.line.name] = now + wait + min(_PAUSE, DAY_SECONDS / day_told)
        return wait

    def _quota(self, question: Question, scope: str) -> Amounts:
        policy = self._policies.of(question.tenant)
        return policy.day if scope == "day" else policy.month if scope == "month" else policy.user(question.user)

    def _since_heard(self, question: Question, scope: str, period: int) -> _Since:
        of = self._since.setdefault((question.tenant, question.user if scope == "user" else ""), {})
        if len(self._since) > _MOST:
            self._since.popitem(last=False)
        if scope not in of or of[scope].period != period:
            of[scope] = _Since(period, [0, 0, 0], [0, 0, 0])
        return of[scope]

    def _share(self, name: tuple[str, str], day: int, whole: float) -> _Share:
        """The share of what is left of the day, `whole`."""
        left = whole / self.replicas
        found = self._days.get(name)
        if found is None or found.day != day or (found.earlier and found.whole != whole):
            found = self._days[name] = _Share(day, whole, left)
        elif found.whole != whole:
            # What is more is shared; what is less, this process may have taken itself.
            found.left = min(left, found.left + max(0.0, whole - found.whole) / self.replicas)
            found.whole = whole
        found.earlier = False
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


def settled(question: Question, counted: tuple[list[int], ...], took: _Amounts = (0, 0, 0)) -> None:
    """It took this in truth; `counted` is what `Alone.quota` returned. Where Redis has spoken since, nobody looks at that any more."""
    for alone in counted:
        alone[:] = (was - most + real for was, most, real in zip(alone, _amounts(question), took, strict=True))


def _used_up(what: str, away: RedisAway) -> ModelUnavailable:
    return ModelUnavailable(
        "REDIS_AWAY", f"{away}, and this process' share of {what} is spent. Look at REDIS_URL", _SOON
    )


def _amounts(question: Question) -> _Amounts:
    return question.requests, question.most_tokens, question.most_nano


def _limits(amounts: Amounts) -> _Amounts:
    return amounts.requests, amounts.tokens, nano(amounts.dollars)


def _read(told: Used | None, scope: str, day: int, month: int) -> Sequence[tuple[int, int | None]]:
    """Of requests, tokens and nanodollars: how many are taken, and how many with what the question that was told so may take."""
    if told is None or (told[2] != month if scope == "month" else told[1] != day):
        return _UNHEARD
    place = 3 * _SCOPES.index(scope)
    parts = told[0].split()[place : place + 3]
    return [(int(part), int(part) + more) for part, more in zip(parts, told[3], strict=False)] or _UNHEARD
