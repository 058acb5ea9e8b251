"""Questions that wait for a provider's batch, on a real Valkey, a real PostgreSQL and the Groq stand-in."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.local.groq_stand_in import GroqStandIn, Step
from infra.privacy.wiping import wipe
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway import pricing
from llm_gateway.batch import steps
from llm_gateway.batch.collector import Collector, Pace
from llm_gateway.gateway import Gateway
from llm_gateway.policy import Amounts, Exceptions
from llm_gateway.prompt import Caller, QuotaSpent, WaitsForBatch
from llm_gateway.providers.provider import BatchProvider, BatchRefused, Completed, ProviderBatch, ProviderFailure
from schemas.record import RecordRef
from tests.connected.test_gateway import GOOD, NOTE, question

pytestmark = pytest.mark.connected

# Is no default of ours: circuits are shared with whoever uses the same Redis.
MODEL = "qwen/qwen3.8-27b"


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Faulty:
    """A provider whose process dies, or whose network does, before or after one of its calls has had its effect."""

    inner: Any
    at: str = ""
    """`before upload`, `after create_batch`, ...; '' for nowhere."""
    error: BaseException = field(default_factory=Crash)
    called: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.key, self.host = self.inner.name, self.inner.key, self.inner.host

    def body(self, request: Any) -> Mapping[str, Any]:
        return self.inner.body(request)

    async def complete(self, request: Any) -> Completed:
        return await self.inner.complete(request)

    async def close(self) -> None:
        await self.inner.close()

    async def _through(self, name: str, *given: Any) -> Any:
        self.called.append(name)
        self._step(f"before {name}")
        found = await getattr(self.inner, name)(*given)
        self._step(f"after {name}")
        return found

    def _step(self, place: str) -> None:
        if self.at == place:
            self.at = ""
            raise self.error

    async def upload(self, name: str, content: bytes) -> str:
        return await self._through("upload", name, content)

    async def files_named(self, name: str) -> list[str]:
        return await self._through("files_named", name)

    async def content(self, file_id: str) -> bytes | None:
        return await self._through("content", file_id)

    async def delete_file(self, file_id: str) -> None:
        await self._through("delete_file", file_id)

    async def create_batch(self, file_id: str, label: str) -> ProviderBatch:
        return await self._through("create_batch", file_id, label)

    async def batch_of(self, file_id: str, label: str) -> ProviderBatch | None:
        return await self._through("batch_of", file_id, label)

    async def batch(self, id: str) -> ProviderBatch | None:  # noqa: A002 -- the protocol's
        return await self._through("batch", id)


@dataclass
class Place:
    """One tenant's gateway, whose questions wait, and a collector that looks when it is told to."""

    settings: Settings
    tenant: str
    stand_in: GroqStandIn
    engine: Any
    redis: Any
    keyring: Keyring
    gateway: Gateway
    released: int = 0

    async def caller(self, record: int = 0, **more: Any) -> Caller:
        ref = RecordRef(self.tenant, "hubspot:1", "contact", str(record))
        key = (await self.keyring.for_records([ref]))[ref]
        given = {"lane": "bulk", "can_wait": "yes", **more}
        return Caller(self.tenant, "hubspot:1", "42", "lead_intel", key, **given)

    async def waits(self, number: int = 0, **more: Any) -> None:
        with pytest.raises(WaitsForBatch):
            await self.gateway.ask(question(number), await self.caller(number, **more))

    def collector(self, provider: Any = None, *, on: bool = True, most: int = 1, **more: Any) -> Collector:
        async def release() -> None:
            self.released += 1

        providers: list[BatchProvider] = self.gateway.batch_providers() if provider is None else [provider]
        return Collector(
            self.engine, self.redis, self.keyring, self.gateway.core, providers=providers,
            pace=Pace(on, 3_600.0, most), release=release, **more,
        )  # fmt: skip

    async def rows(self, table: str = "llm_batch_requests") -> list[Any]:
        async with self.engine.connect() as connection:
            return list(await connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY created_at")))

    async def run(self, statement: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(sa.text(statement))

    async def booked(self) -> Any:
        async with self.engine.connect() as connection:
            sums = "sum(calls) AS calls, sum(batched) AS batched, sum(cost_usd) AS cost, sum(batch_saved_usd) AS saved, sum(input_tokens) AS tokens"
            query = sa.text(f"SELECT {sums} FROM llm_usage WHERE tenant = :t")
            return (await connection.execute(query, {"t": self.tenant})).one()

    async def quota(self) -> tuple[int, int]:
        """Requests and tokens of the day, reserved ones included."""
        await self.gateway.core.drained()
        found = await self.redis.hmget(f"hookline:llm:q:{self.tenant}", "dn", "dt")
        return int(found[0] or 0), int(found[1] or 0)


def says(request: dict[str, Any]) -> str:
    """A verdict that tells which question it answers."""
    number = json.loads(request["messages"][1]["content"])["number"]
    return json.dumps({"score": number, "grade": "B", "why": "so it is"})


@pytest.fixture
async def place(migrated: Settings, tenant: str) -> AsyncIterator[Place]:
    stand_in = GroqStandIn(says)
    async with stand_in.serve() as url:
        mine = migrated.model_copy(
            update={
                "provider": "groq", "groq_api_key": SecretStr(secrets.token_hex(8)), "groq_base_url": url, "model": MODEL,
                "model_cheap": "", "model_batch": True,
            }
        )  # fmt: skip
        redis, engine = build_redis(mine), build_engine(mine)
        assert mine.master_keys is not None
        gateway = Gateway(mine, redis, engine)
        await gateway.start()
        made = Place(mine, tenant, stand_in, engine, redis, Keyring(engine, mine.master_keys), gateway)
        # The database is shared with other tests, one after the other.
        await made.run("TRUNCATE llm_batches, llm_batch_requests")
        yield made
        await gateway.stop()
        await made.keyring.stop()
        await redis.aclose()
        await engine.dispose()


async def test_a_model_that_costs_nothing_goes_into_a_batch_where_dollars_are_limited(place: Place) -> None:
    place.gateway.policies._tenants[place.tenant] = place.gateway.policies.merged(Exceptions(day=Amounts(dollars=1.0)))
    pricing.hold({("groq", MODEL): pricing.Price(0.0, 0.0, 0.0)}, {})
    try:
        await place.waits()
    finally:
        pricing.hold({}, {})
    assert len(await place.rows()) == 1


async def test_questions_become_one_batch_at_half_the_price(place: Place):
    for number in range(5):
        await place.waits(number)
    reserved = await place.quota()
    assert reserved[0] == 5
    assert reserved[1] > 5_000, "the most that they may take is held while they wait"
    assert place.stand_in.saw.requests == 0
    assert await place.collector(most=5).look()
    assert (place.stand_in.saw.requests, place.stand_in.saw.batched, len(place.stand_in._batches)) == (0, 5, 1)
    answers = [
        await place.gateway.ask(question(number), await place.caller(number, can_wait="if_there"))
        for number in range(5)
    ]
    assert [answer.value.score for answer in answers] == list(range(5))
    assert all(answer.batched and not answer.cached and answer.model == MODEL for answer in answers)
    booked = await place.booked()
    assert (booked.calls, booked.batched) == (5, 5)
    tokens = place.stand_in.saw.prompt_tokens, place.stand_in.saw.completion_tokens
    assert booked.tokens == tokens[0]
    full = pricing.most_usd("groq", MODEL, *tokens)
    assert full > 0
    assert float(booked.cost) == pytest.approx(full / 2)
    assert float(booked.saved) == pytest.approx(full / 2)
    assert sum(answer.usage.cost_usd for answer in answers) == pytest.approx(full / 2)
    assert await place.quota() == (5, sum(tokens)), "what was held became what it was"
    assert place.stand_in.saw.requests == 0
    assert place.released == 1


async def test_nothing_of_question_or_answer_or_tenant_is_readable_on_the_way(place: Place):
    await place.waits(1)
    [row] = await place.rows()
    assert NOTE.encode() not in bytes(row.sealed_request)
    seen: list[bytes] = []
    provider: Any = Faulty(place.gateway.batch_providers()[0])
    upload = provider.upload

    async def watched(name: str, content: bytes) -> str:
        seen.append(name.encode() + content)
        return await upload(name, content)

    provider.upload = watched
    await place.collector(provider).look()
    assert NOTE.encode() in seen[0], "the provider must be asked in the clear"
    for secret in (place.tenant, "hubspot:1", bytes(row.digest).hex()):
        assert secret.encode() not in seen[0]
    [row] = await place.rows()
    assert row.sealed_request is None
    assert b"so it is" not in bytes(row.sealed_answer)
    assert place.stand_in._files == {}, "files are deleted once they are read"


async def test_a_live_question_goes_its_ordinary_way_at_the_same_time(place: Place):
    await place.waits(1)
    live = await place.caller(1, lane="live", can_wait="yes")
    answer = await place.gateway.ask(question(1), live)
    assert (answer.batched, place.stand_in.saw.requests) == (False, 1)
    await place.gateway.core.drained()
    assert await place.collector().look()
    assert place.stand_in.saw.batched == 0, "what the cache answers by now is asked of nobody"
    assert await place.rows() == []
    assert [row.outcome for row in await place.rows("llm_batches")] == ["empty"]


async def test_a_question_stands_once_however_often_it_comes(place: Place):
    for _ in range(3):
        await place.waits(1)
    # While it waited, our own write-back moved the day that stands in the question, and nothing that its analysis reads.
    reads = secrets.token_bytes(32)
    for day in ("2026-11-20", "2026-11-21"):
        with pytest.raises(WaitsForBatch):
            await place.gateway.ask(
                question(2, user=f'{{"number":2,"day":"{day}"}}'), await place.caller(2, reads=reads)
            )
    assert len(await place.rows()) == 2
    assert (await place.quota())[0] == 2


async def test_what_a_quota_holds_for_waiting_questions_is_not_spent_twice(place: Place):
    mine = place.settings.model_copy(update={"model_requests_per_day": 3})
    gateway = Gateway(mine, place.redis, place.engine)
    await gateway.start()
    place.gateway, before = gateway, place.gateway
    for number in range(3):
        await place.waits(number)
    with pytest.raises(QuotaSpent):
        await gateway.ask(question(3), await place.caller(3))
    assert await place.collector().look()
    with pytest.raises(QuotaSpent):
        await gateway.ask(question(3), await place.caller(3))
    place.gateway = before
    await gateway.stop()


# what may happen to it


async def test_an_answer_of_no_use_is_asked_for_alone(place: Place):
    place.stand_in.responder = lambda _request: "no JSON"
    await place.waits(1)
    assert await place.collector().look()
    place.stand_in.responder = lambda _request: GOOD
    answer = await place.gateway.ask(question(1), await place.caller(1))
    assert (answer.value.score, answer.batched, place.stand_in.saw.requests) == (7, False, 1)
    assert (await place.booked()).batched == 1, "it was paid for"
    [row] = await place.rows()
    assert (row.state, row.error, row.sealed_answer) == ("failed", "PROSE", None)


async def test_a_batch_that_expired_in_the_middle_keeps_what_it_brought(place: Place):
    for number in range(4):
        await place.waits(number)
    place.stand_in.script.append(Step(hang=3_600.0))
    collector = place.collector(most=4)
    assert await collector.look()
    assert [row.state for row in await place.rows()] == ["sent"] * 4
    [batch] = place.stand_in._batches.values()
    whole = place.stand_in._files[batch["output_file_id"]].splitlines(keepends=True)
    failed = json.loads(whole[2])
    failed |= {"response": None, "error": {"code": "request_expired", "message": "nobody repeats this"}}
    place.stand_in._files["file_errors"] = json.dumps(failed).encode() + b"\n"
    place.stand_in._files[batch["output_file_id"]] = b"".join(whole[:2])
    batch |= {"status": "expired", "error_file_id": "file_errors"}
    seen = place.stand_in._seen
    place.stand_in._seen = lambda each: seen(each) | {"output_file_id": each["output_file_id"]}  # type: ignore[method-assign]
    assert await collector.look()
    by_state = sorted((row.state, row.error) for row in await place.rows())
    assert by_state == [("answered", ""), ("answered", ""), ("failed", "EXPIRED"), ("failed", "request_expired")]
    assert (await place.quota())[0] == 2, "what is asked alone gives its place back"
    answers = [await place.gateway.ask(question(number), await place.caller(number)) for number in range(4)]
    assert [answer.value.score for answer in answers] == list(range(4))
    assert (sum(answer.batched for answer in answers), place.stand_in.saw.requests) == (2, 2)
    [ended] = await place.rows("llm_batches")
    assert (ended.outcome, ended.answered, ended.failed) == ("expired", 2, 2)


async def test_a_provider_that_makes_no_batches_is_asked_one_by_one(place: Place):
    await place.waits(1)
    place.stand_in.script.append(Step(status=403, code="not_available_for_plan"))
    assert await place.collector().look()
    assert [row.outcome for row in await place.rows("llm_batches")] == ["refused"]
    assert place.stand_in._files == {}
    for number in (1, 2):
        answer = await place.gateway.ask(question(number), await place.caller(number))
        assert not answer.batched
    assert place.stand_in.saw.requests == 2, "neither the one that waited nor the next one waits again"
    await place.run("UPDATE llm_batches SET ended_at = now() - interval '2 hours'")
    await place.waits(3)


@pytest.mark.parametrize("call", ["files_named", "upload", "batch_of"])
async def test_a_server_without_files_or_batches_costs_a_warning_and_nothing_else(place: Place, call: str):
    await place.waits(1)
    provider = place.gateway.batch_providers()[0]
    if call == "batch_of":
        lost = ProviderFailure("CONNECTION", "nobody knows", retry=True)
        await place.collector(Faulty(provider, "before create_batch", lost)).look()
    await place.collector(Faulty(provider, f"before {call}", BatchRefused("HTTP 404 unknown_url"))).look()
    assert [row.outcome for row in await place.rows("llm_batches")] == ["refused"]
    assert [(row.state, row.error) for row in await place.rows()] == [("failed", "REFUSED")]
    assert (await place.quota())[0] == 0
    assert not (await place.gateway.ask(question(1), await place.caller(1))).batched


async def test_a_provider_that_is_away_holds_nothing_up_for_good(place: Place):
    await place.waits(1)
    provider = Faulty(
        place.gateway.batch_providers()[0], "before upload", ProviderFailure("CONNECTION", "away", retry=True)
    )
    collector = place.collector(provider)
    assert await collector.look()
    assert [row.state for row in await place.rows("llm_batches")] == ["claimed"]
    assert await collector.look()
    assert [row.state for row in await place.rows()] == ["answered"]


async def test_nobody_collects_and_the_question_is_asked_alone_when_it_is_due(place: Place):
    await place.waits(1)
    await place.run("UPDATE llm_batch_requests SET due_at = now()")
    answer = await place.gateway.ask(question(1), await place.caller(1, can_wait="if_there"))
    assert (answer.batched, place.stand_in.saw.requests) == (False, 1)


async def test_a_destroyed_key_takes_question_and_answer_along(place: Place):
    """INVARIANT: of an erased person nothing is sent any more, and nothing that comes back can be read."""
    for number in (1, 2):
        await place.waits(number)
    callers = [await place.caller(number) for number in (1, 2)]
    await place.keyring.destroy_keys([callers[0].key.id])
    place.stand_in.script.append(Step(hang=3_600.0))
    collector = place.collector(most=2)
    assert await collector.look()
    assert place.stand_in.saw.batched == 1
    assert len(await place.rows()) == 1
    await place.keyring.destroy_keys([callers[1].key.id])
    for batch in place.stand_in._batches.values():
        batch["_ready"] = 0.0
    assert await collector.look()
    [row] = await place.rows()
    assert (row.state, row.error, row.sealed_answer, row.sealed_request) == ("failed", "KEY_DESTROYED", None, None)
    assert (await place.booked()).batched == 1, "what was paid for is accounted all the same"


async def test_an_erasure_takes_the_rows_of_a_batch_that_is_under_way(place: Place):
    for number in (1, 2):
        await place.waits(number)
    place.stand_in.script.append(Step(hang=3_600.0))
    collector = place.collector(most=2)
    await collector.look()
    person = RecordRef(place.tenant, "hubspot:1", "contact", "1")
    assert (await wipe(place.engine, person, []))["llm_batch_requests"] == 1
    for batch in place.stand_in._batches.values():
        batch["_ready"] = 0.0
    assert await collector.look()
    assert [(row.record_id, row.state) for row in await place.rows()] == [("2", "answered")]
    assert place.stand_in._files == {}


async def test_replicas_that_bring_the_same_question_at_once_put_it_once(place: Place):
    others = [Gateway(place.settings, place.redis, place.engine) for _ in range(3)]
    for each in others:
        await each.start()
    caller = await place.caller(1)
    told = await asyncio.gather(*(each.ask(question(1), caller) for each in others), return_exceptions=True)
    assert [type(each) for each in told] == [WaitsForBatch] * 3
    assert len(await place.rows()) == 1
    for each in others:
        await each.core.drained()
    assert (await place.quota())[0] == 1, "who came second has given his place back"
    for each in others:
        await each.stop()


async def test_switched_off_what_waits_is_sent_back_and_what_was_sent_is_still_read(place: Place):
    await place.waits(1)
    place.stand_in.script.append(Step(hang=3_600.0))
    await place.collector().look()
    await place.waits(2)
    off = Gateway(place.settings.model_copy(update={"model_batch": False}), place.redis, place.engine)
    await off.start()
    collector = place.collector(on=False)
    assert await collector.look()
    assert place.released >= 1
    answer = await off.ask(question(2), await place.caller(2))
    assert not answer.batched
    with pytest.raises(WaitsForBatch):
        await off.ask(question(1), await place.caller(1))
    for batch in place.stand_in._batches.values():
        batch["_ready"] = 0.0
    await collector.look()
    assert (await off.ask(question(1), await place.caller(1))).batched
    await off.stop()


async def test_two_tenants_share_a_batch_and_nothing_else(place: Place):
    other = f"{place.tenant}b"
    await place.waits(1)
    mine, place.tenant = place.tenant, other
    await place.waits(2)
    place.tenant = mine
    assert await place.collector(most=2).look()
    assert len(place.stand_in._batches) == 1
    assert (await place.booked()).batched == 1
    assert (await place.quota())[0] == 1
    # The same question of the other tenant is another question.
    answer = await place.gateway.ask(question(2), await place.caller(2, can_wait="if_there"))
    assert not answer.batched


async def test_questions_of_records_that_are_gone_are_taken_back(place: Place):
    for number in (1, 2):
        await place.waits(number)
    collector = place.collector(most=5)
    assert await collector.withdraw(refs=[RecordRef(place.tenant, "hubspot:1", "contact", "1")]) == 1
    assert [row.record_id for row in await place.rows()] == ["2"]
    assert (await place.quota())[0] == 1


async def test_a_cascade_waits_for_its_second_model_too(place: Place):
    """What may wait for the small model may wait for the large one; neither is asked the ordinary way."""
    from llm_gateway.prompt import Judgement

    gateway = Gateway(
        place.settings.model_copy(update={"model": "openai/gpt-oss-120b", "model_cheap": MODEL}),
        place.redis,
        place.engine,
    )
    await gateway.start()
    place.gateway, before = gateway, place.gateway
    judged = question(5, judge=lambda _value: Judgement(0.0, 0.0))
    for model in (MODEL, "openai/gpt-oss-120b"):
        with pytest.raises(WaitsForBatch):
            await gateway.ask(judged, await place.caller(5, can_wait="yes" if model == MODEL else "if_there"))
        assert (await place.rows())[-1].model == model
        await place.collector().look()
    answer = await gateway.ask(judged, await place.caller(5, can_wait="if_there"))
    assert (answer.batched, answer.model, place.stand_in.saw.requests) == (True, "openai/gpt-oss-120b", 0)
    place.gateway = before
    await gateway.stop()


# crashes

CALLS = ("files_named", "upload", "create_batch", "batch", "content", "delete_file")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_process_that_dies_between_two_steps_leaves_them_to_the_next(place: Place, call: str, when: str):
    """INVARIANT: every question gets its one answer, paid for and accounted once, wherever a collector dies."""
    for number in range(3):
        await place.waits(number)
    dying = Faulty(place.gateway.batch_providers()[0], f"{when} {call}")
    with pytest.raises(Crash):
        await place.collector(dying, most=3).look()
    # Nobody knows what became of a batch that was just being made: it is looked for first, and made anew when it is not there.
    next_one = place.collector(most=3, unsure_seconds=0.0)
    assert await next_one.look()
    assert {row.state for row in await place.rows()} == {"answered"}
    assert len(place.stand_in._batches) == 1, "made once"
    assert place.stand_in.saw.batched == 3
    booked = await place.booked()
    assert (booked.calls, booked.batched) == (3, 3)
    assert place.stand_in._files == {}
    assert (await place.quota())[0] == 3
    answers = [await place.gateway.ask(question(number), await place.caller(number)) for number in range(3)]
    assert [answer.value.score for answer in answers] == [0, 1, 2]


STEPS = ("claim", "items", "note", "about_to_create", "answered", "failed", "end")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_dies_around_a_note_repeats_a_step_at_most(
    place: Place, step: str, when: str, monkeypatch: pytest.MonkeyPatch
):
    """INVARIANT: as above, for what the collector writes down."""
    for number in range(3):
        await place.waits(number)
    dying = place.collector(most=3)
    inner = getattr(dying.rows, step)

    async def dies(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(dying.rows, step, inner)
        if when == "before":
            raise Crash
        await inner(*given, **named)
        raise Crash

    monkeypatch.setattr(dying.rows, step, dies)
    with pytest.raises(Crash):
        await dying.look()
    assert await place.collector(most=3, unsure_seconds=0.0).look()
    assert {row.state for row in await place.rows()} == {"answered"}
    assert (len(place.stand_in._batches), place.stand_in.saw.batched) == (1, 3)
    booked = await place.booked()
    assert (booked.calls, booked.batched) == (3, 3)
    assert place.stand_in._files == {}


async def test_a_process_that_dies_before_the_quotas_hear_of_it_has_accounted_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    await place.waits(1)

    def dies(_provider: str, _usage: Any) -> None:
        monkeypatch.undo()
        raise Crash

    monkeypatch.setattr(steps.accounting, "show", dies)
    with pytest.raises(Crash):
        await place.collector().look()
    assert await place.collector().look()
    assert (await place.booked()).calls == 1
    requests, tokens = await place.quota()
    assert requests == 1
    assert tokens > place.stand_in.saw.prompt_tokens, (
        "what was held is held until its time is over: too much, never too little"
    )


async def test_a_batch_that_may_still_be_made_is_not_made_again(place: Place):
    await place.waits(1)
    timeout = ProviderFailure("TIMEOUT", "nobody knows", retry=True)
    assert await place.collector(Faulty(place.gateway.batch_providers()[0], "before create_batch", timeout)).look()
    watched = Faulty(place.gateway.batch_providers()[0])
    assert await place.collector(watched).look()
    assert "batch_of" in watched.called
    assert "create_batch" not in watched.called
    assert await place.collector(watched, unsure_seconds=0.0).look()
    assert watched.called.count("create_batch") == 1
    assert [row.state for row in await place.rows()] == ["answered"]


async def test_one_replica_collects_at_a_time(place: Place):
    await place.waits(1)
    other = place.collector()
    seen: list[bool] = []
    provider: Any = Faulty(place.gateway.batch_providers()[0])
    inner = provider.upload

    async def upload(name: str, content: bytes) -> str:
        seen.append(await other.look())
        return await inner(name, content)

    provider.upload = upload
    assert await place.collector(provider).look()
    assert seen == [False]
    assert len(place.stand_in._batches) == 1


async def test_what_nobody_took_is_forgotten(place: Place):
    await place.waits(1)
    collector = place.collector()
    await collector.look()
    await place.run("UPDATE llm_batch_requests SET answered_at = now() - interval '4 days'")
    await place.run("UPDATE llm_batches SET ended_at = now() - interval '31 days'")
    await collector.rows.prune()
    assert (await place.rows(), await place.rows("llm_batches")) == ([], [])
