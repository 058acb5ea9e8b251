"""The gateway on a real Valkey and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, Field, SecretStr

from infra.database.engine import build_engine
from infra.keyring import DataKey
from infra.local.groq_stand_in import GroqStandIn, Step
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway import attempts, pricing
from llm_gateway.gateway import Gateway
from llm_gateway.prompt import (
    Answer,
    Caller,
    InputRefused,
    ModelUnavailable,
    OutputInvalid,
    Prompt,
    QuotaSpent,
    RateLimited,
)
from llm_gateway.providers.provider import Completed, Completion, Headroom, ProviderFailure
from llm_gateway.reading import taken_by

pytestmark = pytest.mark.connected

ROOT = Path(__file__).parents[2]
NOTE = "Ada Lovelace wants a rebate"


class Verdict(BaseModel):
    score: int = Field(ge=0, le=100)
    grade: Literal["A", "B", "C"]
    why: str


GOOD = '{"score": 7, "grade": "A", "why": "says so"}'


class Scripted:
    """A provider that says what it was given, then GOOD."""

    name = "scripted"

    def __init__(self, *moves: str | Completed | Exception) -> None:
        self.moves = list(moves)
        self.asked: list[Completion] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def complete(self, request: Completion) -> Completed:
        self.asked.append(request)
        self.began.set()
        await self.gate.wait()
        move = self.moves.pop(0) if self.moves else GOOD
        if isinstance(move, Exception):
            raise move
        return (
            move if isinstance(move, Completed) else Completed(move, request.model, input_tokens=100, output_tokens=20)
        )

    async def close(self) -> None: ...


def question(number: int = 0, **changes: Any) -> Prompt[Verdict]:
    made = Prompt(
        name="verdict",
        version="1",
        system="You judge leads.",
        user=f'{{"note":"{NOTE}","number":{number}}}',
        answer=Verdict,
        facts={"number": number},
        rules=lambda facts: Verdict(score=facts["number"] % 101, grade="B", why="by rule"),
    )
    return replace(made, **changes)


def data_key(tenant: str) -> DataKey:
    return DataKey(
        id=secrets.token_hex(16),
        tenant=tenant,
        scope="record",
        name=f"{tenant}/a/contact/7",
        material=secrets.token_bytes(32),
    )


@pytest.fixture
def caller(tenant: str) -> Caller:
    return Caller(tenant=tenant, account="hubspot:1", user="42", analysis="lead_intel", key=data_key(tenant))


Opener = Callable[..., Any]


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Opener]:
    """Opens gateways, each with clients of its own as a replica has."""
    closing: list[tuple[Gateway, Any, Any]] = []

    async def open_(provider: Any = None, *, start: bool = True, **changes: Any) -> Gateway:
        mine = settings.model_copy(update={"provider": "offline", **changes})
        redis, engine = build_redis(mine), build_engine(mine)
        gateway = Gateway(mine, redis, engine, provider)
        if start:
            await gateway.start()
        closing.append((gateway, redis, engine))
        return gateway

    yield open_
    for gateway, redis, engine in closing:
        await gateway.stop()
        await redis.aclose()
        await engine.dispose()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Any]:
    client = build_redis(settings)
    yield client
    await client.aclose()


async def keys(redis: Any, tenant: str) -> list[bytes]:
    return [key async for key in redis.scan_iter(match=f"hookline:llm:*{tenant}*", count=1000)]


async def usage(settings: Settings, tenant: str) -> list[Any]:
    engine = build_engine(settings)
    async with engine.connect() as connection:
        found = (
            await connection.execute(sa.text("select * from llm_usage where tenant = :t order by model"), {"t": tenant})
        ).all()
    await engine.dispose()
    return list(found)


async def asked_at_once(gateways: list[Gateway], caller: Caller, count: int, **options: Any) -> list[Any]:
    return await asyncio.gather(
        *(gateways[n % len(gateways)].ask(question(n), caller, **options) for n in range(count)), return_exceptions=True
    )


async def eventually(gateway: Gateway, prompt: Prompt[Verdict], caller: Caller) -> Answer[Verdict]:
    """The answer, as soon as the quota allows."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await gateway.ask(prompt, caller)
            except QuotaSpent:
                await asyncio.sleep(0.05)


# the cache


async def test_the_offline_rules_pass_through_cache_and_accounts_under_their_own_name(
    opened: Opener, settings: Settings, caller: Caller
):
    gateway = await opened()
    first, second = await gateway.ask(question(7), caller), await gateway.ask(question(7), caller)
    assert (first.value, first.model, first.provider, first.cached) == (
        Verdict(score=7, grade="B", why="by rule"),
        "offline-rules",
        "offline",
        False,
    )
    assert (second.value, second.cached, second.usage.cached, second.usage.cost_usd) == (first.value, True, True, 0)
    assert (gateway.stats().calls, gateway.stats().cache_hits) == (1, 1)
    await gateway.stop()
    [row] = await usage(settings, caller.tenant)
    assert (row.user, row.analysis, row.model, row.prompt_version) == ("42", "lead_intel", "offline-rules", "1")
    assert (row.calls, row.cache_hits, row.input_tokens, row.cost_usd) == (1, 1, 0, 0)


async def test_another_replica_finds_the_answer(opened: Opener, caller: Caller):
    provider = Scripted()
    one, other = await opened(provider), await opened(provider)
    await one.ask(question(), caller)
    await one.core.drained()
    assert (await other.ask(question(), caller)).cached
    assert len(provider.asked) == 1


async def test_tenants_and_records_never_share_an_answer(opened: Opener, caller: Caller):
    """INVARIANT: if this fails, a customer reads another customer's answer."""
    provider = Scripted()
    gateway = await opened(provider)
    elsewhere = f"{caller.tenant}x"
    for each in (
        caller,
        replace(caller, tenant=elsewhere, key=data_key(elsewhere)),
        replace(caller, key=data_key(caller.tenant)),
    ):
        assert not (await gateway.ask(question(), each)).cached
    assert len(provider.asked) == 3


async def test_nothing_of_question_or_answer_is_readable_in_redis(opened: Opener, redis: Any, caller: Caller):
    """INVARIANT: if this fails, Redis holds customers' words, and erasing a record's key does not erase them."""
    gateway = await opened(Scripted('{"score": 1, "grade": "A", "why": "Ada Lovelace asked"}'))
    await gateway.ask(question(), replace(caller, user="ada@example.com"))
    found = await keys(redis, caller.tenant)
    assert any(b":a:" in key for key in found)
    for key in found:
        dump = await redis.dump(key)
        for word in (b"Ada", b"Lovelace", b"ada@example.com", b"judge"):
            assert word not in key
            assert word not in dump


async def test_an_entry_that_was_tampered_with_is_asked_anew(opened: Opener, redis: Any, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider)
    await gateway.ask(question(), caller)
    [entry] = [key for key in await keys(redis, caller.tenant) if b":a:" in key]
    assert 0 < await redis.ttl(entry) <= 7 * 86_400
    await redis.set(entry, b"\x01" + b"garbage" * 20)
    assert not (await gateway.ask(question(), caller)).cached
    assert len(provider.asked) == 2


async def test_a_ttl_of_nought_keeps_nothing(opened: Opener, redis: Any, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider, cache_ttl_seconds=0)
    await gateway.ask(question(), caller)
    assert not (await gateway.ask(question(), caller)).cached
    assert not [key for key in await keys(redis, caller.tenant) if b":a:" in key]


async def test_equal_questions_at_once_are_one_call(opened: Opener, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider)
    answers: list[Answer[Verdict]] = await asyncio.gather(*(gateway.ask(question(), caller) for _ in range(64)))
    assert len(provider.asked) == 1
    assert sum(answer.cached for answer in answers) == 63
    assert len({id(answer.value) for answer in answers}) == 64, "who changes its answer must not change another's"


# what models say


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("I am sorry, but I think it is a good lead.", "PROSE"),
        (GOOD[:25], "TRUNCATED"),
        (Completed(GOOD[:25], "m", finish_reason="length"), "TRUNCATED"),
        (GOOD.replace('"A"', '"Z"'), "SCHEMA"),
        ("", "EMPTY"),
    ],
)
async def test_an_answer_of_no_use_is_repaired_once_and_then_given_up(
    opened: Opener, caller: Caller, said: Any, outcome: str
):
    provider = Scripted(said, GOOD, said, said, GOOD)
    gateway = await opened(provider, cache_ttl_seconds=60)
    repaired = await gateway.ask(question(1), caller)
    assert repaired.value.score == 7
    assert len(provider.asked) == 2
    before, after = provider.asked[0].messages, provider.asked[1].messages
    assert after[:2] == before, "the stable beginning stays, for the provider's prompt cache"
    assert len(after) == 3
    with pytest.raises(OutputInvalid) as raised:
        await gateway.ask(question(2), caller)
    assert raised.value.outcome == outcome
    assert len(provider.asked) == 4
    assert not (await gateway.ask(question(2), caller)).cached, "a failure is not kept"
    assert gateway.stats().calls == 5
    assert gateway.stats().repairs == 2


async def test_a_refusal_is_not_argued_with(opened: Opener, caller: Caller):
    provider = Scripted(Completed("I will not.", "m", refused=True))
    with pytest.raises(OutputInvalid) as raised:
        await (await opened(provider)).ask(question(), caller)
    assert raised.value.outcome == "REFUSED"
    assert len(provider.asked) == 1


async def test_a_question_too_long_for_the_model_is_not_sent(opened: Opener, caller: Caller):
    provider = Scripted()
    with pytest.raises(InputRefused, match="131072"):
        await (await opened(provider)).ask(question(user="x" * 400_000), caller)
    assert provider.asked == []


# quotas


async def test_never_more_than_the_tenants_quota_pass(opened: Opener, caller: Caller):
    """INVARIANT: if this fails, a tenant spends more than it may, the more replicas there are the more."""
    gateways = [await opened(Scripted(), model_requests_per_day=50) for _ in range(3)]
    results = await asked_at_once(gateways, caller, 200)
    passed = [result for result in results if isinstance(result, Answer)]
    spent = [result for result in results if isinstance(result, QuotaSpent)]
    assert (len(passed), len(spent)) == (50, 150)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert abs(spent[0].resets_at - tomorrow) < timedelta(seconds=5)
    assert "tenant" in spent[0].scope


async def test_a_users_quota_stops_the_user_and_nobody_else(opened: Opener, caller: Caller):
    gateway = await opened(Scripted(), user_requests_per_day=5)
    results = await asked_at_once([gateway], caller, 8)
    assert sum(isinstance(result, QuotaSpent) for result in results) == 3
    assert await gateway.ask(question(100), replace(caller, user="43"))
    assert await gateway.ask(question(101), replace(caller, user="")), "nobody known: the tenant's quota alone"


@pytest.mark.parametrize("what", ["requests", "tokens", "dollars"])
async def test_cached_answers_cost_no_quota(opened: Opener, caller: Caller, request: pytest.FixtureRequest, what: str):
    pricing.hold({("scripted", "openai/gpt-oss-120b"): pricing.Price(1.0, 1.0, 1.0)}, {})
    request.addfinalizer(lambda: pricing.hold({}, {}))
    [door] = (await opened(Scripted()))._doors.values()
    most = door.question(question(), caller, door.turns(question()), digest=None, ttl=0).most_tokens
    # Each takes 120 tokens and reserves `most`: there is room for two, if nothing else is counted.
    room = most + 130
    limit = {"requests": 2, "tokens": room, "dollars": room / 1e6}[what]
    gateway = await opened(Scripted(), **{f"model_{what}_per_day": limit})
    await gateway.ask(question(), caller)
    for _ in range(5):
        assert (await gateway.ask(question(), caller)).cached
    await gateway.core.drained()
    assert not (await gateway.ask(question(1), caller)).cached
    await gateway.core.drained()
    with pytest.raises(QuotaSpent, match=f"{what} per day"):
        await gateway.ask(question(2), caller)


async def test_what_was_given_up_comes_back(opened: Opener, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider, model_requests_per_day=1)
    provider.gate.clear()
    asking = asyncio.create_task(gateway.ask(question(), caller))
    await provider.began.wait()
    with pytest.raises(QuotaSpent):
        await gateway.ask(question(1), caller)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    provider.gate.set()
    await eventually(gateway, question(1), caller)


async def test_what_was_sent_and_not_heard_of_costs_its_input_in_quotas_and_accounts(
    opened: Opener, settings: Settings, redis: Any, caller: Caller
):
    """INVARIANT: if this fails, a model that hangs, and callers that leave, spend money that no budget sees."""
    provider = Scripted()
    provider.name = "groq"  # whose prices are known
    gateway = await opened(provider, model="openai/gpt-oss-20b")
    provider.gate.clear()
    with pytest.raises(ModelUnavailable, match="TIMEOUT"):
        await gateway.ask(question(), caller, deadline_seconds=0.5)
    assert len(provider.asked) == 1, "what took all the time is not asked again"
    asking = asyncio.create_task(gateway.ask(question(1), caller))
    while len(provider.asked) < 2:  # noqa: ASYNC110 -- the provider tells nobody
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    provider.gate.set()
    provider.moves = [ProviderFailure("SERVER_ERROR", "as scripted", retry=False)]
    with pytest.raises(ModelUnavailable, match="SERVER_ERROR"):
        await gateway.ask(question(2), caller)
    await gateway._ledger.flush()
    [row] = await usage(settings, caller.tenant)
    assert (row.calls, row.attempts, row.output_tokens) == (0, 2, 0)
    assert row.input_tokens > 0
    assert row.cost_usd > 0
    taken = (await taken_by(redis, gateway.policies, caller.tenant))["quotas"]
    assert taken["requests per day"]["taken"] == 0
    assert taken["tokens per day"]["taken"] == row.input_tokens
    assert taken["dollars per day"]["taken"] == pytest.approx(float(row.cost_usd))
    await redis.delete(*await keys(redis, caller.tenant))
    await gateway.ask(question(3), caller)
    await gateway.core.drained()
    rebuilt = (await taken_by(redis, gateway.policies, caller.tenant))["quotas"]
    assert rebuilt["tokens per day"]["taken"] == row.input_tokens + 120
    assert rebuilt["requests per day"]["taken"] == 1


# the minute


async def test_the_gateway_waits_its_turn_within_the_deadline(opened: Opener, caller: Caller):
    gateway = await opened(Scripted(), model_requests_per_minute=20, model_window_seconds=2.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asked_at_once([gateway], caller, 14, deadline_seconds=20)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert loop.time() - began > 0.2, "half of a minute goes at once, the rest is paced"
    asked = (gateway.ask(question(2_000 + n), caller, deadline_seconds=1.0) for n in range(40))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(result, RateLimited) for result in results)
    # Who got a turn at the end of its time may have had too little left for the call itself.
    assert all(isinstance(result, Answer | RateLimited | ModelUnavailable) for result in results)
    assert loop.time() - began < 15


# Redis and Postgres come and go


async def test_redis_found_empty_is_filled_from_postgres_before_the_first_grant(
    opened: Opener, redis: Any, caller: Caller
):
    """INVARIANT: if this fails, restarting Redis gives every tenant its day again."""
    gateway = await opened(Scripted(), model_requests_per_day=40, user_requests_per_day=35)
    await asked_at_once([gateway], caller, 30)
    await redis.delete(*await keys(redis, caller.tenant))
    other = await opened(Scripted(), model_requests_per_day=40, user_requests_per_day=35)
    await gateway._ledger.flush()
    results = await asked_at_once([other], replace(caller, key=data_key(caller.tenant)), 20)
    assert sum(isinstance(result, Answer) for result in results) == 5, "the user's quota was rebuilt too"
    results = await asked_at_once([other], replace(caller, user="43", key=data_key(caller.tenant)), 20)
    assert sum(isinstance(result, Answer) for result in results) == 5


async def test_what_another_replica_had_not_written_yet_is_counted_when_it_writes(
    opened: Opener, redis: Any, caller: Caller
):
    slow, other = (
        await opened(Scripted(), start=False, model_requests_per_day=40),
        await opened(Scripted(), model_requests_per_day=40),
    )
    await asked_at_once([slow], caller, 30)
    await redis.delete(*await keys(redis, caller.tenant))
    assert await other.ask(question(100), caller)
    await slow._ledger.flush()
    results = await asked_at_once([other], replace(caller, key=data_key(caller.tenant)), 20)
    assert sum(isinstance(result, Answer) for result in results) == 9


async def test_a_question_under_way_while_redis_lost_its_state_is_counted(opened: Opener, redis: Any, caller: Caller):
    provider = Scripted()
    gateway, other = (
        await opened(provider, model_requests_per_day=2),
        await opened(Scripted(), model_requests_per_day=2),
    )
    provider.gate.clear()
    asking = asyncio.create_task(gateway.ask(question(), caller))
    await provider.began.wait()
    await redis.delete(*await keys(redis, caller.tenant))
    await other.ask(question(1), caller)
    provider.gate.set()
    await asking
    await gateway.core.drained()
    with pytest.raises(QuotaSpent):
        await other.ask(question(2), caller)


async def test_scripts_that_redis_forgot_are_sent_again(opened: Opener, redis: Any, caller: Caller):
    gateway = await opened(Scripted())
    await gateway.ask(question(), caller)
    await redis.script_flush()
    results = await asked_at_once([gateway], caller, 20)
    assert all(isinstance(result, Answer) for result in results)


class Relay:
    """TCP between the gateway and Redis, which the test can cut or freeze."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.frozen = False
        self._pipes: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        netloc = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{netloc + '@' if netloc else ''}127.0.0.1:{self._port}"))

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self) -> None:
        self._server.close()
        for pipe in list(self._pipes):
            pipe.close()

    async def back(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._pipes |= {writer, there[1]}
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.frozen:
                    sink.write(data)
        except OSError:
            pass
        finally:
            sink.close()


async def until_shared(gateway: Gateway) -> None:
    async with asyncio.timeout(5):
        while not gateway.core.shared:  # noqa: ASYNC110 -- it is told to nobody
            await asyncio.sleep(0.01)


async def test_closed_quotas_say_at_once_that_redis_is_away_and_open_when_it_is_back(
    opened: Opener, settings: Settings, caller: Caller
):
    """INVARIANT: if this fails, a Redis that is away hangs every question while the role looks healthy."""
    assert settings.redis_url is not None
    relay = Relay(settings.redis_url.get_secret_value())
    loop = asyncio.get_running_loop()
    async with relay as url:
        gateway = await opened(Scripted(), redis_url=SecretStr(url), quotas_without_redis="closed")
        await gateway.ask(question(), caller)
        await relay.cut()
        began = loop.time()
        results = await asked_at_once([gateway], caller, 20)
        assert loop.time() - began < 2.5
        assert {result.cause for result in results} == {"REDIS_AWAY"}
        await relay.back()
        began = loop.time()
        await until_shared(gateway)
        assert loop.time() - began < 5, "back to shared limits within 5 s"
        assert await gateway.ask(question(1), caller)
        relay.frozen = True
        began = loop.time()
        with pytest.raises(ModelUnavailable) as raised:
            await gateway.ask(question(2), caller)
        assert raised.value.cause == "REDIS_AWAY"
        assert loop.time() - began < 2.5
        began = loop.time()
        await asked_at_once([gateway], caller, 50)
        assert loop.time() - began < 0.5, "once is enough to find out: nobody else waits for a Redis that hangs"
        relay.frozen = False


async def test_open_quotas_go_on_with_a_local_share_and_are_counted_when_redis_is_back(
    opened: Opener, settings: Settings, caller: Caller
):
    """INVARIANT: if this fails, a Redis that is away stops all work, or lets every replica take the whole limit."""
    assert settings.redis_url is not None
    relay = Relay(settings.redis_url.get_secret_value())
    async with relay as url:
        provider = Scripted()
        changes = {"redis_url": SecretStr(url), "model_requests_per_day": 40, "gateway_replicas": 4}
        gateway = await opened(provider, model_requests_per_minute=100_000, **changes)
        await asked_at_once([gateway], caller, 20)
        await gateway.core.drained()
        await relay.cut()
        results = await asked_at_once([gateway], replace(caller, key=data_key(caller.tenant)), 30)
        assert sum(isinstance(result, Answer) for result in results) == 5, "a quarter of the 20 that were left"
        assert {result.cause for result in results if not isinstance(result, Answer)} == {"REDIS_AWAY"}
        await relay.back()
        await until_shared(gateway)
        await gateway._ledger.flush()
        results = await asked_at_once([gateway], replace(caller, key=data_key(caller.tenant)), 30)
        assert sum(isinstance(result, Answer) for result in results) == 15
        assert len(provider.asked) == 40


@pytest.mark.parametrize(
    ("quota", "whose"),
    [("model_requests_per_month", "month of this tenant"), ("user_requests_per_day", "day of this user")],
)
async def test_a_quota_that_is_spent_is_spent_without_redis_and_what_was_left_is_shared(
    opened: Opener, settings: Settings, caller: Caller, quota: str, whose: str
):
    """INVARIANT: if this fails, who has nothing left is served whenever Redis is away."""
    assert settings.redis_url is not None
    relay = Relay(settings.redis_url.get_secret_value())
    async with relay as url:
        changes: dict[str, Any] = {"redis_url": SecretStr(url), quota: 10, "gateway_replicas": 2}
        gateway = await opened(Scripted(), model_requests_per_minute=100_000, **changes)
        await asked_at_once([gateway], caller, 4)
        await gateway.core.drained()
        await relay.cut()
        results = await asked_at_once([gateway], replace(caller, key=data_key(caller.tenant)), 8)
        assert sum(isinstance(result, Answer) for result in results) == 3, "half of the 6 that were left"
        await relay.back()
        await until_shared(gateway)
        await gateway._ledger.flush()
        results = await asked_at_once([gateway], replace(caller, key=data_key(caller.tenant)), 8)
        assert sum(isinstance(result, Answer) for result in results) == 3, "what is left of 10"
        await relay.cut()
        with pytest.raises(QuotaSpent, match=f"requests per {whose}"):
            await gateway.ask(question(9_999), caller)


async def test_limits_that_the_providers_headers_told_hold_without_redis(
    opened: Opener, settings: Settings, caller: Caller
):
    """INVARIANT: if this fails, the default settings know no limit of the provider's while Redis is away."""
    assert settings.redis_url is not None
    relay = Relay(settings.redis_url.get_secret_value())
    async with relay as url:
        left = Headroom(requests=6, requests_limit=1_000, tokens=10**6, tokens_limit=10**6)
        provider = Scripted(Completed(GOOD, "m", 100, 20, headroom=left))
        gateway = await opened(
            provider, redis_url=SecretStr(url), gateway_replicas=2, model_requests_per_minute=100_000,
            model_tokens_per_minute=10**9,
        )  # fmt: skip
        await gateway.ask(question(), caller)
        await gateway.core.drained()
        await relay.cut()
        results = await asked_at_once([gateway], replace(caller, key=data_key(caller.tenant)), 8)
        assert sum(isinstance(result, Answer) for result in results) == 3, "half of the 6 that were left of the day"
        refused = [result for result in results if not isinstance(result, Answer)]
        assert {(result.cause, result.retry_after) for result in refused} == {("REDIS_AWAY", 2.0)}, "not until midnight"


async def test_an_answer_that_was_paid_for_is_given_though_redis_has_gone(
    opened: Opener, settings: Settings, caller: Caller
):
    assert settings.redis_url is not None
    relay = Relay(settings.redis_url.get_secret_value())
    async with relay as url:
        provider = Scripted()
        gateway = await opened(provider, start=False, redis_url=SecretStr(url), model_requests_per_day=2)
        provider.gate.clear()
        asking = asyncio.create_task(gateway.ask(question(), caller))
        await provider.began.wait()
        await relay.cut()
        provider.gate.set()
        assert (await asking).value.score == 7
        await relay.back()
        await until_shared(gateway)
        await gateway._ledger.flush()
        await gateway.ask(question(1), caller)
        with pytest.raises(QuotaSpent):
            await gateway.ask(question(2), caller)
    [row] = await usage(settings, caller.tenant)
    assert row.calls >= 1


async def test_without_postgres_nothing_is_granted_after_a_loss_but_counting_goes_on(
    opened: Opener, redis: Any, settings: Settings, caller: Caller
):
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:9/none")
    fresh = await opened(Scripted(), start=False, database_url=nowhere)
    with pytest.raises(ModelUnavailable) as raised:
        await fresh.ask(question(), caller)
    assert raised.value.cause == "DATABASE_AWAY"
    known = await opened(Scripted(), start=False)
    await known.ask(question(), caller)
    assert (await fresh.ask(question(1), caller)).value, "Redis knows the day: Postgres is not needed to ask"
    with pytest.raises(sa.exc.OperationalError):
        await fresh._ledger.flush()
    fresh._ledger._engine, away = known._ledger._engine, fresh._ledger._engine
    await fresh._ledger.flush()
    await known._ledger.flush()
    fresh._ledger._engine = away
    [row] = await usage(settings, caller.tenant)
    assert row.calls == 2


async def test_replicas_add_to_the_same_rows(opened: Opener, settings: Settings, caller: Caller):
    gateways = [await opened(Scripted()) for _ in range(3)]
    await asked_at_once(gateways, caller, 30)
    await asyncio.gather(*(gateway.stop() for gateway in gateways))
    [row] = await usage(settings, caller.tenant)
    assert (row.calls, row.input_tokens, row.output_tokens) == (30, 3_000, 600)


# the model


async def test_a_model_that_never_answers_ends_with_the_deadline_and_costs_no_quota(opened: Opener, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider, model_requests_per_day=1)
    provider.gate.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ModelUnavailable) as raised:
        await gateway.ask(question(), caller, deadline_seconds=0.4)
    assert raised.value.cause == "TIMEOUT"
    assert loop.time() - began < 0.8
    provider.gate.set()
    await eventually(gateway, question(), caller)


async def test_a_gateway_that_stops_tells_its_callers_and_gives_back_what_they_held(opened: Opener, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider, model_requests_per_day=1)
    provider.gate.clear()
    asking = asyncio.create_task(gateway.ask(question(), caller))
    await provider.began.wait()
    await gateway.stop()
    with pytest.raises(ModelUnavailable) as raised:
        await asking
    assert raised.value.cause == "STOPPING"
    assert await (await opened(Scripted(), model_requests_per_day=1)).ask(question(), caller)


async def test_who_has_more_time_than_the_first_one_gets_an_answer(opened: Opener, caller: Caller):
    provider = Scripted()
    gateway = await opened(provider)
    provider.gate.clear()
    hasty = asyncio.create_task(gateway.ask(question(), caller, deadline_seconds=0.3))
    await provider.began.wait()
    patient = asyncio.create_task(gateway.ask(question(), caller, deadline_seconds=20))
    with pytest.raises(ModelUnavailable):
        await hasty
    provider.gate.set()
    assert (await patient).value.score == 7


async def test_groq_over_http_is_asked_retried_priced_and_accounted(settings: Settings, caller: Caller):
    stand_in = GroqStandIn(lambda _: GOOD)
    stand_in.script.extend([Step(status=500), Step(status=429, retry_after=0.2), Step(text="Well, let me think.")])
    async with stand_in.serve() as url:
        groq = settings.model_copy(update={"provider": "auto", "groq_api_key": SecretStr("k"), "groq_base_url": url})
        redis, engine = build_redis(groq), build_engine(groq)
        # A priced model has one name for all tests: what another one did to its circuit is not what is tested here.
        await redis.delete(f"hookline:llm:b:groq:{groq.model}")
        gateway = Gateway(groq, redis, engine)
        await gateway.start()
        answer = await gateway.ask(question(), caller)
        assert (await gateway.ask(question(), caller)).cached
        await gateway.stop()
        await redis.aclose()
        await engine.dispose()
    assert len(stand_in.asked) == 4
    assert (answer.value.score, answer.model, answer.provider) == (7, "openai/gpt-oss-120b", "groq")
    assert answer.usage.cost_usd > 0
    [row] = await usage(settings, caller.tenant)
    assert (row.calls, row.cache_hits) == (2, 1), "the answer of no use and its repair were paid; the failures were not"
    assert row.input_tokens == answer.usage.input_tokens
    assert float(row.cost_usd) == pytest.approx(answer.usage.cost_usd, rel=1e-3)


async def test_spans_follow_the_conventions_and_hold_no_content(
    opened: Opener, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(attempts, "tracer", lambda: trace.get_tracer("test", tracer_provider=provider))
    gateway = await opened(Scripted(GOOD.replace("says so", NOTE)))
    await gateway.ask(question(), caller)
    await gateway.ask(question(), caller)
    [span] = exporter.get_finished_spans()
    assert span.name == "chat openai/gpt-oss-120b"
    told = dict(span.attributes or {})
    assert told["gen_ai.operation.name"] == "chat"
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (100, 20)
    assert NOTE not in span.to_json()
    assert "judge" not in span.to_json()
