from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llm_gateway import pricing
from llm_gateway.batch.rows import Item
from llm_gateway.batch.sealing import grant_of, name_of, opened_answer, sealed_answer
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Line
from llm_gateway.shape import shape_of
from tests.llm_gateway.conftest import data_key

LINE = Line("groq", "openai/gpt-oss-120b", "abc")


def name(prompt: Prompt[Any], caller: Caller, line: Line = LINE) -> bytes:
    return name_of(prompt, caller, line, shape_of(prompt.answer))


def test_a_waiting_question_is_named_by_what_its_analysis_reads(prompt: Prompt[Any], caller: Caller):
    """The day that stands in it moves with our own write-backs, and is no reason to ask anew."""
    reads = replace(caller, reads=secrets.token_bytes(32))
    tomorrow = replace(prompt, user=prompt.user + "tomorrow", facts={"employees": 13})
    assert name(prompt, reads) == name(tomorrow, reads)
    assert name(prompt, caller) != name(tomorrow, caller), "where nobody says what it reads, each word counts"


@pytest.mark.parametrize(
    "changes", [{"name": "x"}, {"version": "2"}, {"system": "Else."}, {"max_output_tokens": 9}, {"temperature": 0.5}]
)
def test_another_question_has_another_name(
    prompt: Prompt[Any], caller: Caller, changed: Callable[..., Prompt[Any]], changes: dict[str, Any]
):
    reads = replace(caller, reads=b"r" * 32)
    assert name(changed(**changes), reads) != name(prompt, reads)


def test_another_record_tenant_model_or_input_has_another_name(prompt: Prompt[Any], caller: Caller):
    reads = replace(caller, reads=b"r" * 32)
    others = [
        name(prompt, replace(reads, key=data_key())),
        name(prompt, replace(reads, tenant="other")),
        name(prompt, replace(reads, analysis="other")),
        name(prompt, replace(reads, reads=b"s" * 32)),
        name(prompt, reads, replace(LINE, model="other")),
    ]
    assert len({name(prompt, reads), *others}) == 6
    assert name(prompt, replace(reads, user="43", lane="bulk", can_wait="yes", asker="r1")) == name(prompt, reads)


def test_an_answer_is_opened_with_its_own_key_alone():
    key = data_key()
    completed = Completed("so it is", "m", 100, 7, 64, finish_reason="length", refused=True)
    usage = pricing.batch_usage("groq", completed)
    sealed = sealed_answer(key, completed, usage)
    assert b"so it is" not in sealed
    opened = opened_answer(key, sealed)
    assert opened is not None
    assert opened[0] == completed
    assert (opened[1].input_tokens, opened[1].output_tokens, opened[1].cost_usd) == (100, 7, usage.cost_usd)
    assert opened_answer(data_key(), sealed) is None
    assert opened_answer(key, sealed[:-1]) is None


def test_a_place_in_the_quotas_is_found_again_by_another_process():
    item = Item("a1", "acme", "42", "lead_intel", "p", "3", 900, 70, "r:7", "20780", "24322", b"", None)
    grant = grant_of(item, LINE)
    assert (grant.id, grant.day, grant.month, grant.flight) == ("r:7", "20780", "24322", "")
    asks = grant.question
    assert (asks.tenant, asks.user, asks.most_tokens, asks.most_nano, asks.tokens) == ("acme", "42", 900, 70, 0)
    assert asks.line == Line("groq", "batch", "abc"), "in no window of the model's"


def test_half_the_list_price_whatever_the_provider_had_in_its_cache():
    whole = Completed("x", "openai/gpt-oss-120b", 1_000, 100)
    full = pricing.cost_usd("groq", whole)
    assert full > 0
    for cached in (0, 900):
        usage = pricing.batch_usage("groq", replace(whole, cached_input_tokens=cached))
        assert usage.cost_usd == pytest.approx(full / 2)
        assert usage.batch_saved_usd == pytest.approx(full / 2)
        assert usage.batched == 1
