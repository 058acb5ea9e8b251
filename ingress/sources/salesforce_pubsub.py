"""Salesforce's change events: nobody may send them to the front door; the role `salesforce-events` fetches them.

Law: an endpoint of this source stands for one stream of one org. It is switched on and off like any other, its accounts are those that
its events may speak for, and every HTTP request to it is refused. `ingress/dialects/salesforce_pubsub.py` says what events mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from ingress.dialects import salesforce_pubsub as dialect
from ingress.pubsub.frame import SOURCE
from ingress.sources.source import (
    Answer,
    Denied,
    InboundRequest,
    Source,
    Translated,
    json_accepted,
    json_refused,
    random_secret,
)
from schemas.delivery import Delivery, Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint

_NOT_BY_HTTP = Denied(Refusal.ENDPOINT_DISABLED, "its events are fetched from Salesforce; nobody may send it any")


class SalesforcePubSub:
    """One endpoint per stream; `hookline account events` makes it."""

    name = SOURCE
    id_is_secret = False

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """Never: see the module."""
        del request, endpoint, now
        return _NOT_BY_HTTP

    def new_secret(self) -> bytes:
        """Not used by anybody; every endpoint has one."""
        return random_secret()

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """The records that the event names."""
        return dialect.translate(delivery, endpoint)

    def accepted(self) -> Answer:
        """Never said."""
        return json_accepted()

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """To whoever sends here by mistake."""
        return json_refused(refusal, status)


PLUGIN: Source = SalesforcePubSub()
