"""From what a model said to the answer's type, or to a named reason why not.

Law: code fences and words around one JSON object are forgiven; two objects, half a one, a wrong value are not. A reason
names fields and rules, never a value: what a model says may quote a customer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llm_gateway.prompt import Outcome, T
from llm_gateway.providers.provider import Completed
from llm_gateway.shape import shape_of

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_DECODER = json.JSONDecoder()
_MOST_ERRORS = 12
_MOST_CANDIDATES = 64


class InvalidOutput(Exception):  # noqa: N818 -- reads as what happened
    """One answer that is of no use."""

    def __init__(self, outcome: Outcome, detail: str, advice: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome: Outcome = outcome
        self.detail = detail
        """For people: fields and rules."""
        self.advice = advice
        """For the model, in the repair."""


def read(completed: Completed, answer: type[T]) -> T:
    """The answer; raises InvalidOutput."""
    if completed.refused or completed.finish_reason == "content_filter":
        raise InvalidOutput("REFUSED", "the model declined to answer", "")
    text = completed.text.strip()
    if not text:
        if completed.finish_reason == "length":
            raise _truncated(completed)
        raise InvalidOutput(
            "EMPTY", "the model answered nothing", "Your answer was empty. Answer with the JSON object."
        )
    try:
        return answer.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)
    if first[0]["type"] != "json_invalid":
        raise _mismatch(first, answer)
    found = objects(text)
    if not found:
        if completed.finish_reason == "length" or "{" in text:
            raise _truncated(completed)
        raise InvalidOutput(
            "PROSE",
            "no JSON object in the answer",
            "Your answer held no JSON object. Answer with the JSON object alone.",
        )
    if len(found) > 1:
        raise InvalidOutput(
            "PROSE",
            f"{len(found)} JSON objects in the answer",
            "Answer with one JSON object alone, without drafts or examples.",
        )
    try:
        return answer.model_validate_json(found[0])
    except ValidationError as error:
        raise _mismatch(error.errors(include_url=False, include_context=False, include_input=False), answer) from None


def _truncated(completed: Completed) -> InvalidOutput:
    return InvalidOutput(
        "TRUNCATED",
        f"the JSON object is not complete (finish reason {completed.finish_reason}, {completed.output_tokens} tokens)",
        "Your answer was cut off or not valid JSON. Answer again with the complete JSON object, in fewer words.",
    )


def _mismatch(errors: Iterable[ErrorDetails], answer: type[T]) -> InvalidOutput:
    fields = shape_of(answer).fields
    lines: list[str] = []
    told: list[str] = []
    for error in list(errors)[:_MOST_ERRORS]:
        # A key that the model made up may be a customer's word: only names of the schema are repeated.
        place = (
            ".".join(str(part) if isinstance(part, int) or part in fields else "*" for part in error["loc"])
            or "the object"
        )
        lines.append(f"{place}: {error['type']}")
        # Rules that a type brings along may put the value into their message; pydantic's own do not.
        told.append(
            f"- {place}: {error['type'] if error['type'] in {'value_error', 'assertion_error'} else error['msg']}"
        )
    return InvalidOutput(
        "SCHEMA",
        "; ".join(lines),
        "Your answer did not match the schema. Answer again, with these corrected:\n" + "\n".join(told),
    )


def objects(text: str) -> list[str]:
    """The JSON objects that stand side by side in a text, outermost ones alone."""
    fenced = _FENCE.findall(text)
    if len(fenced) == 1:
        text = fenced[0]
    found: list[str] = []
    position = text.find("{")
    for _ in range(_MOST_CANDIDATES):
        if position < 0:
            break
        try:
            _, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            if text[position + 1 :].lstrip()[:1] in {'"', ""}:
                # An object begins here and does not end: what lies within it is not the answer.
                return []
            position = text.find("{", position + 1)
            continue
        found.append(text[position:end])
        position = text.find("{", end)
    return found
