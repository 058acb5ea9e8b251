"""The runner beside the hydrator: one bad erasure stops nobody, and a server that is away is waited for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from infra.privacy.runner import Runner
from infra.unavailable import Unavailable


class Stop(BaseException):
    """Ends the endless."""


@dataclass
class Fake:
    """Eraser and its list in one."""

    answers: dict[str, Exception | None]
    ran: list[str] = field(default_factory=list)
    waits: list[tuple[str, str]] = field(default_factory=list)

    @property
    def erasures(self) -> Fake:
        return self

    async def due(self) -> list[str]:
        return list(self.answers)

    async def run(self, erasure_id: str) -> None:
        self.ran.append(erasure_id)
        if error := self.answers[erasure_id]:
            raise error

    async def load(self, erasure_id: str) -> str:
        return erasure_id

    async def wait(self, erasure: str, why: str, _seconds: float) -> None:
        self.waits.append((erasure, why))


async def once(fake: Any) -> None:
    async def sleep(_seconds: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        await Runner(fake, sleep=sleep).run()


async def test_one_that_fails_says_so_and_the_others_go_on() -> None:
    fake = Fake({"a": ValueError("Quirinia"), "b": None})
    await once(fake)
    assert fake.ran == ["a", "b"]
    ((erasure, why),) = fake.waits
    assert erasure == "a"
    assert "ValueError" in why
    assert "Quirinia" not in why


async def test_while_a_server_is_away_nothing_is_given_up() -> None:
    fake = Fake({"a": Unavailable("kafka"), "b": None})
    await once(fake)
    assert (fake.ran, fake.waits) == (["a"], [])
