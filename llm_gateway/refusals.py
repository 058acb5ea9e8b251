"""Why the core lets nobody ask, in the words that callers know.

Law: names limits and quotas, never whose question it was.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from infra.redis_wire import RedisAway
from llm_gateway.prompt import ModelUnavailable, QuotaSpent, RateLimited

_LATE = {
    b"day": "the provider's requests or tokens per day",
    b"tenant": "the tenant's requests or tokens per minute",
    b"told": "the requests of its day that the model's provider has left",
    b"quiet": "the quiet that the model's provider asked for",
}
_WHOSE = {"user": "per day of this user", "day": "per day of this tenant", "month": "per month of this tenant"}


def refusal(answer: list[Any]) -> QuotaSpent:
    """What `admit.lua` meant by LATE or SPENT."""
    if answer[0] == b"LATE":
        what = _LATE.get(answer[2], "what the model's provider allows per minute")
        return RateLimited(what, moment(int(answer[1]) / 1000))
    return QuotaSpent(f"{answer[2].decode()} {_WHOSE[answer[1].decode()]}", moment(float(answer[3])))


def spent(scope: str, what: str) -> QuotaSpent:
    """The same, by this process' clock: `scope` is user, day or month."""
    now = datetime.now(UTC)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    ends = (day.replace(day=1) + timedelta(days=32)).replace(day=1) if scope == "month" else day + timedelta(days=1)
    return QuotaSpent(f"{what} {_WHOSE[scope]}", ends)


def moment(seconds: float) -> datetime:
    """So many seconds from now, UTC."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def redis_away(away: RedisAway) -> ModelUnavailable:
    """What a caller is told of it."""
    return ModelUnavailable("REDIS_AWAY", f"{away}: limits cannot be kept without it. Look at REDIS_URL", 2.0)
