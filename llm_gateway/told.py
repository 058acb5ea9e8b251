"""What a provider's answers tell of its limits, told on to all replicas.

Law: said and forgotten: what is lost with Redis matters no more when it is back. Nothing is sent that changes nothing, but how
much of the day is used, now and then: the provider's count is the truth, ours is lowered by it as well as raised.
Groq's headers: https://console.groq.com/docs/rate-limits (`*-requests` speaks of the day, `*-tokens` of the minute).
"""

from __future__ import annotations

from time import monotonic, time

from infra.redis_wire import Command, Script, Wire, pack
from llm_gateway.policy import Policies
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Line

_AGAIN_SECONDS = 10.0
"""The day's count is told so often; near the day's end, and when that is no longer near, with every answer."""
_NEAR = 0.9
_NOTHING = (0, 0, 0.0)
Learned = tuple[int, int, int, int]
"""Tokens a minute and requests a day (0: not said), requests left of the day (-1), and the day (UTC, since 1970) when that was said."""
NOTHING: Learned = (0, 0, -1, 0)
DAY_SECONDS = 86_400


class Told:
    """One per core."""

    def __init__(self, wire: Wire, script: Script, policies: Policies) -> None:
        self._wire = wire
        self._script = script
        self._policies = policies
        self._observed: dict[Line, tuple[int, int, float]] = {}
        self.learned: dict[Line, Learned] = {}
        """What headers said; for when Redis is away."""

    def returned(self) -> None:
        """Redis is there again, and may have forgotten."""
        self._observed.clear()

    def quiet(self, line: Line, seconds: float) -> None:
        """The provider asks for `seconds` without questions (429 with retry-after, or nothing is left): nobody of any replica is
        granted a turn.
        """
        self._send(self._script.call(line.name, int(seconds * 1000) + 1, 0, 0, -1, -1))

    def headroom(self, line: Line, left: Headroom, slot: int = -1) -> None:
        """What the provider's headers say of its limits; `slot` of the question that was answered (see `Grant`), where it is known."""
        limits = self._policies.line(line)
        tokens = 0 if limits.tokens else left.tokens_limit or 0
        # Groq: `requests` speaks of the day, and of all who use the same key.
        day = left.requests_limit or (0 if left.requests is None else limits.requests_per_day)
        if not tokens and not day:
            return
        used = -1 if left.requests is None or not day else max(0, day - left.requests)
        had = self.learned.get(line, NOTHING)
        stands, said_on = had[2:] if left.requests is None else (left.requests, int(time() // DAY_SECONDS))
        heard = (tokens or had[0], day or had[1], stands, said_on)
        if heard != had:
            self.learned[line] = heard
        now, near = monotonic(), used > day * _NEAR
        said = self._observed.get(line, _NOTHING)
        if (tokens, day) != said[:2] or near or now >= said[2]:
            self._observed[line] = (tokens, day, now if near else now + _AGAIN_SECONDS)
            self._send(self._script.call(line.name, 0, tokens, day, used, slot))

    def _send(self, command: Command) -> None:
        self._wire.send(pack(command))
