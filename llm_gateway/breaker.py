"""A circuit breaker per provider and model: who fails every time is left alone for a while, then tried by one question.

Law: knows neither provider nor clock but by argument; never waits. Holds one process' view: `llm_gateway.breakers` shares it.
"""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 5
"""So many in a row open the circuit."""
OPEN_SECONDS = 5.0
"""First pause; doubles with each probe that fails."""
LONGEST_SECONDS = 60.0


class Breaker:
    """Closed: questions pass. Open: none does. Half open: one probe is under way, and its end decides."""

    def __init__(
        self, clock: Callable[[], float], *, failures: int = FAILURES, open_seconds: float = OPEN_SECONDS
    ) -> None:
        self._clock = clock
        self._limit = failures
        self._first_pause = open_seconds
        self._pause = open_seconds
        self.run = 0
        """Failures in a row."""
        self.why = ""
        """The last failure, for people."""
        self._until: float | None = None
        self._probing_until: float | None = None

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    def wait(self, lasting: float) -> float:
        """Seconds until a question may pass; 0: it may now, and the caller must report how it ended.

        `lasting`: seconds after which a probe counts as lost, should its caller never report.
        """
        if self._until is None:
            return 0.0
        now = self._clock()
        if now < self._until:
            return self._until - now
        if self._probing_until is not None and now < self._probing_until:
            return self._probing_until - now
        self._probing_until = now + lasting
        return 0.0

    def succeeded(self) -> None:
        """A question was answered, or at least received and understood."""
        self.run = 0
        self._until = self._probing_until = None
        self._pause = self._first_pause

    def failed(self) -> None:
        """A question failed in a way that the next one would, too."""
        self.run += 1
        if self._until is not None:
            self._probing_until = None
            self._pause = min(self._pause * 2, LONGEST_SECONDS)
            self._until = self._clock() + self._pause
        elif self.run >= self._limit:
            self._until = self._clock() + self._pause

    def set(self, run: int, open_for: float | None) -> None:
        """What was found out elsewhere: failures in a row, and for how many seconds nobody asks (None: closed)."""
        self.run = run
        if open_for is None:
            self._until = self._probing_until = None
            self._pause = self._first_pause
        else:
            self._until = self._clock() + open_for

    def gave_up(self) -> None:
        """A question was dropped by its caller: it tells nothing, and another may probe."""
        self._probing_until = None
