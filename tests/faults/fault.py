"""What a fault is.

Law: a fault is injected into a stand under load, lasts, and is taken back; it must show by evidence of its own (a pid's
death, a count of errors met) that it struck, or its round counts for nothing. It draws only from the stand's seeded chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from tests.faults.stand import Stand


class NoEvidenceError(Exception):
    """The fault did not strike: the round shows nothing."""


class Fault:
    """One fault. An instance serves one round."""

    name: ClassVar[str] = ""
    said: ClassVar[str] = ""
    """What happens, for the table."""
    short: ClassVar[float] = 3.0
    """Seconds that it lasts in a short run ..."""
    long: ClassVar[float] = 8.0
    """... and in a campaign."""
    replicas: ClassVar[Mapping[str, int]] = {}
    """Replicas of each kind of role, where it is not one."""
    nodes: ClassVar[int] = 1
    """Brokers that it needs."""
    letters: ClassVar[frozenset[str]] = frozenset()
    """Causes of dead letters that belong to it; any other fails the round."""

    @classmethod
    def lacks(cls) -> str | None:
        """What must be done before it can be run on this machine; None when nothing is missing."""
        return None

    async def prepare(self, stand: Stand) -> None:
        """Before the round's traffic begins: what it takes to strike a process that is at work by then."""

    async def inject(self, stand: Stand) -> None:
        """Begin."""
        raise NotImplementedError

    async def hold(self, stand: Stand, seconds: float) -> None:
        """Last; most just wait."""
        await asyncio.sleep(seconds)

    async def recover(self, stand: Stand) -> None:
        """Take it back; returns when what was broken is whole again. Called even if `inject` failed."""

    async def evidence(self, stand: Stand) -> str:
        """What shows that it struck, in a few words; raises NoEvidenceError. Called after `recover`, when all is settled."""
        raise NotImplementedError

    async def leave(self, stand: Stand) -> None:
        """After the judge has looked: take back what `prepare` did. Called even if that failed."""
