from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.providers.provider import Completed
from llm_gateway.validation import InvalidOutput, read
from tests.llm_gateway.conftest import Verdict


class Closed(Verdict, extra="forbid"):
    """Refuses keys that it does not know."""


GOOD = '{"score": 7, "grade": "A", "why": "because {of} \\"this\\""}'
VALUE = Verdict(score=7, grade="A", why='because {of} "this"')


def said(text: str, finish_reason: str = "stop", *, refused: bool = False) -> Completed:
    return Completed(text=text, model="m", finish_reason=finish_reason, refused=refused, output_tokens=9)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"Here is what I think:\n{GOOD}\nI hope it helps.",
        f"Sure!\n```json\n{GOOD}\n```\nNote {{that}} this is a guess.",
        f"The set {{a, b}} is considered. {GOOD}",
    ],
)
def test_fences_and_words_around_one_object_are_forgiven(text: str):
    assert read(said(text), Verdict) == VALUE


@pytest.mark.parametrize(
    ("completed", "outcome"),
    [
        (said(""), "EMPTY"),
        (said("  \n "), "EMPTY"),
        (said("", "length"), "TRUNCATED"),
        (said("I cannot say."), "PROSE"),
        (said("42"), "SCHEMA"),
        (said("[]"), "SCHEMA"),
        (said(GOOD[:-1]), "TRUNCATED"),
        (said(GOOD[:20], "length"), "TRUNCATED"),
        (said("It is\n" + GOOD[:-4]), "TRUNCATED"),
        (said('{"first": ' + GOOD + ', "second": {"sco'), "TRUNCATED"),
        (said(f"Either {GOOD} or {GOOD}"), "PROSE"),
        (said(GOOD.replace('"A"', '"Z"')), "SCHEMA"),
        (said(GOOD.replace("7", "700")), "SCHEMA"),
        (said('{"score": 7}'), "SCHEMA"),
        (said("I will not", refused=True), "REFUSED"),
        (said(GOOD, "content_filter"), "REFUSED"),
        (said("{" * 5000), "TRUNCATED"),
        (said('{"a":' * 100_000), "TRUNCATED"),
    ],
)
def test_what_is_of_no_use_has_a_named_outcome(completed: Completed, outcome: str):
    with pytest.raises(InvalidOutput) as raised:
        read(completed, Verdict)
    assert raised.value.outcome == outcome


def test_an_inner_object_of_half_an_answer_is_not_the_answer():
    """INVARIANT: if this fails, a piece of a cut-off answer is taken for the whole."""
    inner = '{"score": 1, "grade": "C", "why": "draft"}'
    with pytest.raises(InvalidOutput):
        read(said('{"draft": ' + inner + ', "score": 7, "gra'), Verdict)


@given(st.text(min_size=8, alphabet=st.characters(categories=("L",))))
def test_reasons_name_fields_and_rules_but_never_a_value(secret: str):
    """INVARIANT: if this fails, customers' words end up in logs and dead letters."""
    secret = f"Ω{secret}Ω"
    for text in (
        json.dumps({"score": secret, "grade": secret, "why": 3, secret: 1}),
        f"prose with {secret}",
        '{"score": "' + secret,
    ):
        with pytest.raises(InvalidOutput) as raised:
            read(said(text), Closed)
        assert secret not in str(raised.value)
        assert secret not in raised.value.advice


def test_the_model_is_told_which_fields_to_correct():
    with pytest.raises(InvalidOutput) as raised:
        read(said('{"score": 700, "grade": "Z"}'), Verdict)
    assert "score" in raised.value.advice
    assert "'A', 'B' or 'C'" in raised.value.advice
    assert "why" in raised.value.advice


@given(st.text())
def test_no_text_breaks_it(text: str):
    with contextlib.suppress(InvalidOutput):
        read(said(text), Verdict)
