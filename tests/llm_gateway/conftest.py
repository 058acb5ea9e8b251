"""A question and someone who asks it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from infra.keyring import DataKey
from llm_gateway.prompt import Caller, Prompt


class Verdict(BaseModel):
    """What the tests ask for."""

    score: int = Field(ge=0, le=100)
    grade: Literal["A", "B", "C"]
    why: str


def by_rule(facts: Any) -> Verdict:
    return Verdict(score=int(facts["employees"]) % 101, grade="B", why="by the number of employees")


def data_key(tenant: str = "acme") -> DataKey:
    return DataKey(
        id=secrets.token_hex(16),
        tenant=tenant,
        scope="record",
        name=f"{tenant}/hubspot:1/contact/7",
        material=secrets.token_bytes(32),
    )


@pytest.fixture
def caller() -> Caller:
    return Caller(tenant="acme", account="hubspot:1", user="42", analysis="lead_intel", key=data_key())


@pytest.fixture
def prompt() -> Prompt[Verdict]:
    return Prompt(
        name="verdict",
        version="1",
        system="You judge leads.",
        user='{"employees":12}',
        answer=Verdict,
        facts={"employees": 12},
        rules=by_rule,
    )


@pytest.fixture
def changed(prompt: Prompt[Verdict]) -> Callable[..., Prompt[Verdict]]:
    return lambda **changes: replace(prompt, **changes)
