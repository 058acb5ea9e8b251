"""What a provider's answers tell of its limits, told on to all replicas.

Law: said and forgotten: what is lost with Redis matters no more when it is back. Nothing is sent that changes nothing.
Groq's headers: https://console.groq.com/docs/rate-limits (`*-requests` speaks of the day, `*-tokens` of the minute).
"""

from __future__ import annotations

from infra.redis_wire import Command, Script, Wire, pack
from llm_gateway.policy import Policies
from llm_gateway.providers.provider import Headroom
from llm_gateway.question import Line


class Told:
    """One per core."""

    def __init__(self, wire: Wire, script: Script, policies: Policies) -> None:
        self._wire = wire
        self._script = script
        self._policies = policies
        self._observed: dict[Line, tuple[int, int]] = {}

    def returned(self) -> None:
        """Redis is there again, and may have forgotten."""
        self._observed.clear()

    def quiet(self, line: Line, seconds: float) -> None:
        """The provider asks for `seconds` without questions (429 with retry-after): nobody of any replica is granted a turn."""
        self._send(self._script.call(line.name, int(seconds * 1000) + 1, 0, 0, -1))

    def headroom(self, line: Line, left: Headroom) -> None:
        """What the provider's headers say of its limits; sent on only when it changes something."""
        limits = self._policies.line(line)
        tokens = 0 if limits.tokens else left.tokens_limit or 0
        requests = 0 if limits.requests_per_day else left.requests_limit or 0
        # Groq: `requests` speaks of the day. Near its end others' use of the same key matters.
        used = -1
        whole = limits.requests_per_day or left.requests_limit or 0
        if left.requests is not None and whole and left.requests < whole * 0.1:
            used = max(0, whole - left.requests)
        if (tokens, requests) != self._observed.get(line, (0, 0)) or used >= 0:
            self._observed[line] = (tokens, requests)
            self._send(self._script.call(line.name, 0, tokens, requests, used))

    def _send(self, command: Command) -> None:
        self._wire.send(pack(command))
