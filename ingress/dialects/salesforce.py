"""Salesforce's outbound messages in our words.

Law: XML is parsed here and nowhere else, without document types, entities or anything fetched.
Source: "Outbound Messaging" of Salesforce's SOAP API developer guide. A message carries the record as it stands when it
is sent, not what changed; so a change names no properties, and who wrote it never suffices to drop it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError  # the types alone: the parser is defusedxml's

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from infra.accounts import salesforce_id
from ingress.sources.source import Event, Ignored, Translated, Untranslatable
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import ObjectType

if TYPE_CHECKING:
    from infra.accounts import Endpoint

_SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
_OUT = "{http://soap.sforce.com/2005/09/outbound}"
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"

OBJECTS: dict[str, ObjectType] = {
    "Contact": "contact",
    "Account": "company",
    "Opportunity": "deal",
    "Lead": "lead",
    "Case": "ticket",
    "Task": "note",
    "ContentNote": "note",
    "EmailMessage": "email",
}
"""sObject → our name."""

_PARENT_FIELDS = ("WhatId", "WhoId", "RelatedToId", "ParentId")
PREFIXES: dict[str, ObjectType] = {"001": "company", "003": "contact", "006": "deal", "00Q": "lead", "500": "ticket"}
"""Key prefix of an id → what it is the id of; the same in every org."""

_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")


def long_id(given: str) -> str:
    """The 18-character form of a record id; one of 15 characters gets its three check characters.

    One of 18 is kept as it is: it comes from the CRM itself. Raises ValueError when it is no id at all.
    """
    if not _ID.fullmatch(given):
        raise ValueError("not a Salesforce id of 15 or 18 characters")
    return given if len(given) == 18 else salesforce_id(given)


def parents_of(fields: Mapping[str, Any]) -> list[tuple[ObjectType, str]]:
    """The records that a task, note or e-mail hangs on, each once; what is no id of theirs is passed over."""
    found: dict[tuple[ObjectType, str], None] = {}
    for name in _PARENT_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and _ID.fullmatch(value) and value[:3] in PREFIXES:
            found[PREFIXES[value[:3]], long_id(value)] = None
    return list(found)


def translate(delivery: Delivery, endpoint: Endpoint) -> Iterator[Translated]:
    """Each notification of the message."""
    del endpoint  # an org is known by its OrganizationId; the endpoint adds nothing to what a message says
    try:
        root = fromstring(delivery.body, forbid_dtd=True)
    except ParseError as error:
        line, column = error.position
        yield Untranslatable(Cause.MALFORMED_BODY, f"not XML: line {line}, column {column}")
        return
    except DefusedXmlException:
        yield Untranslatable(
            Cause.MALFORMED_BODY, "the XML brings a document type or entities, which no outbound message has"
        )
        return
    except (ValueError, LookupError):
        yield Untranslatable(Cause.MALFORMED_BODY, "not XML in an encoding that we know")
        return
    found = root.find(f"{_SOAP}Body/{_OUT}notifications") if root.tag == f"{_SOAP}Envelope" else None
    if found is None:
        yield Untranslatable(Cause.MALFORMED_BODY, "no outbound message: Envelope/Body/notifications is missing")
        return
    notifications = found.findall(f"{_OUT}Notification")
    if not notifications:
        yield Ignored("empty")
        return
    try:
        account = f"salesforce:{long_id(_text(found, f'{_OUT}OrganizationId'))}"
    except ValueError:
        yield Untranslatable(Cause.MALFORMED_BODY, "OrganizationId is missing or no id of 15 or 18 characters")
        return
    for position, notification in enumerate(notifications):
        try:
            yield from _notification(notification, position, account, delivery.received_at)
        except ValueError as error:
            yield Untranslatable(Cause.MALFORMED_BODY, str(error), position, account)


def _notification(notification: Element, position: int, account: str, received_at: datetime) -> Iterable[Translated]:
    identity = _text(notification, f"{_OUT}Id")
    if not identity:
        raise ValueError("Notification has no Id")
    record = notification.find(f"{_OUT}sObject")
    if record is None:
        raise ValueError("Notification has no sObject")
    fields = {field.tag.rpartition("}")[2]: (field.text or "").strip() for field in record}
    kind_of = record.get(_TYPE, "").rpartition(":")[2]
    if not kind_of:
        raise ValueError("sObject has no xsi:type")
    found = OBJECTS.get(kind_of)
    if found is None:
        return [Untranslatable(Cause.UNSUPPORTED_EVENT, "no analysis reads this sObject type", position, account)]
    try:
        record_id = long_id(fields.get("Id", ""))
    except ValueError:
        raise ValueError("sObject has no Id of 15 or 18 characters") from None
    created, modified = (_moment(fields.get(name, ""), name) for name in ("CreatedDate", "LastModifiedDate"))
    occurred_at = modified or _moment(fields.get("SystemModstamp", ""), "SystemModstamp") or received_at
    author = fields.get("LastModifiedById", "")

    def event(about: ObjectType, one: str, kind: ChangeKind) -> Event:
        return Event(
            account=account,
            key=f"{account} {identity}",
            position=position,
            object=about,
            id=one,
            kind=kind,
            occurred_at=occurred_at,
            edited_by=long_id(author) if _ID.fullmatch(author) else None,
        )

    if fields.get("IsDeleted") == "true":
        kind: ChangeKind = "deleted"
    else:
        kind = "created" if created is not None and created == modified else "updated"
    parents = parents_of(fields) if found in {"note", "email"} else []
    if parents:
        # What a task or e-mail says is read with the record it hangs on, so that one is what changed.
        return [event(about, one, "associated") for about, one in parents]
    return [event(found, record_id, kind)]


def _text(parent: Element, tag: str) -> str:
    return (parent.findtext(tag) or "").strip()


def _moment(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is not a time") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
