"""Which signed requests were accepted a moment ago, so that a captured one cannot be sent on and on.

Law: noted only after the broker's acknowledgement, so a repetition of what failed always passes. Memory alone, bounded by
number and time; what it forgets, and what another process accepted, the translator's marks still drop: this saves
Kafka's room, those guard the effects.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, runtime_checkable

MAX_NOTED = 200_000
"""About 30 MB; at 650 genuine requests a second, the five minutes for which signatures hold."""
HOLD_SECONDS = 370.0
"""Longer than any signature holds: five minutes, and one that the sender's clock may be ahead."""


@runtime_checkable
class SignedOnce(Protocol):
    """A source whose requests carry a signed time: the same values of these headers are the same request."""

    signed_once: tuple[bytes, ...]
    """Names in lower case. They must determine the request: a signature over everything, or a signed id and time."""


Mark = tuple[str, ...] | tuple[str | bytes | None, ...]


class Replays:
    """One per process; no method blocks or raises."""

    def __init__(self, *, max_noted: int = MAX_NOTED, hold_seconds: float = HOLD_SECONDS) -> None:
        self._max = max_noted
        self._hold = hold_seconds
        self._noted: set[Mark] = set()
        self._order: deque[tuple[float, Mark]] = deque()

    def __len__(self) -> int:
        return len(self._noted)

    def known(self, mark: Mark) -> bool:
        """Whether it was accepted lately."""
        return mark in self._noted

    def note(self, mark: Mark, now: float) -> None:
        """It is accepted. `now` is a monotonic clock."""
        order, noted = self._order, self._noted
        if mark not in noted:
            noted.add(mark)
            order.append((now, mark))
        while order and (order[0][0] < now - self._hold or len(noted) > self._max):
            noted.discard(order.popleft()[1])
