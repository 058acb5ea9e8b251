"""Limits and quotas of one process while Redis is away: its share of every limit, as if all replicas were as busy.

Law: conservative: never more than 1/replicas of a limit, and of a quota never more than 1/replicas of what was left when
Redis was last heard (a tenth of such a share of the whole quota where nothing was heard). Who would have to wait longer
than his patience is told so at once. Nothing here survives Redis' return; what was asked meanwhile is counted by its
settlement.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from infra.redis_wire import RedisAway
from llm_gateway.policy import Policies
from llm_gateway.prompt import ModelUnavailable, RateLimited
from llm_gateway.question import Question
from llm_gateway.refusals import moment

_MOST_TENANTS = 10_000
_UNKNOWN_SHARE = 0.1
_LANE_KEEPS = {"interactive": 0.0, "live": 0.1, "bulk": 0.5}
"""Of a bucket, what a lane leaves to those before it."""


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


class Alone:
    """One per gateway. `clock` in seconds, monotonic."""

    def __init__(self, policies: Policies, replicas: int, clock: Callable[[], float]) -> None:
        self._policies = policies
        self.replicas = replicas
        self._clock = clock
        self._left: OrderedDict[str, int] = OrderedDict()
        self._spent: dict[str, list[float]] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def heard(self, tenant: str, left: int) -> None:
        """What Redis last said is left of a tenant's day, in requests."""
        self._left[tenant] = left
        if len(self._left) > _MOST_TENANTS:
            self._left.popitem(last=False)

    def returned(self) -> None:
        """Redis is there again."""
        self._spent.clear()
        self._buckets.clear()

    def spend(self, question: Question) -> str | None:
        """Count a question against the local share of the tenant's quotas; what is spent (`day:requests`), or None."""
        policy = self._policies.of(question.tenant)
        spent = self._spent.setdefault(question.tenant, [0.0, 0.0, 0.0])
        shares = (
            self._share(question.tenant, policy.day.requests),
            policy.day.tokens * _UNKNOWN_SHARE / self.replicas,
            policy.day.dollars * _UNKNOWN_SHARE / self.replicas,
        )
        hard = (policy.day.requests, policy.day.tokens, policy.day.dollars)
        added = (question.requests, question.most_tokens, question.most_nano / 1e9)
        for name, limit, share, had, more in zip(
            ("requests", "tokens", "dollars"), hard, shares, spent, added, strict=True
        ):
            if limit and had + more > share:
                return f"day:{name}"
        for index, more in enumerate(added):
            spent[index] += more
        return None

    def wait(self, question: Question, patience: float) -> float:
        """Seconds until its turn, which is taken if that is within `patience`."""
        now, line, tenant = self._clock(), self._policies.line(question.line), self._policies.of(question.tenant)
        burst = self._policies.burst
        wanted = (
            (("line", question.line.name), line.requests, line.tokens, burst),
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
        if wait <= patience:
            for bucket, need in taken:
                bucket.level -= need
        return wait

    def quota(self, question: Question, away: RedisAway) -> None:
        """Count it against the local share of the tenant's quotas; raises ModelUnavailable when that is spent."""
        spent = self.spend(question)
        if spent is not None:
            raise ModelUnavailable(
                "REDIS_AWAY",
                f"{away}, and this process' share of the tenant's quota ({spent}) is spent. Look at REDIS_URL",
                2.0,
            ) from away

    async def turn(self, question: Question, patience: float, away: RedisAway) -> None:
        """Sleep until its turn; raises RateLimited at once when that would take longer than `patience` seconds."""
        wait = self.wait(question, patience)
        if wait > patience:
            raise RateLimited("this process' share of the limits, as Redis does not answer", moment(wait)) from away
        if wait > 0:
            await asyncio.sleep(wait)

    def _share(self, tenant: str, requests: int) -> float:
        left = self._left.get(tenant)
        return (requests * _UNKNOWN_SHARE if left is None else left) / self.replicas

    def _bucket(self, name: tuple[str, str], limit: int, burst: float, now: float) -> _Bucket:
        found = self._buckets.get(name)
        if found is None:
            seconds = self._policies.window_ms / 1000
            share = limit / self.replicas
            # It begins with what a second brings: nobody knows what was taken just before.
            size = max(1.0, share * burst)
            found = self._buckets[name] = _Bucket(share / seconds, size, min(size, max(1.0, share / seconds)), now)
        return found
