from __future__ import annotations

from llm_gateway.asking import able
from llm_gateway.routing import Route
from tests.llm_gateway.test_attempts import Scripted

PROVIDER = Scripted()
ONE, TWO, THREE = (Route(PROVIDER, name) for name in ("one", "two", "three"))
TIER = (ONE, TWO, THREE)


def order(opened: str = "", **quiet: float) -> list[str]:
    found = able(TIER, lambda _, model: model not in opened.split(), lambda _, model: quiet.get(model, 0.0))
    return [route.model for route in found]


def test_all_that_can_answer_are_asked_in_the_order_that_is_written():
    assert order() == ["one", "two", "three"]
    assert order("one") == ["two", "three"]
    assert order("one two three") == ["one"], "to hear until when"


def test_one_that_wants_quiet_is_asked_after_the_others():
    assert order(one=47.0) == ["two", "three", "one"]
    assert order(one=0.5) == ["one", "two", "three"], "that is soon over"
    assert order("two", one=47.0) == ["three", "one"]


def test_where_all_want_quiet_the_last_to_be_asked_is_the_one_that_wants_it_least():
    assert order(one=5.0, two=47.0, three=20.0) == ["two", "three", "one"]
