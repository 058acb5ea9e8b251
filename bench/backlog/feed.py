"""The backlog: deliveries as HubSpot sends them, a hundred events each, on the product's topic and on the floor's.

Law: both sides get the same bodies in the same order. The order is the worst for whoever folds: a record's changes lie
evenly spread over the whole backlog, none beside another.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import orjson
from aiokafka import AIOKafkaProducer

from bench.backlog import floor
from infra.kafka.broker import Publisher
from infra.settings import Settings
from ingress.identity import RequestIds
from schemas.delivery import Delivery
from schemas.topics import DELIVERIES

EVENTS = 100
PAGE = 50
KINDS = (("0-1", "contact", "jobtitle"),) * 3 + (("0-2", "company", "city"), ("0-3", "deal", "amount"))
"""Of five records three are contacts, one a company, one a deal."""
_IDS = RequestIds(float(Settings.model_fields["trace_ratio"].default))


def bodies(changes: int, records: int, portal: str, app: str, at_ms: int) -> Iterator[bytes]:
    """The requests' bodies."""
    for start in range(0, changes, EVENTS):
        events = []
        for number in range(start, min(changes, start + EVENTS)):
            # A step that shares no factor with the number of records visits all of them in each pass.
            one = 1 + (number % records * _step(records) + number // records) % records
            kind, name, field = KINDS[one % len(KINDS)]
            events.append(
                {
                    "eventId": number + 1,
                    "subscriptionId": 2,
                    "portalId": int(portal),
                    "appId": int(app),
                    "occurredAt": at_ms,
                    "attemptNumber": 0,
                    "subscriptionType": f"{name}.propertyChange",
                    "objectTypeId": kind,
                    "objectId": one,
                    "propertyName": field,
                    "propertyValue": "x",
                    "changeSource": "CRM_UI",
                    "sourceId": "userId:42",
                }
            )
        yield orjson.dumps(events)


def _step(records: int) -> int:
    step = max(1, int(records * 0.618))
    while _common(step, records) != 1:
        step += 1
    return step


def _common(one: int, other: int) -> int:
    while other:
        one, other = other, one % other
    return one


async def fill(
    publisher: Publisher, bare: AIOKafkaProducer, *, tenant: str, endpoint: str, given: Iterator[bytes]
) -> int:
    """Publish every body to both; returns how many."""
    count = 0
    page: list[bytes] = []
    for body in given:
        page.append(body)
        if len(page) == PAGE:
            count += await _send(publisher, bare, tenant, endpoint, page=page, number=count)
            page = []
    return count + await _send(publisher, bare, tenant, endpoint, page=page, number=count)


async def _send(
    publisher: Publisher, bare: AIOKafkaProducer, tenant: str, endpoint: str, *, page: list[bytes], number: int
) -> int:
    now = datetime.now(UTC)
    drawn = [_IDS.draw() for _ in page]
    deliveries = [
        Delivery(
            request_id=request_id,
            tenant=tenant,
            endpoint=endpoint,
            source="hubspot",
            received_at=now,
            content_type="application/json",
            body=body,
        )
        for (request_id, _), body in zip(drawn, page, strict=True)
    ]
    # As from the front door, which gives each a trace and decides whether anybody follows it.
    traceparents = [
        _IDS.traceparent(request_id).removesuffix("00") + ("01" if traced else "00") for request_id, traced in drawn
    ]
    await publisher.publish(DELIVERIES, deliveries, traceparents=traceparents)
    for ack in [
        await bare.send(floor.DELIVERIES, body, key=b"%d" % (number + place)) for place, body in enumerate(page)
    ]:
        await ack
    return len(page)
