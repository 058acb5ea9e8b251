"""The OpenAPI 3.1 document, made from the operations.

Law: says nothing that is not served, and everything that is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from console.api.problems import ProblemBody
from console.api.routes import Operation

_REF = "#/components/schemas/{model}"
_PROBLEMS = {
    "400": "The request is malformed.",
    "401": "No key, or one that does not count.",
    "403": "The key's role does not suffice.",
    "404": "There is no such thing for this key's tenant.",
    "422": "The request is understood and cannot be done; `remedy` says what to do.",
    "502": "A CRM does not answer, or refuses.",
    "503": "A server of ours is away.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document, as JSON holds it."""
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    problem = {"application/problem+json": {"schema": _model(ProblemBody, schemas)}}
    for each in operations:
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in re.findall(r"{(\w+)}", each.path)
        ]
        if each.query is not None:
            parameters += _query(each, schemas)
        described: dict[str, Any] = {
            "operationId": each.name,
            "summary": each.summary,
            "description": f"Needs the role {each.role}.",
            "tags": [each.tag],
            "parameters": parameters,
            "responses": {
                str(each.status): {
                    "description": "Done.",
                    "content": {"application/json": {"schema": _model(each.answer, schemas)}},
                },
                **{status: {"description": told, "content": problem} for status, told in _PROBLEMS.items()},
                "default": {"description": "Anything else that went wrong.", "content": problem},
            },
        }
        if each.body is not None:
            described["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": _model(each.body, schemas, incoming=True)}},
            }
        paths.setdefault(f"/api{each.path}", {})[each.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hookline",
            "version": version("hookline"),
            "description": "The same operations as the `hookline` command, for the tenant that the key belongs to.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key of `hookline key create`."}
            },
        },
    }


def _model(of: Any, schemas: dict[str, Any], *, incoming: bool = False) -> dict[str, Any]:
    found = TypeAdapter(of).json_schema(ref_template=_REF, mode="validation" if incoming else "serialization")
    schemas.update(found.pop("$defs", {}))
    title = found.get("title")
    if isinstance(of, type) and title and found.get("type") == "object":
        schemas[title] = found
        return {"$ref": _REF.format(model=title)}
    return found


def _query(each: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    assert each.query is not None
    _, found = models_json_schema([(each.query, "validation")], ref_template=_REF, schema_generator=GenerateJsonSchema)
    definitions = dict(found.get("$defs", {}))
    model = definitions.pop(each.query.__name__)
    schemas.update(definitions)
    required = set(model.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        for name, schema in model["properties"].items()
    ]
