"""What the gateway's state in Redis says, for people: taken quotas, lines, kept answers, open circuits.

Law: reads, and forgets answers when told; decides nothing. Values are what they were a moment ago.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from llm_gateway.policy import EVERY_MODEL, Policies
from llm_gateway.question import NANO, Line, pseudonym
from llm_gateway.trips import P

_AT_ONCE = 1_000


async def taken_by(redis: Redis, policies: Policies, tenant: str, user: str = "") -> dict[str, Any]:
    """A tenant's quotas, and one user's if he is named: what is taken (reservations included), the limit (0: none), when it
    begins anew; and the tenant's window.
    """
    policy = policies.of(tenant)
    found = await _hash(redis, f"{P}q:{tenant}")
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    first = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    today = str((now.date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days)
    month = str(now.year * 12 + now.month - 1)
    scopes = [
        ("day", "d", found, policy.day, tomorrow, found.get("d") == today),
        ("month", "m", found, policy.month, first, found.get("m") == month),
    ]
    if user:
        # They are of the tenant's day, and forgotten with it.
        of_users = await _hash(redis, f"{P}qu:{tenant}")
        letter = f"{pseudonym(tenant, user)}:"
        scopes.append(("day of the user", letter, of_users, policy.user(user), tomorrow, found.get("d") == today))
    quotas = {}
    for scope, letter, counts, amounts, resets, current in scopes:
        for what, part, limit in (
            ("requests", "n", amounts.requests),
            ("tokens", "t", amounts.tokens),
            ("dollars", "c", amounts.dollars),
        ):
            taken = int(counts.get(letter + part, 0)) if current else 0
            value: float = taken / NANO if what == "dollars" else taken
            quotas[f"{what} per {scope}"] = {
                "taken": value,
                "limit": limit,
                "warning": bool(limit) and value >= limit * policies.soft,
                "resets_at": resets.isoformat(timespec="seconds"),
            }
    window = _window(await _hash(redis, f"{P}w:t:{tenant}"), policies.window_ms)
    limits = {"requests_limit": policy.requests_per_minute, "tokens_limit": policy.tokens_per_minute}
    return {"tenant": tenant, "weight": policy.weight, "quotas": quotas, "window": {**window, **limits}}


async def lines_of(redis: Redis, policies: Policies) -> list[dict[str, Any]]:
    """Every line to a provider, and every key over all its models: this minute's requests and tokens, the day's, who waits."""
    lines, keys = [], {}
    async for raw in redis.scan_iter(match=f"{P}w:*", count=_AT_ONCE):
        name = raw.decode().removeprefix(f"{P}w:")
        if name.startswith(("t:", "k:")) or name.endswith(":s") or name.count(":") < 2:
            continue
        provider, key, model = name.split(":", 2)
        limits, found = policies.line(Line(provider, model, key)), await _hash(redis, f"{P}w:{name}")
        lines.append(
            {
                "line": name,
                # The day by the provider's own count, where that sets the limit.
                **_window(found, policies.window_ms, "dr" if limits.requests_per_day else "hr"),
                "requests_limit": limits.requests,
                "tokens_limit": limits.tokens or int(found.get("tpm", 0)),
                "day_requests_limit": limits.requests_per_day or int(found.get("rpd", 0)),
                "day_tokens_limit": limits.tokens_per_day,
                "waiting": int(await redis.hlen(f"{P}line:{name}:wait")),
                "quiet_s": max(0.0, float(found.get("quiet", 0)) / 1000 - time.time()),
            }
        )
        if limits.keyed:
            keys[f"{provider}:{key}:{EVERY_MODEL}"] = (key or "-", limits)
    for name, (key, limits) in keys.items():
        lines.append(
            {
                "line": name,
                **_window(await _hash(redis, f"{P}w:k:{key}"), policies.window_ms),
                "requests_limit": limits.key_requests,
                "tokens_limit": limits.key_tokens,
                "day_requests_limit": limits.key_requests_per_day,
                "day_tokens_limit": limits.key_tokens_per_day,
                "waiting": 0,
                "quiet_s": 0.0,
            }
        )
    return sorted(lines, key=lambda line: str(line["line"]))


async def given_by(redis: Redis, policies: Policies, line: Line) -> tuple[int, int]:
    """Requests and tokens a minute that a line gives, as settings or its provider's headers say; 0: not known."""
    limits = policies.line(line)
    told = await redis.hget(f"{P}w:{line.name}", "tpm") if not limits.tokens else None
    return limits.requests, limits.tokens or int(told or 0)


def _window(found: dict[str, str], window_ms: int, day: str = "dr") -> dict[str, int]:
    """What a window holds, and its day by the count `day` (see `window.lua`), by ours where that is not there."""
    # What slid out is taken off by the next question; a window that nobody asked of for a minute is empty, and so is a day
    # that is over.
    stale = int(float(found.get("at", 0))) * window_ms / 200 < time.time() * 1000 - window_ms
    over = int(float(found.get("day", 0))) != int(time.time() // 86_400)

    def whole(name: str, empty: bool) -> int:
        return 0 if empty else int(float(found.get(name, 0)))

    return {
        "requests": whole("r", stale),
        "tokens": whole("t", stale),
        "day_requests": whole("hr", False) if day == "hr" and "hr" in found else whole("dr", over),
        "day_tokens": whole("dt", over),
    }


async def cached_by(redis: Redis) -> dict[str, int]:
    """Kept answers by tenant; looks at every key."""
    found: dict[str, int] = {}
    async for raw in redis.scan_iter(match=f"{P}a:*", count=_AT_ONCE):
        tenant = raw.decode().removeprefix(f"{P}a:{{").rpartition("}:")[0]
        found[tenant] = found.get(tenant, 0) + 1
    return found


async def forget(redis: Redis, tenant: str) -> int:
    """Remove a tenant's answers; how many there were."""
    escaped = "".join(f"[{letter}]" if letter in "*?[]^\\" else letter for letter in tenant)
    removed, keys = 0, []
    async for raw in redis.scan_iter(match=f"{P}a:{{{escaped}}}:*", count=_AT_ONCE):
        keys.append(raw)
        if len(keys) == _AT_ONCE:
            removed += int(await redis.unlink(*keys))
            keys = []
    return removed + (int(await redis.unlink(*keys)) if keys else 0)


async def circuits(redis: Redis) -> dict[str, dict[str, Any]]:
    """Circuits that are not at rest, by `provider:model`."""
    found = {}
    async for raw in redis.scan_iter(match=f"{P}b:*", count=_AT_ONCE):
        state = await _hash(redis, raw.decode())
        until = float(state.get("until", 0)) / 1000
        circuit = "closed" if not until else "open" if until > time.time() else "half_open"
        found[raw.decode().removeprefix(f"{P}b:")] = {
            "failures": int(state.get("run", 0)),
            "circuit": circuit,
            "why": state.get("why", ""),
        }
    return found


async def _hash(redis: Redis, key: str) -> dict[str, str]:
    raw: dict[Any, Any] = await redis.hgetall(key)
    return {name.decode(): value.decode() for name, value in raw.items()}
