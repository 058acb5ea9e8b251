"""Whether a request is believed: the endpoint's conditions, then the source's own check. One function, for the door and for trials.

Law: bytes and memory alone; nothing blocks, nothing is parsed, nothing is kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ingress.conditions import conditions_of
from ingress.sources.source import Denied, InboundRequest, Source

if TYPE_CHECKING:
    from infra.accounts import Endpoint


def judge(source: Source, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
    """None when the request may pass."""
    conditions = conditions_of(endpoint)
    if conditions.asks:
        denied = conditions.check(request)
        if denied is not None:
            return denied
    return source.verify(request, endpoint, now)
