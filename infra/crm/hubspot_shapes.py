"""HubSpot's answers, read: records, associations, activities, properties, errors.

Law: pure functions over decoded JSON; what HubSpot leaves out is empty here, never a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from infra.crm.client import Busy, Gone, Refused
from infra.crm.concepts import MAPS
from infra.crm.known_fields import Fields
from infra.crm.own_fields import MAX_REP_CHARACTERS, is_reps
from infra.crm.text import cut, plain
from schemas.record import Note, ObjectType, Related

PREFIX = "hookline_"
PLURALS: dict[str, str] = {
    "contact": "contacts",
    "company": "companies",
    "deal": "deals",
    "lead": "leads",
    "ticket": "tickets",
    "note": "notes",
    "email": "emails",
}
SINGULARS: dict[str, ObjectType] = {
    "contacts": "contact",
    "companies": "company",
    "deals": "deal",
    "leads": "lead",
    "tickets": "ticket",
}
RELATED: dict[str, dict[str, int]] = {
    "contact": {"companies": 3},
    "company": {},
    "deal": {"companies": 3, "contacts": 20},
    "lead": {"contacts": 3, "companies": 3},
    "ticket": {},
}
"""What is read beside a record: its associated objects, and at most how many of each."""
ACTIVITIES: dict[str, tuple[str, ...]] = {
    "notes": ("hs_note_body", "hs_timestamp", "hubspot_owner_id"),
    "emails": (
        "hs_email_subject",
        "hs_email_text",
        "hs_email_html",
        "hs_email_direction",
        "hs_email_from_email",
        "hs_timestamp",
    ),
}
RELATED_FIELDS: dict[str, tuple[str, ...]] = {
    "companies": (
        "name",
        "domain",
        "website",
        "industry",
        "numberofemployees",
        "annualrevenue",
        "city",
        "country",
        "lifecyclestage",
    ),
    "contacts": ("firstname", "lastname", "email", "jobtitle", "phone", "lifecyclestage", "hs_lead_status"),
}
MAX_NOTES = 50
MAX_NOTE_CHARACTERS = 8_000
MAX_CUSTOM_FIELDS = 150

MERGED = "hs_merged_object_ids"
EDITOR = "hs_updated_by_user_id"
# Asked for, but no part of what a snapshot compares: they move with every write, ours included.
_SYSTEM = frozenset({"lastmodifieddate", "hs_lastmodifieddate", "hs_object_id", MERGED, EDITOR})


def chosen_fields(object_: str, properties: Iterable[Mapping[str, Any]]) -> Fields:
    """Which of an object's properties are read: the standard ones that have a meaning to us, and the portal's own."""
    wanted = set(MAPS["hubspot"].get(object_, {}).values()) | {MERGED, EDITOR}
    standard, custom, own = [], [], []
    for found in properties:
        name = str(found.get("name", ""))
        if name.lower().startswith(PREFIX):
            own.append(name)
        elif name in wanted:
            standard.append(name)
        elif not found.get("hubspotDefined", True) and not found.get("hidden"):
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
    return tuple(name for name in names if name not in _SYSTEM and not name.lower().startswith(PREFIX))


def shown_fields(properties: Mapping[str, Any]) -> dict[str, str]:
    """Non-empty foreign fields of an answer."""
    return {
        name: str(value)
        for name, value in properties.items()
        if value not in {None, ""} and name not in _SYSTEM and not name.lower().startswith(PREFIX)
    }


def feedback(properties: Mapping[str, Any]) -> dict[str, str]:
    """What people wrote into our properties that are theirs, by short name."""
    return {
        name.lower().removeprefix(PREFIX): cut(str(value), MAX_REP_CHARACTERS)
        for name, value in properties.items()
        if value not in {None, ""} and is_reps(name, PREFIX)
    }


def modified_at(record: Mapping[str, Any]) -> datetime:
    """The record's last-modified time, in milliseconds."""
    properties = record.get("properties") or {}
    text = (
        properties.get("lastmodifieddate")
        or properties.get("hs_lastmodifieddate")
        or record.get("updatedAt")
        or record.get("createdAt")
    )
    return moment(text) or datetime.fromtimestamp(0, UTC)


def moment(text: object) -> datetime | None:
    """A time as HubSpot writes it: ISO 8601, or milliseconds since 1970."""
    if not text:
        return None
    given = str(text)
    try:
        if given.lstrip("-").isdigit():
            return datetime.fromtimestamp(int(given) / 1000, UTC)
        found = datetime.fromisoformat(given)
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def merged_ids(record: Mapping[str, Any]) -> list[str]:
    """The ids of the records that were merged into this one."""
    text = (record.get("properties") or {}).get(MERGED) or ""
    return [part for part in str(text).split(";") if part]


def linked(target: Mapping[str, Any]) -> str:
    """The id at the other end of an association, of either API version."""
    return str(target.get("toObjectId") or target.get("id") or "")


def newest_ids(ids: Iterable[str], limit: int) -> tuple[list[str], bool]:
    """The newest `limit` of record ids, and whether some were left out. HubSpot's ids grow with time."""
    ordered = sorted(set(ids), key=lambda one: int(one) if one.isdigit() else 0, reverse=True)
    return ordered[:limit], len(ordered) > limit


def primary_first(targets: Sequence[Mapping[str, Any]], limit: int) -> list[str]:
    """Ids of associated records, the primary one first, each once."""

    def rank(target: Mapping[str, Any]) -> int:
        labels = [kind.get("label") for kind in target.get("associationTypes") or ()]
        return 0 if "Primary" in labels or not str(target.get("type", "_unlabeled")).endswith("_unlabeled") else 1

    return list(dict.fromkeys(linked(target) for target in sorted(targets, key=rank) if linked(target)))[:limit]


def note(kind: str, record: Mapping[str, Any]) -> Note | None:
    """A note or an e-mail; None when it holds no text."""
    properties = record.get("properties") or {}
    at = moment(properties.get("hs_timestamp")) or modified_at(record)
    identity = str(record.get("id", ""))
    if kind == "notes":
        text = plain(properties.get("hs_note_body") or "")
        author = properties.get("hubspot_owner_id")
        return (
            Note(id=identity, kind="note", at=at, author=author or None, text=cut(text, MAX_NOTE_CHARACTERS))
            if text
            else None
        )
    text = plain(properties.get("hs_email_text") or properties.get("hs_email_html") or "")
    subject = plain(properties.get("hs_email_subject") or "")
    if not text and not subject:
        return None
    author = " ".join(
        str(properties[name]) for name in ("hs_email_direction", "hs_email_from_email") if properties.get(name)
    )
    return Note(
        id=identity,
        kind="email",
        at=at,
        author=author or None,
        subject=subject or None,
        text=cut(text, MAX_NOTE_CHARACTERS),
    )


def related(plural: str, record: Mapping[str, Any]) -> Related:
    """An associated record."""
    return Related(
        object=SINGULARS[plural], id=str(record.get("id", "")), fields=shown_fields(record.get("properties") or {})
    )


def row_outcome(error: Mapping[str, Any]) -> Gone | Refused | Busy:
    """What one entry of a 207's `errors` means for its row.

    Source: HubSpot, "Error handling": categories; a category that is not known is taken as a refusal.
    """
    category = str(error.get("category") or "UNKNOWN")
    if category in {"OBJECT_NOT_FOUND", "NOT_FOUND"}:
        return Gone()
    if category in {"INTERNAL_ERROR", "RATE_LIMITS", "TIMEOUT", "SERVICE_UNAVAILABLE", "LOCKED", "GATEWAY_TIMEOUT"}:
        return Busy(category)
    return refused(category, error.get("errors") or ())


def refused(category: str, errors: Iterable[Mapping[str, Any]]) -> Refused:
    """A refusal in HubSpot's words, without the values that its messages repeat."""
    said: list[str] = []
    unknown: list[str] = []
    for error in errors:
        names = [str(name) for name in (error.get("context") or {}).get("propertyName") or ()]
        code = str(error.get("code") or "")
        if code in {"PROPERTY_DOESNT_EXIST", "PROPERTY_NOT_FOUND"}:
            unknown += names
        said.append(f"{code} {', '.join(names)}".strip())
    return Refused(category, "; ".join(part for part in said if part)[:500], tuple(unknown))


def failed_rows(error: Mapping[str, Any]) -> list[str]:
    """The rows that an entry of `errors` speaks of, by trace id or record id."""
    context = error.get("context") or {}
    for name in ("objectWriteTraceId", "ids", "id", "objectId"):
        found = context.get(name)
        if found:
            return [str(one) for one in (found if isinstance(found, list) else [found])]
    return []
