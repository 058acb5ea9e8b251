"""What an answer must look like, as a model is told it: the JSON schema of the answer's type in two modes.

Law: computed once per type. Strict mode wants every field required, no further fields, and knows no bounds
(https://console.groq.com/docs/structured-outputs): bounds move into descriptions, and pydantic checks them afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from llm_gateway.models import Structured
from llm_gateway.render import canonical

_BOUNDS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "uniqueItems",
)
_DROPPED = ("default", "title", "discriminator", "examples")


class _NotStrict(Exception):  # noqa: N818 -- reads as what happened
    """The schema says something that strict mode cannot."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The schema of one answer type."""

    digest: str
    """Changes with the schema."""
    fields: frozenset[str]
    """Every field name in it, nested ones too."""
    strict: Mapping[str, Any] | None
    """`response_format` for strict mode; None where the schema cannot be said strictly (free-form keys)."""
    instruction: str
    """What a model without strict mode is told."""

    def response_format(self, structured: Structured) -> Mapping[str, Any]:
        """`response_format` for a model."""
        return self.strict if structured == "strict" and self.strict is not None else {"type": "json_object"}

    def told(self, structured: Structured) -> str:
        """What must be added to the instructions, because `response_format` does not say it."""
        return "" if structured == "strict" and self.strict is not None else self.instruction


@lru_cache(maxsize=256)
def shape_of(answer: type[BaseModel]) -> Shape:
    """The shape of `answer`; the first call builds it (about a millisecond)."""
    schema = answer.model_json_schema()
    text = canonical(schema)
    try:
        strict: Mapping[str, Any] | None = {
            "type": "json_schema",
            "json_schema": {"name": answer.__name__[:64], "strict": True, "schema": _strict(schema)},
        }
    except _NotStrict:
        strict = None
    return Shape(
        digest=hashlib.sha256(text).hexdigest(),
        fields=frozenset(_names(schema)),
        strict=strict,
        instruction=f"\n\nAnswer with one JSON object and nothing else. It must match this JSON schema:\n{text.decode()}",
    )


def _names(node: Any) -> set[str]:
    if isinstance(node, list):
        return set[str]().union(*(_names(item) for item in node))
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", ())).union(*(_names(value) for value in node.values()))


def _strict(node: Any) -> Any:  # noqa: C901 -- one rule a branch, as the vendor lists them
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("additionalProperties"), dict) or "prefixItems" in node or "patternProperties" in node:
        raise _NotStrict
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            out[key] = {name: _strict(inner) for name, inner in value.items()}
        elif key == "oneOf":
            out["anyOf"] = _strict(value)
        elif key == "const":
            out["enum"] = [value]
        elif key not in _DROPPED and key not in _BOUNDS:
            out[key] = _strict(value)
    if node.get("type") == "object":
        if "properties" not in node:
            raise _NotStrict
        out["required"] = list(node["properties"])
        out["additionalProperties"] = False
    bounds = "; ".join(f"{key}: {node[key]}" for key in _BOUNDS if key in node)
    if bounds:
        out["description"] = f"{out['description']} ({bounds})" if out.get("description") else bounds
    return out
