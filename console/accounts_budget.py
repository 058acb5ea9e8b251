"""What an account's CRM calls used of its limits, for `hookline account show`.

Law: reads what the gate keeps in Redis; without Redis it says so and shows nothing else.
"""

from __future__ import annotations

from redis.exceptions import RedisError

from infra.crm.limits_gate import standing
from infra.redis import build_redis
from infra.settings import Settings


async def budget(settings: Settings, account: str) -> list[str]:
    """Lines for people."""
    if settings.redis_url is None:
        return ["unknown: no Redis is configured"]
    redis = build_redis(settings)
    try:
        found = await standing(redis, account)
    except RedisError:
        return ["unknown: Redis does not answer"]
    finally:
        await redis.aclose()
    lines = [f"{found.calls_today} by us today, {found.held_back_today} times held back (429, or the day's budget)"]
    if found.day_limit:
        free = 1 - settings.crm_free_share
        lines.append(
            f"{found.day_used} of {found.day_limit} a day are used by everybody; we stop at {free:.0%}, "
            f"bulk work at {1 - max(settings.crm_free_share, settings.crm_bulk_free_share):.0%}"
        )
    if settings.crm_daily_calls:
        lines.append(f"{settings.crm_daily_calls} a day is what our own settings allow")
    if found.limit and found.window_seconds:
        lines.append(f"{found.in_window} of {found.limit} in {found.window_seconds:g} s are taken now")
    return lines
