"""JSON schemas for models that cannot be held to one: said in words, and what the model answers is validated here.

Law: one JSON object with fences or words around it is forgiven, as in `llm_gateway.validation`; what does not match is told by
field and rule, never by value. A client's schema is data that came from outside: nothing is fetched for it, and its regular
expressions are told to the model and not run here, where one could stand still for all others.
Schemas: https://json-schema.org/draft/2020-12; modes: https://console.groq.com/docs/structured-outputs
"""

from __future__ import annotations

from typing import Any

import orjson

from llm_gateway.prompt import Outcome
from llm_gateway.server.errors import Refusal
from llm_gateway.validation import objects

IN_WORDS = "Answer with one JSON object and nothing else. It must match this JSON schema:\n"
_MOST_BYTES = 128 * 1024
_MOST_ERRORS = 12
WHOLE = frozenset({"stop", "tool_calls", "function_call"})
"""Reasons for an end with which an answer is whole."""


class Mismatch(Exception):  # noqa: N818 -- reads as what happened
    """An answer that is not what was asked for."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome: Outcome = outcome
        """EMPTY, PROSE, TRUNCATED, SCHEMA or REFUSED."""
        self.detail = detail
        """Fields and rules, for people and for the model."""


class Checker:
    """Holds answers against one client's schema."""

    def __init__(self, schema: Any) -> None:
        """Raises Refusal for what is no schema, or none that can be held against an answer here."""
        # Where a schema is checked at all: the package takes 6 MiB.
        import jsonschema.validators as found  # type: ignore[import-untyped]  # noqa: PLC0415 -- as said; it has no types
        from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]  # noqa: PLC0415 -- as above
        from referencing import Registry  # noqa: PLC0415 -- as above

        raw = orjson.dumps(schema)
        if not isinstance(schema, dict):
            raise _refused("schema must be an object")
        if len(raw) > _MOST_BYTES:
            raise _refused(f"the schema is larger than {_MOST_BYTES} bytes")
        if b'"patternProperties"' in raw:
            raise _refused("patternProperties cannot be checked here: name the properties")
        kind = found.validator_for(schema, default=found.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise _refused(f"the schema is none ({error.json_path}: {error.validator})") from None
        except RecursionError:
            raise _refused("the schema is nested too deeply") from None
        # An empty registry: a `$ref` to elsewhere is never fetched.
        self._validator = found.extend(kind, {"pattern": None})(schema, registry=Registry())

    def check(self, value: Any) -> None:
        """Raises Mismatch, and Refusal for a schema that turns out to point nowhere or to itself."""
        from referencing.exceptions import Unresolvable  # noqa: PLC0415 -- as above

        try:
            errors = sorted(self._validator.iter_errors(value), key=lambda error: len(error.absolute_path))
        except Unresolvable:
            raise _refused("a $ref in the schema points to nothing in it: nothing is fetched from elsewhere") from None
        except RecursionError:
            raise _refused("the schema refers to itself without end") from None
        if errors:
            # The path holds names that the model made up, and the message its words: the schema's own path holds neither.
            told = [f"{'/'.join(map(str, error.absolute_schema_path))}" for error in errors[:_MOST_ERRORS]]
            raise Mismatch("SCHEMA", "; ".join(told))


def checked(body: bytes, checker: Checker) -> bytes:
    """The answer whose every choice is JSON after the schema, without what stood around it; raises Mismatch."""
    whole = orjson.loads(body)
    changed = False
    for choice in whole["choices"]:
        message = choice["message"]
        if message.get("tool_calls"):
            continue
        said = message.get("content") or ""
        told = _object(said, choice, message)
        checker.check(orjson.loads(told))
        if told != said:
            message["content"] = told
            changed = True
    return orjson.dumps(whole) if changed else body


def judged(body: bytes, checker: Checker | None, *, wants_json: bool) -> None:
    """Whether an answer may be taken although a stronger model could be asked: it is whole, no refusal, and what was asked
    for. Raises Mismatch.
    """
    for choice in orjson.loads(body)["choices"]:
        message = choice["message"]
        if message.get("tool_calls") and choice.get("finish_reason") in WHOLE:
            continue
        said = message.get("content") or ""
        if checker is not None or wants_json:
            told = orjson.loads(_object(said, choice, message))
            if checker is not None:
                checker.check(told)
        elif not said.strip() or message.get("refusal") or choice.get("finish_reason") not in WHOLE:
            raise Mismatch("EMPTY", "no whole answer")


def advice(mismatch: Mismatch) -> dict[str, str]:
    """What the model is told in the repair."""
    if mismatch.outcome == "SCHEMA":
        said = "Your answer did not match the schema. Answer again, and keep to these places of the schema:\n- "
        said += mismatch.detail.replace("; ", "\n- ")
    else:
        said = "Your answer was not the one complete JSON object that was asked for. Answer with it alone."
    return {"role": "user", "content": said}


def _object(said: str, choice: dict[str, Any], message: dict[str, Any]) -> str:
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        raise Mismatch("REFUSED", "the model declined to answer")
    if not said.strip():
        raise Mismatch("EMPTY", "the model answered nothing")
    try:
        orjson.loads(said)
    except orjson.JSONDecodeError:
        found = objects(said)
        if len(found) != 1:
            cut = choice.get("finish_reason") == "length" or (not found and "{" in said)
            raise Mismatch("TRUNCATED" if cut else "PROSE", f"{len(found)} whole JSON objects in the answer") from None
        return found[0]
    return said


def _refused(why: str) -> Refusal:
    return Refusal(400, "invalid_json_schema", f"response_format: {why}", param="response_format")
