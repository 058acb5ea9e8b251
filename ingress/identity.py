"""The id of a request, which is the id of its trace too.

Law: 32 hexadecimal digits, the first twelve the milliseconds of its arrival: so it sorts, it says where on a topic to look,
and the `traceparent` that travels in the clear with everything that came of the request leads back to it. Made by us
alone; a sender's own id is not read. Not a secret, so ordinary random numbers do.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

_RANDOM_BITS = 80
_HEX = 32


class RequestIds:
    """Draws ids; one per process."""

    def __init__(self, trace_ratio: float, clock: Callable[[], int] = time.time_ns) -> None:
        """`trace_ratio`: share of requests that are traced; decided by the id, as OpenTelemetry's ratio sampler does."""
        self._bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - no secret, see above
        self._clock = clock
        self._sampled_below = round(trace_ratio * (1 << 64))

    def draw(self) -> tuple[str, bool]:
        """(a new id, whether it is traced)."""
        bits = self._bits(_RANDOM_BITS)
        number = (self._clock() // 1_000_000 << _RANDOM_BITS) | bits
        return f"{number:032x}", (bits & 0xFFFFFFFFFFFFFFFF) < self._sampled_below

    def traceparent(self, request_id: str) -> str:
        """W3C `traceparent` for a request that is not traced: later stages follow the id and make no span."""
        return f"00-{request_id}-{self._bits(64) | 1:016x}-00"


def arrived_at(request_id: str) -> datetime:
    """When the request of this id came; raises ValueError when it is no id of ours."""
    if len(request_id) != _HEX:
        raise ValueError("a request id has 32 hexadecimal digits")
    return datetime.fromtimestamp((int(request_id, 16) >> _RANDOM_BITS) / 1000, UTC)


def request_of(traceparent: str) -> str:
    """The request id in a `traceparent`; empty where there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == _HEX else ""
