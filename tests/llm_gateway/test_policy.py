"""What a tenant, its users and its replays may ask for."""

from __future__ import annotations

from infra.settings import Settings
from llm_gateway.policy import REPLAYS, Amounts, Exceptions, Policies


def policies(**given: int) -> Policies:
    return Policies(Settings(_env_file=None, **given))


def test_replays_have_a_quota_of_their_own_beside_that_of_people():
    found = policies(replay_requests_per_day=70, user_requests_per_day=5).of("acme")
    assert found.user(REPLAYS) == Amounts(requests=70)
    assert found.user("userId:7").requests == 5


def test_a_tenants_exceptions_leave_its_replays_quota_unless_they_name_it():
    base = policies(replay_requests_per_day=70)
    assert base.merged(Exceptions(users={"userId:7": Amounts(requests=9)})).user(REPLAYS).requests == 70
    assert base.merged(Exceptions(users={REPLAYS: Amounts(requests=3)})).user(REPLAYS).requests == 3
