"""A snapshot as an analysis reads it: fields by what they mean, with their CRM names, values and since when.

Law: vendor-neutral; values stay as the CRM gave them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

from schemas.record import RecordSnapshot

LABELS: dict[str, str] = {
    "email": "E-mail",
    "last_name": "Last name",
    "first_name": "First name",
    "full_name": "Name",
    "job_title": "Job title",
    "deal_name": "Deal name",
    "company_name": "Company",
    "deal_stage": "Deal stage",
    "amount": "Amount",
    "close_date": "Close date",
    "probability": "Probability",
    "lifecycle_stage": "Lifecycle stage",
    "lead_status": "Lead status",
    "lead_source": "Lead source",
    "postal_code": "Postal code",
    "annual_revenue": "Annual revenue",
    "employees": "Employees",
    "last_contacted_at": "Last contacted",
    "last_activity_at": "Last activity",
    "created_at": "Created",
    "birth_date": "Birth date",
    "next_step": "Next step",
    "opted_out": "Opted out of e-mail",
}


def label_of(concept: str) -> str:
    """What a person calls a concept: `job_title` is `Job title`."""
    return LABELS.get(concept) or concept.replace("_", " ").capitalize()


# Not frozen: dozens of them are made for each record, and a lock on every attribute costs more than filling them.
@dataclass(slots=True)
class Fact:
    """One filled field."""

    concept: str
    field: str
    value: str
    since: datetime

    def as_json(self) -> dict[str, str]:
        """As a model is shown it; `since` by the day, so that a clock's tick asks no new question."""
        return {
            "concept": self.concept,
            "field": self.field,
            "label": label_of(self.concept),
            "value": self.value,
            "since": self.since.astimezone(UTC).date().isoformat(),
        }


def facts_of(snapshot: RecordSnapshot, concepts: Iterable[str]) -> dict[str, Fact]:
    """The filled ones of `concepts`, in the order given."""
    since, otherwise = snapshot.since, snapshot.modified_at
    return {
        concept: Fact(concept, field, value, since.get(field, otherwise))
        for concept, field, value in _filled(snapshot, concepts)
    }


def filled(snapshot: RecordSnapshot, concepts: Iterable[str]) -> dict[str, str]:
    """Their values alone, of the filled ones of `concepts`, in the order given."""
    return {concept: value for concept, _, value in _filled(snapshot, concepts)}


def _filled(snapshot: RecordSnapshot, concepts: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Concept, field, value."""
    fields, known = snapshot.fields, snapshot.concepts
    for concept in concepts:
        field = known.get(concept)
        if field and (value := fields.get(field, "").strip()):
            yield concept, field, value


def plain(text: str) -> str:
    """What is left of a text when two copies may differ in white space and case."""
    return " ".join(text.split()).casefold()


_NUMBER = re.compile(r"-?\d[\d.,' \u00a0\u202f]*")
_SPACED = re.compile(r"[ '\u00a0\u202f]")
_MILLIS = re.compile(r"\d{12,13}")
_ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_OFFSET = re.compile(r"([+-]\d{2})(\d{2})$")


def number(text: str | None) -> float | None:
    """A number written as a CRM or a person writes it (`15000`, `15,000.50`, `15.000,50`); None when it is none."""
    if not text:
        return None
    match = _NUMBER.search(text)
    if match is None:
        return None
    raw = _SPACED.sub("", match.group()).rstrip(".,")
    if "," in raw and "." in raw:
        decimal = max(raw.rfind(","), raw.rfind("."))
        raw = re.sub(r"[.,]", "", raw[:decimal]) + "." + raw[decimal + 1 :]
    elif "," in raw or "." in raw:
        mark = "," if "," in raw else "."
        head, _, tail = raw.rpartition(mark)
        # Three digits after a single mark are thousands to a person (`15.000 EUR`), unless nothing but zero stands before it.
        thousands = raw.count(mark) > 1 or (
            len(tail) == 3 and head.lstrip("-") not in {"", "0"} and len(head.lstrip("-")) <= 3
        )
        raw = raw.replace(mark, "") if thousands else f"{head.replace(mark, '')}.{tail}"
    try:
        return float(raw)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def moment(text: str | None) -> datetime | None:
    """A date or time as CRMs write them: ISO 8601, or milliseconds since 1970 (HubSpot's older answers); None when it is none."""
    if not text:
        return None
    text = text.strip()
    if _MILLIS.fullmatch(text):
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    if not _ISO_DAY.match(text):
        return None
    try:
        found = datetime.fromisoformat(_OFFSET.sub(r"\1:\2", text.replace("Z", "+00:00")))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def day(text: str | None) -> date | None:
    """The calendar day (UTC) of `moment`."""
    found = moment(text)
    return found.astimezone(UTC).date() if found else None


def canonical(snapshot: RecordSnapshot, concepts: Iterable[str]) -> dict[str, Any]:
    """What an analysis reads of the structured fields, for its input hash: by concept, so that renaming nothing renews nothing."""
    return {concept: [field, value] for concept, field, value in _filled(snapshot, concepts)}
