"""How much the front door holds at once: requests and bytes, with two watermarks.

Law: it refuses at 95 % and takes again at 90 %, so that it does not flap; what is inside is never turned out.
"""

from __future__ import annotations

REFUSE_AT = 0.95
RESUME_AT = 0.90
READY_BELOW = 0.85
"""A process that is fuller says that it is not ready, so that a load balancer turns elsewhere before it has to refuse."""


class Gate:
    """Counts in memory; one per process. No method blocks or raises."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._refuse = (max_requests * REFUSE_AT, max_bytes * REFUSE_AT)
        self._resume = (max_requests * RESUME_AT, max_bytes * RESUME_AT)
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0
        self.closed = False

    def enter(self) -> bool:
        """Let a request in, or not; who was let in must `leave`."""
        if self.closed:
            if self.requests > self._resume[0] or self.bytes > self._resume[1]:
                return False
            self.closed = False
        elif self.requests >= self._refuse[0] or self.bytes >= self._refuse[1]:
            self.closed = True
            return False
        self.requests += 1
        return True

    def leave(self) -> None:
        """The request is answered."""
        self.requests -= 1

    def take(self, size: int) -> bool:
        """Book bytes of a request that is inside. False: there is no room; they are booked all the same until given back."""
        self.bytes += size
        return self.bytes <= self._max_bytes

    def give_back(self, size: int) -> None:
        """They are no longer held."""
        self.bytes -= size

    def done(self, size: int) -> None:
        """`give_back` and `leave`."""
        self.give_back(size)
        self.leave()

    def fullness(self) -> float:
        """The share that is taken, of requests or bytes, whichever is larger."""
        return max(self.requests / max(1, self._max_requests), self.bytes / max(1, self._max_bytes))
