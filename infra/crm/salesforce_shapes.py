"""Salesforce's answers, read: records, activities, descriptions, errors.

Law: pure functions over decoded JSON; what Salesforce leaves out is empty here, never a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from infra.accounts import salesforce_id
from infra.crm.client import Busy, Gone, Refused
from infra.crm.concepts import MAPS
from infra.crm.known_fields import Fields
from infra.crm.own_fields import MAX_REP_CHARACTERS, OWN_FIELDS, REP_FIELDS, OwnField, is_reps
from infra.crm.text import cut, plain
from schemas.record import Note, ObjectType, Related

PREFIX = "Hookline_"
SOBJECTS: dict[str, str] = {
    "contact": "Contact",
    "company": "Account",
    "deal": "Opportunity",
    "lead": "Lead",
    "ticket": "Case",
}
BY_KEY_PREFIX: dict[str, ObjectType] = {
    "001": "company",
    "003": "contact",
    "006": "deal",
    "00Q": "lead",
    "500": "ticket",
}
"""What the first three characters of an id say."""
ACCOUNT_FIELDS = (
    "Name",
    "Website",
    "Industry",
    "NumberOfEmployees",
    "AnnualRevenue",
    "BillingCity",
    "BillingCountry",
    "Type",
)
CONTACT_FIELDS = ("FirstName", "LastName", "Email", "Title", "Phone", "Department")
MERGEABLE = frozenset({"Lead", "Contact", "Account"})
NO_SUCH = frozenset({"INVALID_TYPE", "INVALID_FIELD", "NOT_FOUND", "INSUFFICIENT_ACCESS"})
"""What Salesforce answers about an object or field that the org lacks, or hides from us."""
MAX_NOTES = 50
MAX_NOTE_CHARACTERS = 8_000
MAX_CUSTOM_FIELDS = 150
PREVIEW_CHARACTERS = 255

# Asked for, but no part of what a snapshot compares: they move with every write, ours included.
_SYSTEM = frozenset({"Id", "LastModifiedDate", "LastModifiedById", "SystemModstamp", "IsDeleted", "attributes"})
_UNREAD_TYPES = frozenset({"address", "location", "base64", "anyType", "complexvalue"})
OWN_NAMES: dict[str, str] = {
    name: PREFIX + "_".join(part.capitalize() for part in name.split("_")) + "__c" for name in OWN_FIELDS
}
_OWN_SHORT = {vendor: name for name, vendor in OWN_NAMES.items()}


def chosen_fields(object_: str, described: Iterable[Mapping[str, Any]]) -> Fields:
    """Which of an object's fields are read: the standard ones that have a meaning to us, and the org's own."""
    wanted = set(MAPS["salesforce"].get(object_, {}).values()) | {"LastModifiedDate", "LastModifiedById", "OwnerId"}
    standard, custom, own = [], [], []
    for found in described:
        name = str(found.get("name", ""))
        if name.lower().startswith(PREFIX.lower()):
            own.append(name)
        elif name in wanted:
            standard.append(name)
        elif found.get("custom") and found.get("type") not in _UNREAD_TYPES:
            custom.append(name)
    custom.sort()
    return Fields(
        read=tuple(
            sorted(standard) + custom[:MAX_CUSTOM_FIELDS] + sorted(name for name in own if is_reps(name, PREFIX))
        ),
        own=frozenset(own),
        omitted=tuple(custom[MAX_CUSTOM_FIELDS:]),
    )


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """Of the fields read, those that a snapshot shows."""
    return tuple(name for name in names if name not in _SYSTEM and not name.lower().startswith(PREFIX.lower()))


def text(value: object) -> str:
    """A value as text: numbers without a needless fraction, booleans in lower case; empty where it has no text."""
    if value is None or isinstance(value, Mapping | list):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def shown_fields(record: Mapping[str, Any]) -> dict[str, str]:
    """Non-empty foreign fields of an answer."""
    return {
        name: text(value)
        for name, value in record.items()
        if name not in _SYSTEM and not name.lower().startswith(PREFIX.lower()) and text(value) != ""
    }


def own_values(record: Mapping[str, Any]) -> dict[str, str]:
    """Our own fields of an answer, by their short names."""
    return {_OWN_SHORT[name]: text(value) for name, value in record.items() if name in _OWN_SHORT and text(value) != ""}


def feedback(record: Mapping[str, Any]) -> dict[str, str]:
    """What people wrote into our fields that are theirs, by short name."""
    return {name: cut(value, MAX_REP_CHARACTERS) for name, value in own_values(record).items() if name in REP_FIELDS}


def moment(given: object) -> datetime | None:
    """A time as Salesforce writes it (`2026-11-02T10:00:00.000+0000`), or a date."""
    try:
        found = datetime.fromisoformat(str(given)) if given else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


def modified_at(record: Mapping[str, Any]) -> datetime:
    """The record's last-modified time."""
    return moment(record.get("LastModifiedDate")) or moment(record.get("CreatedDate")) or datetime.fromtimestamp(0, UTC)


def normal(identity: str) -> str | None:
    """The 18-character form, or None for what cannot be an id."""
    try:
        return salesforce_id(identity)
    except ValueError:
        return None


def task(record: Mapping[str, Any]) -> Note | None:
    """A task: a logged call, an e-mail sent from elsewhere, something to do."""
    body = plain(record.get("Description") or "")
    subject = plain(record.get("Subject") or "")
    kind = "email" if str(record.get("TaskSubtype") or "").lower() in {"email", "listemail"} else "task"
    at = moment(record.get("CreatedDate")) or moment(record.get("ActivityDate")) or modified_at(record)
    return _note(record, kind, at, author=record.get("OwnerId"), subject=subject, body=body)


def email(record: Mapping[str, Any]) -> Note | None:
    """An e-mail."""
    body = plain(record.get("TextBody") or record.get("HtmlBody") or "")
    at = moment(record.get("MessageDate")) or modified_at(record)
    direction = "INCOMING_EMAIL" if record.get("Incoming") else "EMAIL"
    author = f"{direction} {record.get('FromAddress') or ''}".strip()
    return _note(record, "email", at, author=author, subject=plain(record.get("Subject") or ""), body=body)


def classic_note(record: Mapping[str, Any]) -> Note | None:
    """A note of the older kind."""
    at = moment(record.get("CreatedDate")) or modified_at(record)
    return _note(
        record,
        "note",
        at,
        author=record.get("OwnerId"),
        subject=plain(record.get("Title") or ""),
        body=plain(record.get("Body") or ""),
    )


def content_note(record: Mapping[str, Any]) -> Note | None:
    """A note of the newer kind, by its preview."""
    at = moment(record.get("CreatedDate")) or modified_at(record)
    return _note(
        record,
        "note",
        at,
        author=record.get("OwnerId"),
        subject=plain(record.get("Title") or ""),
        body=plain(record.get("TextPreview") or ""),
    )


def _note(
    record: Mapping[str, Any], kind: str, at: datetime, *, author: object, subject: str, body: str
) -> Note | None:
    if not subject and not body:
        return None
    return Note(
        id=str(record.get("Id", "")),
        kind="email" if kind == "email" else "task" if kind == "task" else "note",
        at=at,
        author=str(author) if author else None,
        subject=subject or None,
        text=cut(body, MAX_NOTE_CHARACTERS),
    )


def related(object_: ObjectType, record: Mapping[str, Any]) -> Related:
    """An associated record."""
    return Related(object=object_, id=str(record.get("Id", "")), fields=shown_fields(record))


def row_outcome(errors: Iterable[Mapping[str, Any]]) -> Gone | Refused | Busy:
    """What a failed row of a collections call means. Source: Salesforce, "Status Codes and Error Messages"."""
    given = list(errors)
    codes = [str(error.get("statusCode") or error.get("errorCode") or "UNKNOWN") for error in given] or ["UNKNOWN"]
    if codes[0] in {"ENTITY_IS_DELETED", "NOT_FOUND", "INVALID_CROSS_REFERENCE_KEY", "MALFORMED_ID"}:
        return Gone()
    if codes[0] in {
        "UNABLE_TO_LOCK_ROW",
        "SERVER_UNAVAILABLE",
        "UNKNOWN_EXCEPTION",
        "QUERY_TIMEOUT",
        "REQUEST_RUNNING_TOO_LONG",
    }:
        return Busy(codes[0])
    return refused(given)


def refused(errors: Iterable[Mapping[str, Any]]) -> Refused:
    """A refusal in Salesforce's words, without the values that its messages repeat."""
    given = list(errors)
    said, unknown = [], []
    for error in given:
        code = str(error.get("statusCode") or error.get("errorCode") or "UNKNOWN")
        fields = [str(name) for name in error.get("fields") or ()]
        if code in {"INVALID_FIELD", "INVALID_FIELD_FOR_INSERT_UPDATE"}:
            # The name stands in the message alone, and is ours: only our own are ever written.
            message = str(error.get("message") or "")
            unknown += [name for name in OWN_NAMES.values() if name in message] or fields
            fields = fields or unknown
        said.append(f"{code} {', '.join(fields)}".strip())
    category = str(given[0].get("statusCode") or given[0].get("errorCode") or "UNKNOWN") if given else "UNKNOWN"
    return Refused(category, "; ".join(said)[:500], tuple(unknown))


def json_value(field: OwnField, value: str) -> str | float | int | None:
    """A value of ours as JSON for its field's type; an empty text clears it."""
    if value == "":
        return None
    if field.kind == "number":
        number = float(value)
        return int(number) if number.is_integer() else number
    return value


def metadata(field: OwnField) -> dict[str, Any]:
    """A field's definition for the Tooling API's CustomField."""
    kinds: dict[str, dict[str, Any]] = {
        "text": {"type": "Text", "length": field.limit},
        "long_text": {"type": "LongTextArea", "length": 32_768, "visibleLines": 5},
        "number": {"type": "Number", "precision": 18, "scale": 0},
        "date": {"type": "Date"},
    }
    return {
        "label": field.label[:40],
        "description": field.description,
        "inlineHelpText": field.description,
        **kinds[field.kind],
    }
