"""`hookline serve gateway` on a real Valkey and PostgreSQL, asked by the official clients, in front of the Groq stand-in."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import aiohttp
import openai
import pytest
import structlog
from pydantic import BaseModel, SecretStr

from infra import metrics
from infra.accounts import Registry
from infra.local.groq_stand_in import Step
from infra.settings import Settings
from llm_gateway.policy import Exceptions
from llm_gateway.server.exchange import EventStream
from llm_gateway.server.meter import Meter
from tests.connected.gateway_place import MODEL, NOTE, Place, ask, had, opened, told

pytestmark = pytest.mark.connected


async def test_openais_client_gets_an_answer_and_the_second_time_it_costs_nothing(place: Place) -> None:
    async with place.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(**ask(user="42"))
        again = await client.chat.completions.with_raw_response.create(**ask(user="42"))
    first, second = raw.parse(), again.parse()
    assert first.choices[0].message.content == "echo 1" == second.choices[0].message.content
    assert (raw.headers["x-hookline-cache"], again.headers["x-hookline-cache"]) == ("miss", "hit")
    assert place.stand_in.saw.requests == 1
    [row] = await place.rows()
    assert first.usage is not None
    assert (row.calls, row.cache_hits, row.user, row.input_tokens) == (1, 1, "42", first.usage.prompt_tokens)


async def test_groqs_client_finds_it_under_its_own_path(place: Place) -> None:
    async with place.groq() as client:
        answer = await client.chat.completions.create(**ask())
        models = await client.models.list()
    assert answer.choices[0].message.content == "echo 1"
    assert [each.id for each in models.data] == ["stand-in"]


async def test_a_stream_comes_chunk_by_chunk_and_what_it_took_is_accounted_unasked(
    place: Place, official: ModuleType
) -> None:
    async with place.client(official) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask(), stream=True)]
        again = [chunk async for chunk in await client.chat.completions.create(**ask(), stream=True)]
        whole = await client.chat.completions.with_raw_response.create(**ask())
        last = [
            chunk
            async for chunk in await client.chat.completions.create(
                **ask(), stream=True, extra_body={"stream_options": {"include_usage": True}}
            )
        ][-1]

    def text(found: list[Any]) -> str:
        return "".join(choice.delta.content or "" for chunk in found for choice in chunk.choices)

    assert text(chunks) == text(again) == (await had(whole.parse())).choices[0].message.content == "echo 1"
    assert all(chunk.choices for chunk in chunks)
    assert len(chunks) > 2
    assert whole.headers["x-hookline-cache"] == "hit"
    assert place.stand_in.saw.requests == 1
    [row] = await place.rows()
    assert row.output_tokens == place.stand_in.saw.completion_tokens == last.usage.completion_tokens


async def test_a_stream_ends_for_the_client_before_it_is_counted_and_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sent, settled = EventStream._send_end, Meter.settle

    async def ends(stream: EventStream) -> None:
        order.append("ended")
        await sent(stream)

    def settles(*args: Any, **more: Any) -> None:
        order.append("settled")
        settled(*args, **more)

    monkeypatch.setattr(EventStream, "_send_end", ends)
    monkeypatch.setattr(Meter, "settle", settles)
    async with place.openai() as client:
        _ = [chunk async for chunk in await client.chat.completions.create(**ask(), stream=True)]
    assert order == ["ended", "settled"]


async def test_who_hangs_up_on_a_stream_hangs_up_on_the_provider(place: Place) -> None:
    place.stand_in.script.append(Step(text="a long answer " * 50, gap=30.0))
    async with place.openai() as client:
        stream = await client.chat.completions.create(**ask(), stream=True)
        await anext(aiter(stream))
        await stream.close()
    async with asyncio.timeout(10):
        while place.stand_in.cancelled == 0:  # noqa: ASYNC110 -- the stand-in counts, and tells nobody
            await asyncio.sleep(0.01)
        while not (rows := await place.rows()):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    assert rows[0].calls == 1
    assert rows[0].input_tokens > 0


async def test_an_answer_that_takes_most_of_the_time_arrives(place: Place) -> None:
    """INVARIANT: if this fails, no answer may take more than a share of the time, and each is asked for, and paid, again."""
    place.stand_in.script.append(Step(hang=1.6))
    async with place.openai() as client:
        await client.chat.completions.create(**ask(), extra_headers={"X-Hookline-Timeout": "2"})
    assert place.stand_in.saw.requests == 1


async def test_a_request_that_was_sent_and_not_answered_in_time_is_accounted_by_its_length(place: Place) -> None:
    place.stand_in.script.append(Step(hang=30.0))
    async with place.openai() as client:
        with pytest.raises(openai.InternalServerError):
            # A model of this test's own: circuits are shared by all who ask the same.
            await client.chat.completions.create(
                **{**ask(), "model": f"m-{place.tenant}"}, extra_headers={"X-Hookline-Timeout": "1"}
            )
    assert place.stand_in.saw.requests == 1
    [row] = await place.rows()
    assert (row.calls, row.attempts, row.output_tokens) == (0, 1, 0)
    assert row.input_tokens > 0


async def test_who_hangs_up_before_the_answer_pays_for_what_was_sent(place: Place) -> None:
    place.stand_in.script.append(Step(hang=30.0))
    async with place.openai() as client:
        asking = asyncio.create_task(client.chat.completions.create(**ask()))
        while not place.stand_in.saw.requests:  # noqa: ASYNC110 -- the stand-in counts, and tells nobody
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # the server watches for who leaves only after a while
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(10):
        while not (rows := await place.rows()):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    assert (rows[0].calls, rows[0].attempts) == (0, 1)
    assert rows[0].input_tokens > 0


async def test_identical_requests_at_once_in_two_replicas_are_one_call(place: Place) -> None:
    place.stand_in.latency = 0.3
    other = await place.another()
    async with (
        place.openai() as one,
        openai.AsyncOpenAI(base_url=f"{other}/v1", api_key=place.key, max_retries=0) as two,
    ):
        answers = await asyncio.gather(*((one, two)[n % 2].chat.completions.create(**ask()) for n in range(32)))
    assert place.stand_in.saw.requests == 1
    assert {answer.id for answer in answers} == {answers[0].id}


async def test_a_refresh_asks_anew_and_no_store_keeps_nothing(place: Place) -> None:
    async with place.openai() as client:
        await client.chat.completions.create(**ask())
        await client.chat.completions.create(**ask(), extra_headers={"Cache-Control": "no-cache"})
        await client.chat.completions.create(**ask())
        assert place.stand_in.saw.requests == 2
        for _ in range(2):
            await client.chat.completions.create(**ask(1), extra_headers={"Cache-Control": "no-store"})
    assert place.stand_in.saw.requests == 4


async def test_a_tool_call_passes_through(place: Place, official: ModuleType) -> None:
    tool = {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
    }
    async with place.client(official) as client:
        answer = await client.chat.completions.create(**ask(), tools=[tool], tool_choice="required")
        pieces = [
            choice.delta.tool_calls[0]
            async for chunk in await client.chat.completions.create(
                **ask(), tools=[tool], tool_choice="required", stream=True
            )
            for choice in chunk.choices
            if choice.delta.tool_calls
        ]
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.name == "look_up"
    assert pieces[0].function.name == "look_up"
    assert "".join(piece.function.arguments or "" for piece in pieces) == call.function.arguments
    assert place.stand_in.asked[0]["tools"] == [tool]


class Verdict(BaseModel):
    grade: str


async def test_a_json_schema_passes_to_a_model_that_knows_it_and_is_put_in_words_for_one_that_does_not(
    place: Place,
) -> None:
    place.stand_in.responder = lambda _: '{"grade": "A"}'
    async with place.openai() as client:
        strict = await client.chat.completions.parse(**ask(), response_format=Verdict)
        other = await client.chat.completions.parse(
            **{**ask(), "model": "llama-3.3-70b-versatile"}, response_format=Verdict
        )
    schema = {"name": "Verdict", "strict": True, "schema": Verdict.model_json_schema()}
    async with place.groq() as client:
        groqs = await client.chat.completions.create(
            **ask(1), response_format={"type": "json_schema", "json_schema": schema}
        )
    assert strict.choices[0].message.parsed == other.choices[0].message.parsed == Verdict(grade="A")
    assert Verdict.model_validate_json(groqs.choices[0].message.content or "") == Verdict(grade="A")
    assert place.stand_in.asked[2]["response_format"]["json_schema"] == schema
    assert place.stand_in.asked[0]["response_format"]["type"] == "json_schema"
    assert place.stand_in.asked[1]["response_format"] == {"type": "json_object"}
    assert '"grade"' in place.stand_in.asked[1]["messages"][0]["content"]


async def test_errors_are_openais_and_say_what_to_do(place: Place, official: ModuleType) -> None:
    async with place.client(official) as client, place.client(official, "hgk_AAAAAAAAAAAA_" + "x" * 43) as nobody:
        with pytest.raises(official.AuthenticationError, match="hookline gateway keys create"):
            await nobody.chat.completions.create(**ask())
        with pytest.raises(official.BadRequestError) as long:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 150_000}])
        place.stand_in.script.append(Step(status=400, code="some_code"))
        with pytest.raises(official.BadRequestError) as refused:
            await client.chat.completions.create(**ask())
        place.stand_in.script.extend(Step(status=500) for _ in range(4))
        with pytest.raises(official.APIStatusError) as broken:
            # A model of this test's own: circuits are shared by all who ask the same.
            await client.chat.completions.create(**{**ask(), "model": f"m-{place.tenant}"})
        with pytest.raises(official.BadRequestError, match="messages"):
            await client.chat.completions.create(model=MODEL, messages=[])
    assert told(long.value)["code"] == "context_length_exceeded"
    assert "187" in told(long.value)["message"]
    assert told(refused.value)["code"] == "some_code"
    assert (broken.value.status_code, told(broken.value)["code"]) == (502, "provider_error")
    assert NOTE not in broken.value.message


async def test_a_timeout_is_told_in_time(place: Place, official: ModuleType) -> None:
    place.stand_in.script.extend(Step(hang=30.0) for _ in range(4))
    began = asyncio.get_running_loop().time()
    async with place.client(official) as client:
        with pytest.raises(official.InternalServerError) as late:
            await client.chat.completions.create(
                **{**ask(), "model": f"m-{place.tenant}"}, extra_headers={"X-Hookline-Timeout": "0.5"}
            )
    assert late.value.status_code == 504
    assert told(late.value)["code"] == "model_timeout"
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_spent_quota_is_429_says_until_when_and_is_not_tried_again(place: Place) -> None:
    policy = Exceptions.model_validate({"day": {"requests": 1}})
    policies = place.server._policies
    policies._tenants[place.tenant] = policies.merged(policy)
    policies.version += 1
    async with place.openai(max_retries=5) as client:
        await client.chat.completions.create(**ask())
        with pytest.raises(openai.RateLimitError) as spent:
            await client.chat.completions.create(**ask(1))
        await client.chat.completions.create(**ask())
    assert spent.value.code == "quota_exceeded"
    assert 0 < int(spent.value.response.headers["retry-after"]) <= 86_400
    assert place.stand_in.saw.requests == 1


async def test_keys_hold_what_they_allow_and_end_when_they_should(place: Place) -> None:
    _, batch_only = await place.keys.create(place.tenant, scopes=("batch",))
    _, one_model = await place.keys.create(place.tenant, models=("other",))
    _, brief = await place.keys.create(place.tenant, expires_at=datetime.now(UTC) + timedelta(seconds=1.0))
    old, old_text = await place.keys.create(place.tenant, lane="bulk")
    with pytest.raises(openai.PermissionDeniedError, match="scope"):
        await place.once(batch_only)
    with pytest.raises(openai.PermissionDeniedError, match="may not ask"):
        await place.once(one_model)
    await place.once(old_text)
    new, new_text = await place.keys.rotate(old.id, grace=timedelta(0))
    assert new.lane == "bulk"
    await place.once(new_text)
    await place.keys.revoke(new.id)
    for ended in (old_text, new_text, brief):
        async with asyncio.timeout(4):
            while True:
                try:
                    await place.once(ended)
                except openai.AuthenticationError:
                    break
                await asyncio.sleep(0.05)


async def test_a_batch_passes_through_and_its_results_are_accounted_once(place: Place, official: ModuleType) -> None:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": ask(number)}
        for number in range(3)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    async with place.client(official) as client:
        file = await client.files.create(file=("b.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await client.batches.retrieve(batch.id)
        assert done.output_file_id is not None
        results = await had((await client.files.content(done.output_file_id)).read())
        listed = await client.batches.list()
    assert [json.loads(line)["custom_id"] for line in results.splitlines()] == ["0", "1", "2"]
    assert [each.id for each in listed.data] == [batch.id]
    [row] = await place.rows()
    assert (row.analysis, row.calls, row.output_tokens) == ("batch", 3, place.stand_in.saw.completion_tokens)


async def test_another_tenants_files_do_not_exist(place: Place) -> None:
    other = f"{place.tenant}b"
    await Registry(place.server.engine, place.server.keyring).add_tenant(other, other)
    _, theirs = await place.keys.create(other, scopes=("batch",))
    async with place.openai() as client:
        file = await client.files.create(file=("b.jsonl", io.BytesIO(b"{}")), purpose="batch")
    async with place.openai(theirs) as client:
        with pytest.raises(openai.NotFoundError):
            await client.files.content(file.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def test_health_needs_no_key_and_everything_else_does(place: Place) -> None:
    found = {}
    async with aiohttp.ClientSession() as session:
        for path in ("/health/live", "/health/ready", "/v1/models", "/v1/nothing", "/"):
            async with session.get(place.url + path) as answer:
                found[path] = answer.status
    assert found == {"/health/live": 200, "/health/ready": 200, "/v1/models": 401, "/v1/nothing": 401, "/": 401}


@pytest.mark.parametrize(("mode", "status"), [("open", 200), ("closed", 503)])
async def test_readiness_names_redis_and_depends_on_it_only_where_quotas_are_closed_without(
    migrated: Settings, tenant: str, mode: str, status: int
) -> None:
    nowhere = SecretStr("redis://127.0.0.1:9/0")
    async with (
        opened(migrated, tenant, quotas_without_redis=mode, redis_url=nowhere) as place,
        aiohttp.ClientSession() as session,
        session.get(f"{place.url}/health/ready") as answer,
    ):
        said = await answer.json()
    assert (answer.status, said["ready"], said["parts"]["postgres"]) == (status, status == 200, "ok")
    assert "Redis does not answer" in said["parts"]["redis"]


async def test_a_quota_that_is_nearly_spent_is_told_in_header_metric_and_log(place: Place) -> None:
    def counted() -> float:
        return metrics.REGISTRY.get_sample_value("hookline_model_quota_warnings_total", {"quota": "day:requests"}) or 0

    policies = place.server._policies
    policies._tenants[place.tenant] = policies.merged(Exceptions.model_validate({"day": {"requests": 5}}))
    policies.version += 1
    before, warned = counted(), []
    with structlog.testing.capture_logs() as logged:
        async with place.openai() as client:
            for number in range(4):
                raw = await client.chat.completions.with_raw_response.create(**ask(number))
                warned.append(raw.headers.get("x-hookline-quota-warning"))
            stream = await client.chat.completions.with_raw_response.create(**ask(4), stream=True)
            warned.append(stream.headers.get("x-hookline-quota-warning"))
            _ = [chunk async for chunk in stream.parse()]
    said = [line for line in logged if line["event"] == "quota_nearly_spent"]
    assert [(line["tenant"], line["quota"]) for line in said] == [(place.tenant, "day:requests")], "once a day"
    assert warned == [None, None, None, "day:requests", "day:requests"]
    assert counted() - before == 2


async def test_what_the_providers_prompt_cache_saved_is_accounted_and_counts_toward_no_limit(place: Place) -> None:
    long = [{"role": "system", "content": "You judge leads. " * 400}]
    async with place.openai() as client:
        for number in range(2):
            answer = await client.chat.completions.create(
                model=MODEL, messages=[*long, {"role": "user", "content": f"{NOTE} {number}"}]
            )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached == place.stand_in.saw.cached_tokens > 1_000
    [row] = await place.rows()
    assert row.cached_input_tokens == cached
    price = row.prompt_cache_saved_usd / cached
    assert float(price) == pytest.approx(0.075e-6 / 2, rel=0.01), "half the price of an input token"


async def test_the_wait_that_the_provider_names_is_passed_on_and_not_waited(place: Place) -> None:
    place.stand_in.script.append(Step(status=429, retry_after=47.0))
    began = asyncio.get_running_loop().time()
    async with place.openai() as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(**ask(), extra_headers={"X-Hookline-Timeout": "10"})
    assert asyncio.get_running_loop().time() - began < 5, "a wait that does not fit is not begun"
    assert limited.value.code == "provider_rate_limited"
    assert 40 <= int(limited.value.response.headers["retry-after"]) <= 47
