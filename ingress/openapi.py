"""The OpenAPI document of the front door: `python -m ingress.openapi > docs/ingress-openapi.json`.

Law: made from the table of answers, so that it cannot say otherwise. It is not served: a door tells strangers nothing.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from ingress import answers
from schemas.delivery import Refusal


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    request_id = {
        "X-Request-Id": {
            "description": "The request's id, by which it is found again: `hookline requests show`.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "required": True,
        }
    }
    by_status: dict[int, list[Refusal]] = {}
    for cause, status in answers.STATUS.items():
        if status >= 400:
            by_status.setdefault(status, []).append(cause)
    refused = {str(status): _refused(causes, request_id) for status, causes in sorted(by_status.items())}
    refused["500"] = {"description": "A bug of ours, or a SOAP fault with the cause.", "headers": request_id}
    greeting = {"200": {"description": "An endpoint is here.", "headers": request_id, "content": {"text/plain": {}}}}
    unknown = {status: refused[status] for status in ("403", "404")}
    accepted = {
        "200": {"description": "Accepted, in the words of a sender who wants them (Salesforce's `Ack`), or a handshake's challenge.", "headers": request_id},
        "202": {
            "description": "Accepted: Kafka holds it.",
            "headers": request_id,
            "content": {"application/json": {"schema": {"type": "object", "required": ["accepted"], "properties": {"accepted": {"const": True}}}}},
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hookline, front door", "version": version("hookline"), "description": "Where senders deliver; see docs/ingress.md."},
        "paths": {
            "/hooks/{endpoint}": {
                "parameters": [
                    {"name": "endpoint", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}}
                ],
                "get": {"operationId": "greet", "responses": {**greeting, **unknown}},
                "head": {"operationId": "greetHead", "responses": {**greeting, **unknown}},
                "post": {
                    "operationId": "deliver",
                    "description": "A webhook, signed as its sender signs.",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {}}, "text/xml": {"schema": {"type": "string"}}, "application/octet-stream": {}},
                    },
                    "responses": {**accepted, **refused},
                },
            }
        },
    }  # fmt: skip


def _refused(causes: list[Refusal], headers: dict[str, Any]) -> dict[str, Any]:
    names = [cause.value for cause in causes]
    again = any(cause in answers.RETRY_AFTER for cause in causes)
    retry = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}} if again else {}
    return {
        "description": ", ".join(names),
        "headers": {**headers, **retry},
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["accepted", "cause"],
                    "properties": {"accepted": {"const": False}, "cause": {"enum": names}},
                }
            },
            "text/xml": {"schema": {"type": "string"}},
        },
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))  # noqa: T201 - a page for standard output
