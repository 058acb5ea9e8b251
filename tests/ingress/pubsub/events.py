"""Change events made by fastavro's own writer from a schema as Salesforce describes one."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro

from infra.accounts import Endpoint
from ingress.dialects.salesforce_pubsub import translate
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.frame import CONTENT_TYPE, SOURCE, Frame
from schemas.delivery import Delivery
from tests.ingress import fakes

ORG = "salesforce:00D5g000004XyzAEAS"
ROBOT = "0055g0000000000AAA"
PERSON = "0055g0000000001AAA"
LEAD = "00Q5g000000000BEAQ"
COMMITTED = 1_795_348_800_000


def _nullable(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None}


def _strings(name: str) -> dict[str, Any]:
    return {"name": name, "type": {"type": "array", "items": "string"}}


NAME = {
    "type": "record",
    "name": "Switchable_PersonName",
    "fields": [_nullable(part, "string") for part in ("Salutation", "FirstName", "LastName")],
}
ADDRESS = {"type": "record", "name": "Address", "fields": [_nullable("Street", "string"), _nullable("City", "string")]}
HEADER = {
    "type": "record",
    "name": "ChangeEventHeader",
    "fields": [
        {"name": "entityName", "type": "string"},
        _strings("recordIds"),
        {"name": "changeType", "type": "string"},
        {"name": "changeOrigin", "type": "string"},
        {"name": "transactionKey", "type": "string"},
        {"name": "sequenceNumber", "type": "int"},
        {"name": "commitTimestamp", "type": "long"},
        {"name": "commitNumber", "type": "long"},
        {"name": "commitUser", "type": "string"},
        _strings("nulledFields"),
        _strings("diffFields"),
        _strings("changedFields"),
    ],
}
FIELDS = (
    "ChangeEventHeader", "Name", "Title", "MailingAddress", "OtherAddress", "LastModifiedDate", "LastModifiedById",
    "Hookline_Score__c", "Hookline_Feedback__c", "WhatId", "WhoId",
)  # fmt: skip
"""In the schema's order: bit i of a bitmap is FIELDS[i]."""
SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "ChangeEvent",
        "namespace": "com.sforce.eventbus",
        "fields": [
            {"name": "ChangeEventHeader", "type": HEADER},
            _nullable("Name", NAME),
            _nullable("Title", "string"),
            _nullable("MailingAddress", ADDRESS),
            _nullable("OtherAddress", "com.sforce.eventbus.Address"),  # described once, named after that
            _nullable("LastModifiedDate", "long"),
            *(_nullable(name, "string") for name in FIELDS[6:]),
        ],
    }
)


def bits(*names: str) -> str:
    """The bitmap of top-level fields."""
    return hex(sum(1 << FIELDS.index(name) for name in names))


def header(**changes: Any) -> dict[str, Any]:
    return {
        "entityName": "Lead", "recordIds": [LEAD], "changeType": "UPDATE", "changeOrigin": "", "transactionKey": "t",
        "sequenceNumber": 1, "commitTimestamp": COMMITTED, "commitNumber": 1, "commitUser": PERSON, "nulledFields": [],
        "diffFields": [], "changedFields": [bits("Title", "LastModifiedDate")], **changes,
    }  # fmt: skip


def payload(values: dict[str, Any] | None = None, **changes: Any) -> bytes:
    out = io.BytesIO()
    event = {"ChangeEventHeader": header(**changes), **(values or {})}
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(SCHEMA)), event)
    return out.getvalue()


def endpoint() -> Endpoint:
    return fakes.endpoint(SOURCE, accounts=frozenset({ORG}), config={"channel": "/data/ChangeEvents"})


def delivery(body: bytes | None = None, *, event_id: str = "e1", schema_id: str = "s1", **more: Any) -> Delivery:
    """One event as it lies on crm.deliveries."""
    frame = Frame(ORG, event_id, schema_id, b"\x00\x01", ROBOT, payload(**more) if body is None else body)
    return fakes.delivery(frame.pack(), source=SOURCE, content_type=CONTENT_TYPE)


def read(values: dict[str, Any] | None = None, **changes: Any) -> list[Any]:
    """What one event means."""
    KNOWN.put(endpoint().id, "s1", SCHEMA)
    return list(translate(delivery(payload(values, **changes)), endpoint()))
