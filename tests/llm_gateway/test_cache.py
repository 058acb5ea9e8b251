from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llm_gateway import cache
from llm_gateway.cache import Entry
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.shape import shape_of
from tests.llm_gateway.conftest import Verdict, data_key

KEY = data_key()
CALLER = Caller("acme", "hubspot:1", "42", "lead_intel", KEY)
PROMPT = Prompt("verdict", "1", "sys", "user", Verdict, {"a": 1})


class Verdict2(Verdict):
    more: str


def digest(prompt: Prompt[Any] = PROMPT, caller: Caller = CALLER, provider: str = "groq", model: str = "m") -> bytes:
    return cache.question(prompt, caller, provider=provider, model=model, shape=shape_of(prompt.answer))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"version": "2"},
        {"system": "sys2"},
        {"user": "user2"},
        {"answer": Verdict2},
        {"facts": {"a": 2}},
        {"max_output_tokens": 1},
        {"temperature": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_difference_in_the_question_is_another_question(changes: dict[str, Any]):
    """INVARIANT: if this fails, one question gets another one's answer."""
    assert digest(replace(PROMPT, **changes)) != digest()


def test_another_model_or_provider_is_another_question():
    assert len({digest(), digest(model="n"), digest(provider="offline")}) == 3


def test_another_tenant_or_record_is_another_question():
    """INVARIANT: if this fails, a tenant's answer shows up at another one, or outlives the erasure of its record."""
    assert digest(caller=replace(CALLER, tenant="other")) != digest()
    assert digest(caller=replace(CALLER, key=data_key())) != digest()


def test_who_asks_for_the_record_makes_no_difference():
    assert digest(caller=replace(CALLER, user="43", lane="bulk")) == digest()


@given(st.tuples(st.text(), st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text(), st.text()))
def test_parts_do_not_run_into_one_another(one: tuple[str, ...], other: tuple[str, ...]):
    """INVARIANT: if this fails, ("ab", "c") is taken for ("a", "bc")."""

    def make(name, version, system, user) -> Prompt[Any]:
        return replace(PROMPT, name=name, version=version, system=system, user=user)

    assert (digest(make(*one)) == digest(make(*other))) == (one == other)


@given(
    st.dictionaries(st.text(), st.integers().filter(lambda n: abs(n) < 2**53) | st.text() | st.none() | st.booleans())
)
def test_the_order_of_facts_makes_no_difference(facts: dict[str, Any]):
    backwards = dict(reversed(facts.items()))
    assert digest(replace(PROMPT, facts=facts)) == digest(replace(PROMPT, facts=backwards))


def test_facts_that_are_not_json_are_an_error():
    with pytest.raises(TypeError):
        digest(replace(PROMPT, facts={"a": object()}))


ENTRY = Entry('{"score":1}', "m", "groq")


def test_an_entry_opens_for_its_record_and_question_alone():
    kept = cache.sealed(KEY, digest(), ENTRY)
    assert cache.opened(KEY, digest(), kept) == ENTRY
    assert cache.opened(data_key(), digest(), kept) is None
    assert cache.opened(KEY, digest(model="n"), kept) is None, "an entry that was moved to another name must not open"
    assert cache.opened(KEY, digest(), kept[:-1]) is None


def test_nothing_of_the_answer_is_readable_at_rest():
    assert b"Lovelace" not in cache.sealed(KEY, digest(), Entry('{"why":"Ada Lovelace"}', "m", "groq"))


def test_shape_changes_with_the_type():
    class Other(BaseModel):
        a: int

    assert shape_of(Other).digest != shape_of(Verdict).digest
