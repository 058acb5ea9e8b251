"""One chat request on its way through the server, and whose it is.

Law: plain values; does nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from infra.keyring import DataKey
from llm_gateway.prompt import Lane, ModelUnavailable
from llm_gateway.server.asked import Asked

Begin = Callable[[tuple[str, ...]], Awaitable[None]]
"""Told once, before the first block of a stream: the quotas that are nearly spent."""
Sink = Callable[[bytes], Awaitable[None]]
"""Takes events as they come. Must not raise when the client is gone."""
End = Callable[[], Awaitable[None]]
"""No more events. Must not raise when the client is gone; may be told twice."""


@dataclass(slots=True)
class Call:
    """One request, and whose it is."""

    asked: Asked = field(repr=False)
    tenant: str
    user: str
    key_id: str
    lane: Lane
    data_key: DataKey = field(repr=False)
    deadline: float
    """A moment of the loop's clock."""
    refresh: bool = False
    keep: bool = True
    ttl: int | None = None
    begin: Begin | None = None
    sink: Sink | None = None
    """Where a stream goes."""
    end: End | None = None
    """Told when the provider's stream is over, before anything else is done about it."""
    another: bool = False
    """Another model can be asked."""
    analysis: str = ""
    """What the client says it asks for; rules may choose by it."""
    gone: Callable[[], Awaitable[object]] | None = None
    """Returns when the client hangs up."""


class BrokenOff(ModelUnavailable):
    """A stream ended before its end: the client has its beginning, so that no other model can be asked."""
