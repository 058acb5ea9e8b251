"""The `groq` package over real HTTP, against the stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from infra.local.groq_stand_in import GroqStandIn, Step
from infra.settings import Settings, SettingsError
from llm_gateway.attempts import Attempts
from llm_gateway.batch.lines import line
from llm_gateway.prompt import ModelUnavailable
from llm_gateway.providers.groq import PLUGIN, GroqProvider, headroom, seconds
from llm_gateway.providers.provider import (
    BatchProvider,
    BatchRefused,
    Completed,
    Completion,
    Headroom,
    Message,
    Provider,
    ProviderFailure,
    QuestionRefused,
)
from llm_gateway.shape import shape_of
from tests.llm_gateway.conftest import Verdict

MODEL = "openai/gpt-oss-120b"
SECRET = "Ada Lovelace signed"
REQUEST = Completion(
    model=MODEL,
    messages=(Message("system", "You judge."), Message("user", SECRET)),
    response_format=shape_of(Verdict).response_format("strict"),
    max_output_tokens=300,
    temperature=0.0,
    timeout=5.0,
)


@asynccontextmanager
async def groq(stand_in: GroqStandIn, key: str = "gsk_test") -> AsyncIterator[Provider]:
    async with stand_in.serve() as url:
        provider = PLUGIN.open(Settings(groq_api_key=SecretStr(key), groq_base_url=url, _env_file=None))
        try:
            yield provider
        finally:
            await provider.close()


async def answer(step: Step, **changes: object) -> Completed:
    stand_in = GroqStandIn()
    stand_in.script.append(step)
    async with groq(stand_in) as provider:
        return await provider.complete(replace(REQUEST, **changes))  # type: ignore[arg-type]


async def test_a_question_goes_out_as_groq_documents_it():
    stand_in = GroqStandIn()
    async with groq(stand_in) as provider:
        completed = await provider.complete(REQUEST)
    [asked] = stand_in.asked
    assert asked["model"] == MODEL
    assert asked["messages"] == [{"role": "system", "content": "You judge."}, {"role": "user", "content": SECRET}]
    assert asked["response_format"]["json_schema"]["strict"] is True
    assert asked["max_completion_tokens"] == 300
    assert asked["temperature"] == 0
    assert Verdict.model_validate_json(completed.text)
    assert completed.model == MODEL
    assert completed.input_tokens > 0
    assert completed.output_tokens > 0


async def test_the_address_may_be_given_with_or_without_the_path():
    stand_in = GroqStandIn()
    async with stand_in.serve() as url:
        for address in (url, f"{url}/", f"{url}/openai/v1", f"{url}/openai/v1/", f"{url}/v1", f"{url}/v1/"):
            provider = PLUGIN.open(Settings(groq_api_key=SecretStr("k"), groq_base_url=address, _env_file=None))
            assert (await provider.complete(REQUEST)).text
            await provider.close()


async def test_requests_per_minute_of_another_server_are_not_taken_for_a_day():
    stand_in = GroqStandIn(requests_per_day=500, tokens_per_minute=10_000)
    async with stand_in.serve() as url:
        provider = GroqProvider("k", f"{url}/v1", name="second")
        left = (await provider.complete(REQUEST)).headroom
        await provider.close()
    assert left is not None
    assert (left.requests_limit, left.requests) == (None, None)
    assert left.tokens_limit == 10_000


@pytest.mark.parametrize(
    ("step", "cause", "retry", "retry_after"),
    [
        (Step(status=429, retry_after=2.5), "RATE_LIMITED", True, 2.5),
        (Step(status=429), "RATE_LIMITED", True, None),
        (
            Step(status=429, headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}),
            "RATE_LIMITED",
            True,
            7.66,
        ),
        (Step(status=498), "RATE_LIMITED", True, None),
        (Step(status=500), "SERVER_ERROR", True, None),
        (Step(status=503, retry_after=3), "SERVER_ERROR", True, 3.0),
        (Step(status=401), "AUTHENTICATION", False, None),
        (Step(status=403), "AUTHENTICATION", False, None),
        (Step(status=404), "MODEL_GONE", False, None),
        (Step(status=400, code="model_decommissioned"), "MODEL_GONE", False, None),
        (Step(raw="<html>Bad gateway</html>"), "SERVER_ERROR", True, None),
        (Step(raw="{}"), "SERVER_ERROR", True, None),
        (Step(raw="[1]"), "SERVER_ERROR", True, None),
        (Step(raw='{"choices": []}'), "SERVER_ERROR", True, None),
        (Step(raw='{"choices": [{"message": {"content": 5}}]}'), "SERVER_ERROR", True, None),
        (Step(drop=True), "CONNECTION", True, None),
    ],
)
async def test_each_failure_has_its_cause(step: Step, cause: str, retry: bool, retry_after: float | None):
    with pytest.raises(ProviderFailure) as raised:
        await answer(step)
    assert (raised.value.cause, raised.value.retry, raised.value.retry_after) == (cause, retry, retry_after)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "step", [Step(status=413), Step(status=400), Step(status=422), Step(status=400, code="context_length_exceeded")]
)
async def test_a_question_that_groq_will_not_take_is_refused(step: Step):
    with pytest.raises(QuestionRefused):
        await answer(step)


async def test_a_key_that_is_refused_says_what_to_do():
    stand_in = GroqStandIn(key="right")
    async with groq(stand_in, key="wrong") as provider:
        with pytest.raises(ProviderFailure, match="check GROQ_API_KEY"):
            await provider.complete(REQUEST)


async def test_another_server_is_called_by_its_name_and_its_place_in_the_routes_file():
    where = "[providers.second] of HOOKLINE_ROUTES"
    stand_in = GroqStandIn(key="right")
    told = []
    async with stand_in.serve() as url:
        for key, step in (
            ("wrong", None),
            ("right", Step(status=404)),
            ("right", Step(status=429)),
            ("right", Step(status=500)),
        ):
            if step is not None:
                stand_in.script.append(step)
            provider = GroqProvider(key, f"{url}/v1", name="second", where=where)
            with pytest.raises(ProviderFailure) as failure:
                await provider.complete(REQUEST)
            told.append(str(failure.value))
            await provider.close()
    provider = GroqProvider("k", "http://127.0.0.1:1/v1", name="second", where=where)
    with pytest.raises(ProviderFailure) as failure:
        await provider.complete(REQUEST)
    await provider.close()
    told.append(str(failure.value))
    assert told[0].endswith(f"check {where}")
    assert told[-1].endswith(f"look at {where}")
    assert "[tiers] of HOOKLINE_ROUTES" in told[1]
    assert all("second" in each for each in told)
    assert not any("Groq" in each or "GROQ_" in each or "HOOKLINE_MODEL" in each for each in told)


async def test_a_retired_model_says_what_to_take_instead():
    with pytest.raises(ProviderFailure, match="HOOKLINE_MODEL=openai/gpt-oss-120b"):
        await answer(Step(status=404), model="llama-3.3-70b-versatile")


async def test_words_that_failed_the_schema_are_still_the_models_words():
    completed = await answer(Step(status=400, code="json_validate_failed", failed_generation='{"score": "high'))
    assert completed.text == '{"score": "high'


async def test_nobody_there_is_no_connection():
    async with GroqStandIn().serve() as url:
        pass
    provider = PLUGIN.open(Settings(groq_api_key=SecretStr("k"), groq_base_url=url, _env_file=None))
    with pytest.raises(ProviderFailure) as raised:
        await provider.complete(REQUEST)
    await provider.close()
    assert raised.value.cause == "CONNECTION"


async def test_a_model_that_never_answers_is_given_up_in_time():
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(ProviderFailure) as raised:
        await answer(Step(hang=60), timeout=0.2)
    assert raised.value.cause == "TIMEOUT"
    assert clock() - began < 1


async def test_the_package_does_not_retry_by_itself():
    """INVARIANT: if this fails, attempts multiply, unaccounted and past the deadline."""
    stand_in = GroqStandIn()
    stand_in.script.extend([Step(status=500), Step(status=500)])
    async with groq(stand_in) as provider:
        with pytest.raises(ProviderFailure):
            await provider.complete(REQUEST)
    assert len(stand_in.asked) == 1


async def test_with_attempts_it_survives_a_bad_minute():
    stand_in = GroqStandIn()
    stand_in.script.extend([Step(status=500), Step(raw="garbage"), Step(status=429, retry_after=0.2)])
    loop = asyncio.get_running_loop()
    async with groq(stand_in) as provider:
        began = loop.time()
        completed, _ = await Attempts(loop.time).complete(
            provider, lambda allowed: replace(REQUEST, timeout=allowed), MODEL, began + 10
        )
        assert loop.time() - began >= 0.2, "retry-after was not waited for"
    assert completed.text
    assert len(stand_in.asked) == 4


async def test_the_deadline_holds_whatever_the_server_does():
    stand_in = GroqStandIn()
    stand_in.script.extend(Step(hang=60) for _ in range(9))
    loop = asyncio.get_running_loop()
    async with groq(stand_in) as provider:
        began = loop.time()
        with pytest.raises(ModelUnavailable) as raised:
            await Attempts(loop.time).complete(
                provider, lambda allowed: replace(REQUEST, timeout=allowed), MODEL, began + 0.5
            )
        assert loop.time() - began < 0.7
    assert raised.value.cause == "TIMEOUT"


async def test_limits_and_headers_of_a_minute():
    stand_in = GroqStandIn(tokens_per_minute=250)
    async with groq(stand_in) as provider:
        first = await provider.complete(REQUEST)
        assert first.headroom is not None
        assert first.headroom.tokens == 250 - first.input_tokens - first.output_tokens
        assert first.headroom.tokens_limit == 250
        assert first.headroom.tokens_reset is not None
        assert 0 < first.headroom.tokens_reset <= 60
        while stand_in.refused == 0 and len(stand_in.asked) < 50:
            try:
                await provider.complete(REQUEST)
            except ProviderFailure as failure:
                raised = failure
    assert raised.cause == "RATE_LIMITED"
    assert raised.retry_after == pytest.approx(60, abs=2)


def test_without_a_key_the_provider_says_how_to_get_one():
    with pytest.raises(SettingsError, match="GROQ_API_KEY"):
        PLUGIN.open(Settings(_env_file=None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1d2h", 93_600.0),
        ("120ms", 0.12),
        ("12", 12.0),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_groqs_durations(text: str | None, expected: float | None):
    assert seconds(text) == (pytest.approx(expected) if expected is not None else None)


def test_headers_that_are_not_there_say_nothing():
    assert headroom({}) == Headroom()
    assert headroom({"x-ratelimit-remaining-tokens": "many"}) == Headroom()


# batches


async def test_a_batch_goes_its_whole_way_and_its_questions_are_as_they_would_be_asked_alone():
    stand_in = GroqStandIn()
    async with groq(stand_in) as provider:
        assert isinstance(provider, BatchProvider)
        await provider.complete(REQUEST)
        body = provider.body(REQUEST)
        assert stand_in.asked == [body], "nothing more, nothing less"
        file = await provider.upload("hookline-1.jsonl", line("a1", body))
        other = await provider.upload("hookline-2.jsonl", line("a2", body))
        assert await provider.files_named("hookline-1.jsonl") == [file]
        assert await provider.batch_of(file, "1") is None
        made = await provider.create_batch(file, "1")
        assert await provider.batch_of(file, "x") == await provider.batch_of("x", "1") == made
        assert await provider.batch_of(other, "2") is None
        found = await provider.batch(made.id)
        assert found is not None
        assert (found.status, found.error_file_id) == ("completed", "")
        content = await provider.content(found.output_file_id)
        assert content is not None
        assert b'"custom_id":"a1"' in content
        await provider.delete_file(file)
        await provider.delete_file(file)
        assert await provider.content(file) is None
        assert await provider.batch("none") is None


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step(status=403, code="not_available_for_plan"), BatchRefused),
        (Step(status=400, code="unsupported_model"), BatchRefused),
        (Step(status=413), BatchRefused),
        (Step(status=401), "AUTHENTICATION"),
        (Step(status=429, retry_after=3.0), "RATE_LIMITED"),
        (Step(status=500), "SERVER_ERROR"),
        (Step(status=503), "SERVER_ERROR"),
    ],
)
async def test_a_batch_that_is_not_made_is_tried_again_or_refused(step: Step, said: type[Exception] | str):
    stand_in = GroqStandIn()
    async with groq(stand_in) as provider:
        assert isinstance(provider, BatchProvider)
        file = await provider.upload("hookline-1.jsonl", line("a1", provider.body(REQUEST)))
        stand_in.script.append(step)
        with pytest.raises(ProviderFailure if isinstance(said, str) else said) as raised:
            await provider.create_batch(file, "1")
    if isinstance(raised.value, ProviderFailure):
        assert raised.value.cause == said
    assert SECRET not in str(raised.value)
    assert "as scripted" not in str(raised.value), "the provider's own words may quote the question"


async def test_a_batch_api_that_is_away_is_a_lost_connection():
    provider = PLUGIN.open(
        Settings(groq_api_key=SecretStr("gsk_test"), groq_base_url="http://127.0.0.1:9", _env_file=None)
    )
    assert isinstance(provider, BatchProvider)
    with pytest.raises(ProviderFailure) as raised:
        await provider.files_named("x")
    assert raised.value.cause == "CONNECTION"
    await provider.close()
