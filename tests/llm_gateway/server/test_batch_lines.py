from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from llm_gateway import pricing
from llm_gateway.providers.provider import Completed
from llm_gateway.server.batch_lines import AT_ONCE, models_of, most_of, usages_of
from llm_gateway.server.errors import Refusal
from llm_gateway.server.keys import VirtualKey

MODEL = "openai/gpt-oss-20b"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def key(*models: str) -> VirtualKey:
    return VirtualKey("k", "t", "", frozenset({"batch"}), frozenset(models), "bulk", AT, None, None)


def line(**more: Any) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 396}], "max_tokens": 50, **more}
    return orjson.dumps({"custom_id": "1", "body": body}) + b"\n"


def result(**usage: Any) -> bytes:
    return orjson.dumps({"response": {"status_code": 200, "body": {"model": MODEL, "usage": usage}}}) + b"\n"


async def test_a_line_takes_at_most_its_question_and_each_of_its_answers() -> None:
    most = await most_of(line() + b"\r\n" + line(n=3), "groq", key())
    assert (most.requests, most.tokens) == (2, 100 + 50 + 100 + 150)
    assert most.nano == round(pricing.most_usd("groq", MODEL, 200, 200) / 2 * 1e9)


async def test_no_answer_is_longer_than_what_the_model_still_holds() -> None:
    unsaid = await most_of(line(max_tokens=None), "groq", key())
    assert unsaid.tokens == 100 + 65_536
    assert (await most_of(line(max_tokens=1_000_000), "groq", key())).tokens == 131_072


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (line(max_tokens=-1_000_000_000), "invalid_value", "max_tokens"),
        (line(max_tokens="abc"), "invalid_value", "max_tokens"),
        (line(max_completion_tokens=1.5), "invalid_value", "max_completion_tokens"),
        (line(max_tokens=2**62), "invalid_value", "max_tokens"),
        (line(n=0), "invalid_value", "n"),
        (line(messages=["hello"]), "invalid_message", "messages"),
        (line(model="other"), "model_not_allowed", "model"),
        (line(model=7), "invalid_line", None),
        (b"[]\n", "invalid_line", None),
        (b'{"body": []}\n', "invalid_line", None),
        (b"no json\n", "invalid_line", None),
    ],
)
async def test_a_line_that_nobody_can_ask_is_named(wrong: bytes, code: str, param: str | None) -> None:
    with pytest.raises(Refusal, match=r"^line 3: ") as refused:
        await most_of(line() + b"\n" + wrong + line(), "groq", key(MODEL))
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(Refusal, match="allow shorter ones"):
        await most_of(line(model="unknown", max_tokens=10_000_000, n=1_000) * 10_000, "groq", key())


async def test_an_answer_costs_what_the_librarys_batches_pay_whatever_the_provider_had_cached() -> None:
    content = result(prompt_tokens=100, completion_tokens=10, prompt_tokens_details={"cached_tokens": 80})
    [usage] = [each async for each in usages_of(content, "groq", {})]
    assert usage == pricing.batch_usage("groq", Completed("", MODEL, 100, 10, 80))
    assert usage.batched == 1
    assert usage.cost_usd == usage.batch_saved_usd == pricing.most_usd("groq", MODEL, 100, 10) / 2


async def test_an_answer_under_a_name_without_a_price_costs_what_the_model_costs_that_was_asked() -> None:
    """INVARIANT: if this fails, a model that answers under a dated name is booked at $0, and no limit in dollars holds it."""
    asked = await models_of(b"no json\n[]\n" + b'{"custom_id": "2", "body": []}\n' + line())
    assert asked == {"1": MODEL}
    answer = {"status_code": 200, "body": {"model": "dated-2024-07-18", "usage": {"prompt_tokens": 100}}}
    content = b"".join(orjson.dumps({"custom_id": each, "response": answer}) + b"\n" for each in ("1", "unknown"))
    usages = [each async for each in usages_of(content, "groq", asked)]
    assert [each.cost_usd for each in usages] == [pricing.most_usd("groq", MODEL, 100, 0) / 2, 0.0]
    assert {each.model for each in usages} == {"dated-2024-07-18"}


async def test_what_is_no_answer_took_nothing() -> None:
    failed = orjson.dumps({"response": {"status_code": 400, "body": {"error": {}}}}) + b"\n"
    content = b"no json\n[]\n" + failed + result(prompt_tokens="x") + result(prompt_tokens=1)
    assert [each.input_tokens async for each in usages_of(content, "groq", {})] == [1]


@pytest.mark.parametrize("reading", ["requests", "results"])
async def test_others_have_their_turn_while_a_large_file_is_read(reading: str) -> None:
    """INVARIANT: if this fails, one client's file of 100 MB holds up everybody else's questions."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    if reading == "requests":
        await most_of(line() * AT_ONCE * 10, "groq", key())
    else:
        _ = [each async for each in usages_of(result(prompt_tokens=1) * AT_ONCE * 10, "groq", {})]
    beside.cancel()
    assert turns >= 10
