"""The front door's OpenAPI document, and the door held against it by schemathesis, over a socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ingress.openapi import document
from tests.ingress.fakes import endpoint
from tests.ingress.test_wire import open_door

DOCS = Path(__file__).parents[2] / "docs" / "ingress-openapi.json"


def test_the_document_in_docs_is_the_one_that_the_code_makes():
    assert json.loads(DOCS.read_text()) == document()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_door_answers_as_its_document_says(method: str):
    """Whatever is sent: a named cause, a request id, and never an error of the server."""
    api = schemathesis.openapi.from_dict(document())
    operation = api["/hooks/{endpoint}"][method]

    async with open_door() as door:
        known = endpoint().id

        @settings(
            max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def attack(case):
            if len(case.path_parameters["endpoint"]) % 2:
                case.path_parameters["endpoint"] = known
            case.call_and_validate(
                base_url=f"http://127.0.0.1:{door.port}",
                checks=[
                    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
                    response_schema_conformance,
                ],
            )  # fmt: skip

        await asyncio.to_thread(attack)
