"""How long a replay will take, and which of its limits makes it so.

Law: reads the limits that the gateway itself goes by and what of them is taken, and decides nothing. The slowest of them is
the duration; that others share a limit with the replay meanwhile is not known, and not reckoned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

from redis.asyncio import Redis

from llm_gateway.gateway import Gateway
from llm_gateway.policy import REPLAYS, Policies
from llm_gateway.reading import given_by, taken_by
from processors.replay.estimate import Bill

_DAY = 86_400.0
_MONTH = 30 * _DAY


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit, and how long the work takes by it."""

    seconds: float
    limit: str
    """In words, with the setting that says it."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """The slowest bound, and what is to be known beside it."""

    bound: Bound
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the plan's numbers."""
        return {
            "seconds": round(self.bound.seconds, 1),
            "binds": self.bound.limit,
            "warnings": list(self.warnings),
        }


def by_rate(items: int, rate: float) -> Bound:
    """The replay's own pace."""
    return Bound(items / rate, f"{rate:g} records/s")


def by_minutes(bill: Bill, tenants: Mapping[str, int], policies: Policies) -> Iterator[Bound]:
    """What tenants may ask a minute; `tenants`: questions of each, whose shares of the bill those are."""
    window = policies.window_ms / 1000
    tokens = bill.input_tokens + bill.output_tokens
    for tenant, questions in tenants.items():
        share = questions / sum(tenants.values())
        policy = policies.of(tenant)
        if policy.requests_per_minute:
            yield Bound(
                bill.model_calls * share * window / policy.requests_per_minute,
                f"{policy.requests_per_minute:,} questions a minute of {tenant} (HOOKLINE_MODEL_REQUESTS_PER_MINUTE)",
            )
        if policy.tokens_per_minute:
            yield Bound(
                tokens * share * window / policy.tokens_per_minute,
                f"{policy.tokens_per_minute:,} tokens a minute of {tenant} (HOOKLINE_MODEL_TOKENS_PER_MINUTE)",
            )


async def by_models(bill: Bill, gateway: Gateway, redis: Redis) -> list[Bound]:
    """What providers take a minute, by model and by key. Raises RedisError."""
    window = gateway.policies.window_ms / 1000
    found = []
    keys: dict[tuple[str, str], tuple[int, int, int, int]] = {}
    for model, (calls, tokens) in bill.models.items():
        line = gateway.line_of(model)
        if line is None:
            continue
        requests_limit, tokens_limit = await given_by(redis, gateway.policies, line)
        if requests_limit:
            limit = f"{requests_limit:,} requests a minute of {model} (HOOKLINE_PROVIDER_LIMITS)"
            found.append(Bound(calls * window / requests_limit, limit))
        if tokens_limit:
            limit = f"{tokens_limit:,} tokens a minute of {model} (HOOKLINE_PROVIDER_LIMITS, or as its provider says)"
            found.append(Bound(tokens * window / tokens_limit, limit))
        whole = gateway.policies.line(line)
        _, _, before, more = keys.get((line.provider, line.key), (0, 0, 0, 0))
        keys[line.provider, line.key] = whole.key_requests, whole.key_tokens, before + calls, more + tokens
    for requests_limit, tokens_limit, calls, tokens in keys.values():
        if requests_limit:
            limit = f"{requests_limit:,} requests a minute of the provider's key (HOOKLINE_PROVIDER_LIMITS)"
            found.append(Bound(calls * window / requests_limit, limit))
        if tokens_limit:
            limit = f"{tokens_limit:,} tokens a minute of the provider's key (HOOKLINE_PROVIDER_LIMITS)"
            found.append(Bound(tokens * window / tokens_limit, limit))
    return found


async def by_quotas(
    bill: Bill, tenants: Mapping[str, int], policies: Policies, redis: Redis, *, replays: bool
) -> list[tuple[Bound, str]]:
    """Quotas that are spent before the end, each with a warning; `replays`: the one of all replays counts, too. Raises RedisError."""
    found = []
    for tenant, questions in tenants.items():
        share = questions / sum(tenants.values())
        wanted = {
            "requests": bill.model_calls * share,
            "tokens": (bill.input_tokens + bill.output_tokens) * share,
            "dollars": bill.cost_usd * share,
        }
        quotas = (await taken_by(redis, policies, tenant, REPLAYS if replays else ""))["quotas"]
        for name, each in quotas.items():
            what, _, period = name.partition(" per ")
            length = _MONTH if period == "month" else _DAY
            whose = f"{what} per day of {tenant}'s replays (HOOKLINE_REPLAY_REQUESTS_PER_DAY)"
            left = max(0.0, each["limit"] - each["taken"])
            if each["limit"] and wanted[what] > left:
                shown = whose if period == "day of the user" else f"{name} of {tenant}"
                found.append(_spent(tenant, shown, wanted[what], left, each, length))
    return found


def _spent(
    tenant: str, name: str, wanted: float, left: float, quota: Mapping[str, Any], length: float
) -> tuple[Bound, str]:
    """How long it takes when it waits for the quota to begin anew, as often as it has to."""
    resets = datetime.fromisoformat(quota["resets_at"])
    periods = ceil((wanted - left) / quota["limit"])
    seconds = max(0.0, (resets - datetime.now(UTC)).total_seconds()) + (periods - 1) * length
    return (
        Bound(seconds, f"{quota['limit']:,} {name}"),
        (
            f"{_number(wanted)} are more than the {_number(left)} left of {quota['limit']:,} {name}: it waits for "
            f"{resets:%Y-%m-%d %H:%M} UTC" + (f", and {periods - 1} times more" if periods > 1 else "")
            + f". Raise it for {tenant} with `hookline gateway limits set`, or run a part"
        ),
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.2f}"


async def lasting(
    own: Bound,
    bill: Bill,
    tenants: Mapping[str, int],
    gateway: Gateway,
    redis: Redis,
    *,
    replays: bool,
    batched: bool,
) -> Lasting:
    """The slowest of all. `own`: the pace without a model. Raises RedisError."""
    if not bill.model_calls or not tenants:
        return Lasting(own)
    quotas = await by_quotas(bill, tenants, gateway.policies, redis, replays=replays)
    bounds = [own, *(bound for bound, _ in quotas)]
    warnings = [warning for _, warning in quotas]
    if batched:
        warnings.append("questions wait in the provider's batches first, each round for up to a day")
    else:
        bounds += [*by_minutes(bill, tenants, gateway.policies), *await by_models(bill, gateway, redis)]
    return Lasting(max(bounds, key=lambda bound: bound.seconds), tuple(warnings))


def told(seconds: float) -> str:
    """For people."""
    return str(timedelta(seconds=round(seconds)))
