from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from llm_gateway.shape import shape_of
from schemas.insight import DataQuality, LeadIntel, Requirements
from tests.llm_gateway.conftest import Verdict


class Inner(BaseModel):
    kind: Literal["x"] = "x"
    when: date


class Outer(BaseModel):
    weight: int = Field(default=3, ge=1, le=25, description="Points")
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


class Free(BaseModel):
    values: dict[str, int]


def walk(node: Any):
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


@pytest.mark.parametrize("answer", [Verdict, Outer, LeadIntel, Requirements, DataQuality])
def test_strict_mode_requires_everything_and_allows_nothing_else(answer: type[BaseModel]):
    strict = shape_of(answer).response_format("strict")
    assert strict["type"] == "json_schema"
    assert strict["json_schema"]["strict"] is True
    for node in walk(strict["json_schema"]["schema"]):
        if node.get("type") == "object":
            assert set(node["required"]) == set(node["properties"])
            assert node["additionalProperties"] is False
        assert not {"default", "minimum", "maxLength", "oneOf", "const", "format"} & node.keys()


def test_bounds_move_into_the_description_where_a_model_reads_them():
    properties = shape_of(Outer).response_format("strict")["json_schema"]["schema"]["properties"]
    assert properties["weight"]["description"] == "Points (minimum: 1; maximum: 25)"


def test_a_model_without_strict_mode_is_told_the_schema_in_words():
    shape = shape_of(Outer)
    assert shape.told("strict") == ""
    assert shape.response_format("json_object") == {"type": "json_object"}
    assert '"weight"' in shape.told("json_object")


def test_free_form_keys_cannot_be_said_strictly():
    shape = shape_of(Free)
    assert shape.response_format("strict") == {"type": "json_object"}
    assert '"values"' in shape.told("strict")


def test_it_is_made_once():
    assert shape_of(Outer) is shape_of(Outer)
