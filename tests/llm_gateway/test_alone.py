"""What one process allows itself while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from infra.redis_wire import RedisAway
from infra.settings import ModelLimits, Settings
from llm_gateway.alone import Alone, settled
from llm_gateway.core import Core
from llm_gateway.policy import Amounts, Exceptions, Policies
from llm_gateway.prompt import ModelUnavailable, QuotaSpent, RateLimited
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Grant, Line, Question, Usage, today
from llm_gateway.settling import Counted
from llm_gateway.told import Told

LINE = Line("groq", "m", "k")
AWAY = RedisAway("Redis is away")


class Nobody:
    """A wire and a script that nobody hears."""

    def send(self, packed: bytes) -> None: ...

    def call(self, *_: object) -> tuple[str, ...]:
        return ("PING",)


def told(policies: Policies) -> Told:
    return Told(Nobody(), Nobody(), policies)  # type: ignore[arg-type]


def alone(replicas: int = 2, headroom: Headroom | None = None, **changes: Any) -> Alone:
    settings = Settings(_env_file=None).model_copy(
        update={"model_requests_per_minute": 10**6, "model_tokens_per_minute": 10**9, **changes}
    )
    policies = Policies(settings)
    learned = told(policies)
    if headroom is not None:
        learned.headroom(LINE, headroom)
    return Alone(policies, learned.learned, replicas, time.monotonic)


def speaking(replicas: int = 2, **changes: Any) -> tuple[Alone, Told]:
    """With the headers' ear, for what is said while Redis is away."""
    at = alone(replicas, **changes)
    learned = told(at._policies)
    at._learned = learned.learned
    return at, learned


def goes(at: Alone, most: int = 1_000) -> int:
    """How many questions have their turn at once."""
    return next((number for number in range(most) if at.wait(asked(), 0.0) > 0), most)


@asynccontextmanager
async def without_redis(**changes: Any) -> AsyncIterator[Core]:
    settings = Settings(_env_file=None).model_copy(
        update={"model_requests_per_minute": 10**6, "model_tokens_per_minute": 10**9, "gateway_replicas": 2, **changes}
    )

    async def counted(_: str) -> Counted:
        raise AssertionError("Redis is away")

    async with Redis(host="127.0.0.1", port=1) as nobody:
        core = Core(settings, nobody, Policies(settings), counted)
        try:
            yield core
        finally:
            await core.close()


async def entered(core: Core, question: Question, seconds: float = 5.0) -> Grant:
    held = await core.enter(question, asyncio.get_running_loop().time() + seconds)
    assert isinstance(held, Grant)
    return held


def asked(tokens: int = 10, dollars: float = 0.0, user: str = "") -> Question:
    return Question("acme", user, "x", LINE, tokens, tokens, round(dollars * 1e9), lane="interactive")


def heard(at: Alone, question: Question, taken: dict[int, int], days_ago: int = 0) -> None:
    """`taken` before that question, by its place in what `admit.lua` says."""
    day, month = map(int, today())
    at.heard(question, b" ".join(b"%d" % taken.get(place, 0) for place in range(9)), day - days_ago, month)


def passes(at: Alone, question: Question, most: int = 50) -> int:
    for number in range(most):
        try:
            at.quota(question, AWAY)
        except (ModelUnavailable, QuotaSpent):
            return number
    return most


@pytest.mark.parametrize(
    ("quota", "place"),
    [
        ({"model_requests_per_day": 100}, 0),
        ({"model_tokens_per_day": 10_000}, 1),
        ({"model_dollars_per_day": 1.0}, 2),
        ({"model_requests_per_month": 100}, 3),
        ({"model_tokens_per_month": 10_000}, 4),
        ({"model_dollars_per_month": 1.0}, 5),
        ({"user_requests_per_day": 100}, 6),
        ({"user_tokens_per_day": 10_000}, 7),
        ({"user_dollars_per_day": 1.0}, 8),
    ],
)
def test_each_quota_goes_on_with_a_share_of_what_was_left(quota: dict[str, float], place: int):
    question = asked(tokens=100, dollars=0.01, user="u")
    unit = (1, 100, 10_000_000)[place % 3]
    at = alone(**quota)
    assert passes(at, question) == 5, "a tenth of the half of what a hundred take: nothing was heard"
    at.returned()
    heard(at, question, {place: 59 * unit})
    assert passes(at, question) == 20, "the half of the forty that were left"


def test_a_month_that_was_spent_is_spent_without_redis_too():
    """INVARIANT: if this fails, a tenant whose month is spent is served whenever Redis is away."""
    at = alone(model_dollars_per_month=100.0)
    at.ended(asked(), "month", "dollars")
    with pytest.raises(QuotaSpent, match="dollars per month of this tenant"):
        at.quota(asked(dollars=0.01), AWAY)
    heard(at, asked(), {5: 95_000_000_000})
    at.quota(asked(dollars=0.01), AWAY)


def test_what_was_heard_yesterday_says_nothing_of_today():
    at = alone(model_requests_per_day=100, model_requests_per_month=200)
    heard(at, asked(), {0: 99, 3: 139}, days_ago=1)
    assert passes(at, asked()) == 5, "of the day a tenth of the half, of the month half of 60"


def test_one_users_quota_is_not_anothers():
    at = alone(user_requests_per_day=20)
    heard(at, asked(user="u"), {6: 9})
    assert passes(at, asked(user="u")) == 5
    assert passes(at, asked(user="v")) == 1
    assert passes(at, asked()) == 50


def test_limits_that_headers_told_hold_without_redis():
    """INVARIANT: if this fails, the default settings know no limit of the provider's while Redis is away."""
    at = alone(2, Headroom(tokens_limit=6_000, tokens=6_000))
    assert at.wait(asked(50), 0.0) == 0
    assert at.wait(asked(600), 0.0) > 1, "half of 100 tokens a second"
    at = alone(2, Headroom(requests_limit=1_000, requests=6))
    assert [at.wait(asked(), 0.0) > 0 for _ in range(4)] == [False, False, False, True]
    ours = alone(
        2, Headroom(requests_limit=1_000, requests=406), provider_limits={"m": ModelLimits(requests_per_day=600)}
    )
    assert [ours.wait(asked(), 0.0) > 0 for _ in range(4)] == [False, False, False, True], "594 of our 600 are taken"
    assert alone(2).wait(asked(10**6), 0.0) == 0


@pytest.mark.parametrize("headroom", [None, Headroom(requests_limit=1_000, requests=6)])
async def test_a_share_of_the_providers_day_that_is_used_up_is_asked_for_again_soon(headroom: Headroom | None):
    """INVARIANT: if this fails, a Redis that is away for seconds sets records aside until midnight."""
    limits = {"m": ModelLimits(requests_per_day=100), "*": ModelLimits(tokens_per_day=600)}
    at = alone(2, headroom, provider_limits={} if headroom else limits)
    for _ in range(3):
        await at.turn(asked(10), 10**6, AWAY)
    with pytest.raises(ModelUnavailable) as raised:
        await at.turn(asked(10), 10**6, AWAY)
    assert (raised.value.cause, raised.value.retry_after) == ("REDIS_AWAY", 2.0)


async def test_who_has_another_model_to_ask_passes_over_one_whose_share_of_the_day_is_used_up():
    at = alone(2, Headroom(requests_limit=1_000, requests=1))
    with pytest.raises(RateLimited) as raised:
        await at.turn(replace(asked(), another=True), 1.0, AWAY)
    assert raised.value.resets_at - datetime.now(UTC) <= timedelta(seconds=2)


def test_of_a_day_that_the_provider_calls_spent_one_question_goes_now_and_then():
    at, learned = speaking(provider_limits={"n": ModelLimits(requests_per_day=10_000)})
    for model, limit, pause in (("m", 1_000, 60.0), ("m", 86_400, 1.0), ("n", 2_880, 30.0)):
        at._tries.clear()
        question = replace(asked(), line=Line("groq", model, "k"))
        learned.headroom(question.line, Headroom(requests_limit=limit, requests=0))
        assert at.wait(question, 0.0) == 0
        assert at.wait(question, 0.0) == pytest.approx(pause, abs=0.5)
        at.returned()
        assert at.wait(question, 0.0) > pause - 1, "not one an absence"
        assert at.wait(question, 100.0) == pytest.approx(pause, abs=0.5)
        assert at.wait(question, 0.0) == pytest.approx(2 * pause, abs=0.5), "who waits has taken the turn"
    learned.headroom(LINE, Headroom(requests_limit=86_400, requests=6))
    assert goes(at) == 3, "it has room again"


@pytest.mark.parametrize("left", [0, 6, 900])
def test_what_headers_said_yesterday_says_nothing_of_today(monkeypatch: pytest.MonkeyPatch, left: int):
    at, learned = speaking()
    now = time.time()
    learned.headroom(LINE, Headroom(requests_limit=1_000, requests=left))
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    learned.headroom(LINE, Headroom(tokens_limit=10**9, tokens=10**9))  # says nothing of the day
    assert goes(at) == 50, "a tenth of the half"


def test_what_headers_say_while_redis_is_away_counts():
    at, learned = speaking()
    learned.headroom(LINE, Headroom(requests_limit=1_000, requests=800))
    assert goes(at, 10) == 10
    learned.headroom(LINE, Headroom(requests_limit=1_000, requests=6))
    assert goes(at) == 3, "others took it"
    for left in (5, 4, 3):
        learned.headroom(LINE, Headroom(requests_limit=1_000, requests=left))
    assert goes(at) == 0, "it took those itself: half of the six, and not half of what is left each time"
    learned.headroom(LINE, Headroom(requests_limit=1_000, requests=103))
    assert goes(at) == 50, "half of the hundred that came back"
    at.returned()
    assert goes(at) == 0, "nothing was heard between two absences"
    at.returned()
    learned.headroom(LINE, Headroom(requests_limit=1_000, requests=40))
    assert goes(at) == 20


def test_a_limit_of_ours_above_the_providers_does_not_raise_it():
    at = alone(
        2, Headroom(requests_limit=1_000, requests=6), provider_limits={"m": ModelLimits(requests_per_day=5_000)}
    )
    assert goes(at) == 3


def test_what_is_reserved_alone_is_not_spent():
    """INVARIANT: if this fails, a month's quota answers "spent" for weeks because of answers that were under way."""
    at = alone(model_tokens_per_month=100_000)
    heard(at, asked(tokens=0), {4: 40_000})
    at.quota(asked(tokens=30_000), AWAY)
    with pytest.raises(ModelUnavailable, match="share of the tenant's quota"):
        at.quota(asked(tokens=40_000), AWAY)
    with pytest.raises(QuotaSpent):
        at.quota(asked(tokens=60_001), AWAY)
    heard(at, asked(tokens=50_000), {4: 40_000})
    with pytest.raises(ModelUnavailable):
        at.quota(asked(tokens=20_000), AWAY)


def test_what_an_answer_did_not_take_comes_back():
    at = alone(model_tokens_per_day=10_000, user_requests_per_day=2)
    heard(at, asked(tokens=0, user="u"), {1: 4_000, 6: -1})
    question = asked(tokens=3_000, user="u")
    counted = at.quota(question, AWAY)
    assert passes(at, question) == 0
    settled(question, counted, (0, 500, 0))
    assert passes(at, asked(tokens=2_501, user="u")) == 0
    counted = at.quota(asked(tokens=2_500, user="u"), AWAY)
    heard(at, asked(tokens=0, user="u"), {1: 8_000, 6: -1})
    settled(asked(tokens=2_500, user="u"), counted)
    assert passes(at, asked(tokens=500, user="u")) == 1, "what Redis spoke of since is not given back twice"


async def test_a_grant_without_redis_gives_back_what_it_did_not_take():
    async with without_redis(model_tokens_per_day=20_000) as core:  # 1,000 of them here: nothing was heard
        question = asked(tokens=900)
        core.release(await entered(core, question), sent=False)
        core.release(await entered(core, question))
        core.settle(await entered(core, question), Usage("m", 60, 40))
        core.settle(await entered(core, question), Usage("m", 50, calls=0))
        with pytest.raises(ModelUnavailable, match="share of the tenant's quota"):
            await entered(core, question)
        assert await entered(core, asked(tokens=850))


async def test_who_gets_no_turn_without_redis_takes_nothing_of_the_quota():
    async with without_redis(model_requests_per_day=40, model_requests_per_minute=12) as core:  # 2, and one each 10 s
        await entered(core, asked())
        for _ in range(3):
            with pytest.raises(RateLimited):
                await entered(core, asked(), 1.0)
        leaves = asyncio.create_task(entered(core, asked(), 60.0))
        await asyncio.sleep(0.05)
        with pytest.raises(ModelUnavailable, match="share of the tenant's quota"):
            await entered(core, asked(), 60.0)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        with pytest.raises(RateLimited):
            await entered(core, asked(), 1.0)


def test_a_refusal_by_redis_says_no_more_than_that_this_question_did_not_fit():
    at = alone(model_tokens_per_day=10_000, model_requests_per_month=100, user_tokens_per_day=10_000)
    heard(at, asked(tokens=1_000, user="u"), {1: 1_000, 3: 39, 7: 1_000})
    at.ended(asked(tokens=6_001, user="u"), "day", "tokens")  # 4,000 are taken, at least: 6,000 are left at most
    with pytest.raises(QuotaSpent, match="tokens per day of this tenant"):
        at.quota(asked(tokens=6_001), AWAY)
    with pytest.raises(ModelUnavailable):
        at.quota(asked(tokens=3_001), AWAY)
    assert passes(at, asked(tokens=100)) == 30, "half of what is left, of tokens and of the month's requests"
    at.ended(asked(tokens=9_001, user="v"), "user", "tokens")
    assert passes(at, asked(tokens=501, user="v")) == 0, "of what is left at most nothing was heard: a tenth, as before"


def test_a_share_is_not_granted_again_with_every_absence():
    """INVARIANT: if this fails, a Redis that goes and comes lets each process take a quota as often as it goes."""
    at = alone(
        model_requests_per_day=100, user_requests_per_day=40, provider_limits={"m": ModelLimits(requests_per_day=100)}
    )
    heard(at, asked(user="u"), {0: 39, 6: 19})
    assert [passes(at, asked(user="u")), goes(at)] == [10, 5]
    for _ in range(2):
        at.returned()
        assert [passes(at, asked(user="u")), goes(at)] == [0, 0]
    assert passes(at, asked()) == 20, "others of the tenant have what is left of its share"
    heard(at, asked(), {0: 69})
    assert passes(at, asked(user="u")) == 0, "of the user nothing was heard"
    assert passes(at, asked()) == 15


def test_a_tenants_own_quota_holds_as_well():
    at = alone()
    at._policies._tenants["acme"] = at._policies.merged(Exceptions(users={"u": Amounts(requests=20)}))
    assert passes(at, asked(user="u")) == 1
    assert passes(at, asked(user="v")) == 50
