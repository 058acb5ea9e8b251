"""Which signed requests were accepted a moment ago, so that a captured one cannot be sent on and on.

Law: noted only after the broker's acknowledgement, so a repetition of what failed always passes. Memory alone, bounded by
number and time; what it forgets, and what another process accepted, the translator's marks still drop: this saves
Kafka's room, those guard the effects.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from infra.accounts import Endpoint
    from ingress.sources.source import InboundRequest

MAX_NOTED = 200_000
"""About 30 MB; at 650 genuine requests a second, the five minutes for which signatures hold."""

Once = tuple[bytes, ...]
Mark = tuple[str | bytes, ...]


@runtime_checkable
class SignedOnce(Protocol):
    """A source whose requests carry a signed time or id: the very same one can be told when it comes again."""

    signature_holds_seconds: float
    """For so long after its arrival a request may pass again: its age, and what the sender's clock may be ahead."""

    def once(self, request: InboundRequest, endpoint: Endpoint) -> Once | None:
        """What determines a request that was verified; None when it may be another one that looks the same. Must not block or raise.

        Nothing that a stranger could write in another way without breaking the signature.
        """
        ...


class Replays:
    """One per process and source; no method blocks or raises."""

    def __init__(self, *, max_noted: int = MAX_NOTED, hold_seconds: float) -> None:
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
