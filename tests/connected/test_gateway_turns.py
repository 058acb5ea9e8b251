"""Limits in Redis: whose turn it is, when, and what a window may hold."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.redis import build_redis
from infra.settings import ModelLimits, Settings
from llm_gateway.core import Core
from llm_gateway.policy import Amounts, Exceptions, Policies
from llm_gateway.prompt import Lane, ModelUnavailable, QuotaSpent, RateLimited
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Grant, Line, Question, Usage
from llm_gateway.settling import Counted
from llm_gateway.trips import P

pytestmark = pytest.mark.connected

Opener = Callable[..., Any]


async def nothing(_tenant: str) -> Counted:
    return Counted(datetime.now(UTC).date(), {}, (0, 0, 0))


@pytest.fixture
async def opened(redis_url: str) -> AsyncIterator[Opener]:
    """Cores, each as a replica has one; they share nothing but Redis."""
    closing: list[tuple[Core, Any]] = []

    async def open_(limits: ModelLimits | dict[str, ModelLimits] | None = None, **changes: Any) -> Core:
        given = {"m": limits} if isinstance(limits, ModelLimits) else limits or {}
        settings = Settings(
            redis_url=redis_url, provider_limits=given, model_requests_per_minute=10**6,
            model_tokens_per_minute=10**9, _env_file=None,
        ).model_copy(update=changes)  # fmt: skip
        redis = build_redis(settings)
        core = Core(settings, redis, Policies(settings), nothing)
        await core.connect()
        closing.append((core, redis))
        return core

    yield open_
    for core, redis in closing:
        await core.close()
        await redis.aclose()


@pytest.fixture
def line() -> Line:
    return Line("scripted", "m", secrets.token_hex(6))


def asked(line: Line, tenant: str, lane: Lane = "live", tokens: int = 10, **changes: Any) -> Question:
    return Question(
        tenant, changes.pop("user", ""), "x", line, tokens, changes.pop("most_tokens", tokens), lane=lane, **changes
    )


def within(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_replicas_share_one_limit_and_never_exceed_it(opened: Opener, line: Line, tenant: str):
    """INVARIANT: if this fails, limits multiply by replicas."""
    cores = [await opened(ModelLimits(requests_per_minute=100)) for _ in range(4)]
    results = await asyncio.gather(
        *(cores[n % 4].enter(asked(line, tenant, "interactive"), within(0.5)) for n in range(400)),
        return_exceptions=True,
    )
    passed = sum(isinstance(result, Grant) for result in results)
    assert 20 <= passed <= 100
    assert {type(result) for result in results} == {Grant, RateLimited}


async def test_tokens_are_reserved_before_and_settled_after_for_all_replicas(opened: Opener, line: Line, tenant: str):
    one, other = [await opened(ModelLimits(tokens_per_minute=10_000)) for _ in range(2)]
    first = await one.enter(asked(line, tenant, "interactive", 2_000), within(1))
    assert isinstance(first, Grant)
    with pytest.raises(RateLimited):
        await other.enter(asked(line, tenant, "interactive", 1_500), within(0.5))
    one.settle(first, Usage("m", 100, 100))
    await one.drained()
    assert isinstance(await other.enter(asked(line, tenant, "interactive", 1_500), within(0.5)), Grant)


async def test_tenants_that_ask_unequally_are_served_equally_wherever_they_ask(opened: Opener, line: Line, tenant: str):
    """One lives on one replica and asks little, the other floods from both."""
    one, other = [await opened(ModelLimits(requests_per_minute=100), model_window_seconds=2.0) for _ in range(2)]
    served: Counter[str] = Counter()

    async def ask(core: Core, who: str) -> None:
        try:
            held = await core.enter(asked(line, who), within(4.0))
        except RateLimited:
            return
        assert isinstance(held, Grant)
        served[who] += 1
        core.settle(held, Usage("m", 5, 5))

    crowd = [(core, f"{tenant}-loud") for core in (one, other) for _ in range(150)]
    crowd += [(other, f"{tenant}-quiet") for _ in range(60)]
    await asyncio.gather(*(ask(core, who) for core, who in crowd))
    loud, quiet = served[f"{tenant}-loud"], served[f"{tenant}-quiet"]
    assert quiet >= 0.35 * (loud + quiet), (loud, quiet)


async def test_a_person_does_not_wait_behind_a_replay(opened: Opener, line: Line, tenant: str):
    core = await opened(ModelLimits(requests_per_minute=100), model_window_seconds=2.0)
    replay = [asyncio.create_task(core.enter(asked(line, f"{tenant}-bulk", "bulk"), within(3.0))) for _ in range(60)]
    async with asyncio.timeout(2):
        while core.waiting < 20:  # noqa: ASYNC110 -- nobody is told who waits
            await asyncio.sleep(0.01)
    waited = []
    for _ in range(5):
        began = within(0)
        assert isinstance(await core.enter(asked(line, tenant, "interactive"), within(3.0)), Grant)
        waited.append(within(0) - began)
    assert sorted(waited)[2] < 0.3, waited
    await asyncio.gather(*replay, return_exceptions=True)


async def test_who_leaves_the_line_holds_nobody_up_and_nothing_back(opened: Opener, line: Line, tenant: str):
    core = await opened(ModelLimits(requests_per_minute=20), model_window_seconds=2.0, model_requests_per_day=30)
    tasks = [asyncio.create_task(core.enter(asked(line, tenant), within(20.0))) for _ in range(24)]
    async with asyncio.timeout(5):
        while core.waiting < 10:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    for task in tasks:
        if not task.done():
            task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    passed = sum(isinstance(each, Grant) for each in ended)
    await core.drained()
    free = Line("scripted", "free", line.key)
    rest = await asyncio.gather(
        *(core.enter(asked(free, tenant), within(5.0)) for _ in range(40)), return_exceptions=True
    )
    more = sum(isinstance(each, Grant) for each in rest)
    assert passed + more == 30, "what left gave its part of the day back"


async def test_retry_after_quiets_every_replica(opened: Opener, line: Line, tenant: str):
    """INVARIANT: if this fails, every replica earns its own 429."""
    one, other = [await opened() for _ in range(2)]
    one.quiet(line, 1.0)
    await one.drained()
    with pytest.raises(RateLimited):
        await other.enter(asked(line, tenant), within(0.5))
    began = within(0)
    assert isinstance(await other.enter(asked(line, tenant), within(10.0)), Grant)
    assert 0.3 <= within(0) - began < 5


async def test_a_wait_of_47_seconds_is_refused_at_once(opened: Opener, line: Line, tenant: str):
    core = await opened()
    core.quiet(line, 47.0)
    began = within(0)
    with pytest.raises(RateLimited) as raised:
        await core.enter(asked(line, tenant), within(30.0))
    assert within(0) - began < 2
    assert 40 < (raised.value.resets_at - datetime.now(UTC)).total_seconds() < 48


async def test_who_can_ask_another_model_does_not_stand_in_line(opened: Opener, line: Line, tenant: str):
    one, other = [await opened(ModelLimits(requests_per_minute=60)) for _ in range(2)]
    one.quiet(line, 20.0)
    await one.drained()
    began = within(0)
    for core in (one, other):
        with pytest.raises(RateLimited, match="quiet"):
            await core.enter(asked(line, tenant, another=True), within(120.0))
    free = Line("scripted", "m", secrets.token_hex(6))
    held = [await one.enter(asked(free, tenant, "interactive"), within(5.0)) for _ in range(13)]
    with pytest.raises(RateLimited):
        await asyncio.gather(
            *(one.enter(asked(free, tenant, "interactive", another=True), within(120.0)) for _ in range(5))
        )
    assert within(0) - began < 5
    assert len(held) == 13


async def test_a_tenants_own_limit_is_waited_for_as_another_model_would_not_come_sooner(
    opened: Opener, line: Line, tenant: str
):
    """INVARIANT: if this fails, a burst of edits beyond the tenant's minute goes to the dearer model, and waits there as long."""
    core = await opened(model_requests_per_minute=6, model_window_seconds=12.0)
    for _ in range(3):
        await core.enter(asked(line, tenant, "interactive"), within(1))
    began = within(0)
    assert isinstance(await core.enter(asked(line, tenant, "interactive", another=True), within(60.0)), Grant)
    assert within(0) - began > 1.2


async def test_limits_that_nobody_configured_come_from_the_providers_headers(opened: Opener, line: Line, tenant: str):
    core = await opened()
    core.told(line, Headroom(requests=990, requests_limit=1_000, tokens=4_000, tokens_limit=6_000))
    await core.drained()
    assert isinstance(await core.enter(asked(line, tenant, "interactive", 1_000), within(1)), Grant)
    with pytest.raises(RateLimited):
        await core.enter(asked(line, tenant, "interactive", 1_000), within(0.5))


def spent(limit: int) -> Headroom:
    return Headroom(requests=0, requests_reset=86_400.0, requests_limit=limit)


async def test_a_day_that_the_provider_calls_spent_is_quiet_for_all_and_not_until_midnight(
    opened: Opener, line: Line, tenant: str
):
    """INVARIANT: if this fails, a header locks a model until midnight, though the provider gives requests back all day."""
    one, other = [await opened() for _ in range(2)]
    held = await one.enter(asked(line, tenant), within(1))
    assert isinstance(held, Grant)
    one.heard(held, spent(1_000), spent(1_000).spent_for())
    await one.drained()
    with pytest.raises(RateLimited) as raised:
        await other.enter(asked(line, tenant), within(5.0))
    assert 50 < (raised.value.resets_at - datetime.now(UTC)).total_seconds() < 61


async def test_a_spent_day_is_probed_by_one_question_after_the_other_until_a_header_says_more(
    opened: Opener, line: Line, tenant: str
):
    one, other = [await opened() for _ in range(2)]
    held = await one.enter(asked(line, tenant), within(1))
    assert isinstance(held, Grant)
    limit = 43_200  # two seconds bring one
    one.heard(held, spent(limit), spent(limit).spent_for())
    await one.drained()
    began = within(0)
    probes = [await core.enter(asked(line, tenant), within(20.0)) for core in (other, one)]
    assert within(0) - began >= 3.8
    with pytest.raises(RateLimited):
        await other.enter(asked(line, tenant), within(0.2))
    assert isinstance(probes[1], Grant)
    one.heard(probes[1], replace(spent(limit), requests=500), 0.0)
    await one.drained()
    began = within(0)
    found = await asyncio.gather(*(other.enter(asked(line, tenant, "interactive"), within(5.0)) for _ in range(20)))
    assert all(isinstance(each, Grant) for each in found)
    assert within(0) - began < 1


async def test_midnight_does_not_open_a_day_that_the_provider_measures(opened: Opener, line: Line, tenant: str):
    core = await opened()
    core.told(line, spent(1_000))
    await core.drained()
    await core.enter(asked(line, tenant), within(1))  # finds out how it stands
    await core._wire.run(("HSET", f"{P}w:{line.name}", "day", "1"))
    with pytest.raises(RateLimited, match="of its day that the model's provider has left"):
        await core.enter(asked(line, tenant), within(1))


async def test_a_header_does_not_forget_what_was_granted_since_its_question(opened: Opener, line: Line, tenant: str):
    """INVARIANT: if this fails, a late header opens a day that those under way have spent."""
    one, other = [await opened() for _ in range(2)]
    held = [await core.enter(asked(line, tenant), within(1)) for core in (one, other, one, other)]
    first, last = held[0], held[-1]
    assert isinstance(first, Grant)
    assert isinstance(last, Grant)
    one.heard(first, replace(spent(100), requests=3), 0.0)  # which the other three may take
    await one.drained()
    await other.enter(asked(line, tenant), within(1))  # finds out how it stands
    with pytest.raises(RateLimited):
        await other.enter(asked(line, tenant), within(1))
    one.heard(last, replace(spent(100), requests=90), 0.0)
    await one.drained()
    assert isinstance(await other.enter(asked(line, tenant), within(1)), Grant)


async def test_what_we_count_ourselves_ends_no_day_that_the_provider_measures(opened: Opener, line: Line, tenant: str):
    core = await opened()
    core.told(line, Headroom(requests=12, requests_limit=12))
    for _ in range(13):  # the last one finds out how it stands
        assert isinstance(await core.enter(asked(line, tenant, "interactive"), within(1)), Grant)
    with pytest.raises(RateLimited) as raised:
        await core.enter(asked(line, tenant, "interactive"), within(1))
    assert (raised.value.resets_at - datetime.now(UTC)).total_seconds() < 61


async def test_a_limit_of_a_key_over_all_models_is_shared_like_any_other(opened: Opener, line: Line, tenant: str):
    cores = [await opened(provider_limits={"*": ModelLimits(requests_per_minute=20)}) for _ in range(2)]
    results = await asyncio.gather(
        *(
            cores[n % 2].enter(asked(Line("scripted", f"m{n % 3}", line.key), tenant, "interactive"), within(0.5))
            for n in range(40)
        ),
        return_exceptions=True,
    )
    grants = [result for result in results if isinstance(result, Grant)]
    assert {type(result) for result in results} == {Grant, RateLimited}
    assert 4 <= len(grants) <= 20
    assert all(grant.slot >= 0 for grant in grants), "by Redis, and not by each for itself"


async def test_the_providers_day_ends_for_all(opened: Opener, line: Line, tenant: str):
    core = await opened(ModelLimits(requests_per_day=3))
    for _ in range(3):
        assert isinstance(await core.enter(asked(line, tenant), within(1)), Grant)
    with pytest.raises(RateLimited, match="per day"):
        await core.enter(asked(line, tenant), within(1))


@pytest.mark.parametrize("limit", [{"requests_per_day": 4}, {"tokens_per_day": 45}])
async def test_the_day_of_the_providers_key_ends_for_all_models_and_replicas(
    opened: Opener, line: Line, tenant: str, limit: dict[str, int]
):
    """INVARIANT: if this fails, a key is asked beyond its day, and each question meets a 429."""
    cores = [await opened({"*": ModelLimits(**limit)}) for _ in range(2)]
    lines = [Line("scripted", model, line.key) for model in ("m", "n")]
    for number in range(4):
        assert isinstance(await cores[number % 2].enter(asked(lines[number // 2], tenant), within(1)), Grant)
    for core, each in zip(cores, lines, strict=True):
        with pytest.raises(RateLimited, match="per day"):
            await core.enter(asked(each, tenant), within(1))
    elsewhere = Line("scripted", "m", secrets.token_hex(6))
    assert isinstance(await cores[0].enter(asked(elsewhere, tenant), within(1)), Grant)


async def test_what_a_question_did_not_take_comes_back_to_the_keys_day(opened: Opener, line: Line, tenant: str):
    one, other = [await opened({"*": ModelLimits(tokens_per_day=100)}) for _ in range(2)]
    held = await one.enter(asked(line, tenant, tokens=90), within(1))
    assert isinstance(held, Grant)
    with pytest.raises(RateLimited, match="per day"):
        await other.enter(asked(line, tenant, tokens=20), within(1))
    one.settle(held, Usage("m", 5, 5))
    await one.drained()
    assert isinstance(await other.enter(asked(line, tenant, tokens=20), within(1)), Grant)


async def test_each_provider_has_the_limits_that_are_told_for_it(opened: Opener, line: Line, tenant: str):
    """INVARIANT: if this fails, a second provider is held to Groq's numbers, or Groq to its."""
    limits = {
        "m": ModelLimits(requests_per_day=1),
        "second:m": ModelLimits(requests_per_day=3),
        "*": ModelLimits(requests_per_day=10),
        "third:*": ModelLimits(requests_per_day=2),
    }
    cores = [await opened(limits) for _ in range(2)]
    for provider, model, passes in (("scripted", "m", 1), ("second", "m", 3), ("third", "n", 2)):
        each = Line(provider, model, secrets.token_hex(6))
        for number in range(passes):
            assert isinstance(await cores[number % 2].enter(asked(each, tenant), within(1)), Grant)
        for core in cores:
            with pytest.raises(RateLimited, match="per day"):
                await core.enter(asked(each, tenant), within(1))


@pytest.mark.parametrize(
    ("changes", "question", "told"),
    [
        ({"model_tokens_per_day": 1_000}, {"most_tokens": 400}, "tokens per day of this tenant"),
        ({"user_tokens_per_day": 1_000}, {"most_tokens": 400, "user": "u"}, "tokens per day of this user"),
        ({"user_dollars_per_day": 1.0}, {"most_nano": 400_000_000, "user": "u"}, "dollars per day of this user"),
        ({"model_dollars_per_day": 1.0}, {"most_nano": 400_000_000}, "dollars per day of this tenant"),
        ({"model_dollars_per_month": 1.0}, {"most_nano": 400_000_000}, "dollars per month of this tenant"),
        ({"model_tokens_per_month": 1_000}, {"most_tokens": 400}, "tokens per month of this tenant"),
    ],
)
async def test_a_budget_is_reserved_before_it_is_spent(
    opened: Opener, line: Line, tenant: str, changes: dict[str, Any], question: dict[str, Any], told: str
):
    """INVARIANT: if this fails, a budget of $30 spends $99: many ask at once, and none has been settled."""
    core = await opened(**changes)
    results = await asyncio.gather(
        *(core.enter(asked(line, tenant, **question), within(2)) for _ in range(20)), return_exceptions=True
    )
    grants = [result for result in results if isinstance(result, Grant)]
    assert len(grants) == 2
    spent = next(result for result in results if isinstance(result, QuotaSpent))
    assert spent.scope == told
    for grant in grants:
        core.settle(grant, Usage("m", 10, 10, cost_usd=0.01))
    await core.drained()
    assert isinstance(await core.enter(asked(line, tenant, **question), within(2)), Grant), "what was not spent is back"


@pytest.mark.parametrize(
    "quota", [{"model_dollars_per_day": 1.0}, {"model_dollars_per_month": 1.0}, {"user_dollars_per_day": 1.0}]
)
async def test_where_dollars_are_limited_a_model_without_a_price_is_not_asked(
    opened: Opener, line: Line, tenant: str, quota: dict[str, float]
):
    """INVARIANT: if this fails, a model that nobody knows the price of is asked without end."""
    core = await opened(**quota)
    with pytest.raises(QuotaSpent, match=r"scripted/m has no price: say one in \[prices\] of HOOKLINE_ROUTES"):
        await core.enter(asked(line, tenant, user="u"), within(1))
    assert isinstance(await core.enter(asked(line, tenant, user="u", most_nano=10), within(1)), Grant)


@pytest.mark.parametrize(
    ("quota", "told"),
    [
        ("user_requests_per_day", "requests per day of this user"),
        ("model_requests_per_day", "requests per day of this tenant"),
        ("model_requests_per_month", "requests per month of this tenant"),
    ],
)
async def test_requests_are_counted_by_user_and_day_by_tenant_and_day_and_by_tenant_and_month(
    opened: Opener, line: Line, tenant: str, quota: str, told: str
):
    core = await opened(**{quota: 2})
    for _ in range(2):
        assert isinstance(await core.enter(asked(line, tenant, user="u"), within(1)), Grant)
    with pytest.raises(QuotaSpent) as spent:
        await core.enter(asked(line, tenant, user="u"), within(1))
    assert spent.value.scope == told
    left = spent.value.resets_at - datetime.now(UTC)
    assert timedelta(0) < left < (timedelta(days=32) if "month" in quota else timedelta(days=1, seconds=1))


async def test_beyond_the_soft_limit_a_warning_comes_with_the_grant(opened: Opener, line: Line, tenant: str):
    core = await opened(model_requests_per_day=10, quota_soft_share=0.8)
    warnings = []
    for _ in range(10):
        held = await core.enter(asked(line, tenant), within(1))
        assert isinstance(held, Grant)
        warnings.append(held.warnings)
    assert warnings == [()] * 7 + [("day:requests",)] * 3


async def test_one_tenants_exceptions_are_its_own(opened: Opener, line: Line, tenant: str):
    core = await opened(model_requests_per_day=2)
    core.policies._tenants[tenant] = core.policies.merged(
        Exceptions(day=Amounts(requests=5), users={"key:1": Amounts(requests=3)})
    )
    core.policies.version += 1
    for _ in range(3):
        assert isinstance(await core.enter(asked(line, tenant, user="key:1"), within(1)), Grant)
    with pytest.raises(QuotaSpent, match="user"):
        await core.enter(asked(line, tenant, user="key:1"), within(1))
    for _ in range(2):
        assert isinstance(await core.enter(asked(line, tenant, user="u"), within(1)), Grant)
    with pytest.raises(QuotaSpent, match="tenant"):
        await core.enter(asked(line, tenant, user="u"), within(1))


async def test_a_circuit_opens_for_all_replicas_and_one_probes(opened: Opener, line: Line):
    """INVARIANT: if this fails, each replica asks a dead model for itself."""
    one, other = [await opened() for _ in range(2)]
    name = f"{line.key}:m"
    for core in (one, other, one, other, one):
        core.breakers.failed(name, "SERVER_ERROR: as scripted")
        await core.drained()
    await asyncio.gather(one.drained(), other.drained())
    for core in (one, other):
        assert not core.breakers.allows(line.key, "m")
        assert await core.breakers.wait(name, 1.0) > 0
        assert "as scripted" in core.breakers.why(name)
    for core in (one, other):
        core.breakers.of(name)._until = 0.0  # the pause is over, as this process sees it; Redis decides
    assert await one.breakers.wait(name, 1.0) > 0
    one.breakers.succeeded(name)
    await one.drained()
    await other.drained()
    assert other.breakers.allows(line.key, "m")
    assert await other.breakers.wait(name, 1.0) == 0


async def test_nobody_waits_when_redis_was_never_there(line: Line, tenant: str):
    settings = Settings(redis_url="redis://127.0.0.1:9/0", quotas_without_redis="closed", _env_file=None)
    redis = build_redis(settings)
    core = Core(settings, redis, Policies(settings), nothing)
    began = within(0)
    with pytest.raises(ModelUnavailable) as raised:
        await core.enter(asked(line, tenant), within(30))
    assert raised.value.cause == "REDIS_AWAY"
    assert within(0) - began < 3
    await core.close()
    await redis.aclose()
