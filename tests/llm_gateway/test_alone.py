"""What one process allows itself while Redis is away."""

from __future__ import annotations

import time
from typing import Any

import pytest

from infra.redis_wire import RedisAway
from infra.settings import ModelLimits, Settings
from llm_gateway.alone import Alone
from llm_gateway.policy import Amounts, Exceptions, Policies
from llm_gateway.prompt import ModelUnavailable, QuotaSpent, RateLimited
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Line, Question, today
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


async def test_the_providers_day_ends_for_a_share_of_it():
    at = alone(2, provider_limits={"m": ModelLimits(requests_per_day=100), "*": ModelLimits(tokens_per_day=600)})
    for _ in range(3):
        await at.turn(asked(10), 1.0, AWAY)
    with pytest.raises(RateLimited):
        await at.turn(asked(10), 1.0, AWAY)


def test_a_tenants_own_quota_holds_as_well():
    at = alone()
    at._policies._tenants["acme"] = at._policies.merged(Exceptions(users={"u": Amounts(requests=20)}))
    assert passes(at, asked(user="u")) == 1
    assert passes(at, asked(user="v")) == 50
