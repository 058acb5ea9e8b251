"""Values that time has overtaken, by today's date.

Law: thresholds stand here; a message names no number of days, so that tomorrow's finding reads as today's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from processors.analyses.data_quality.record import Record
from schemas.insight import Defect

QUIET_DEAL_DAYS = 60
QUIET_LEAD_DAYS = 120
QUIET_CUSTOMER_DAYS = 365
QUIET_COMPANY_DAYS = 365
NEW_LEAD_DAYS = 30

_ACTIVE = frozenset({"lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity"})
_DONE = frozenset({"unqualified", "closednotconverted", "closedconverted"})


def check(record: Record) -> Iterator[Defect]:
    """What is out of date."""
    if record.snapshot.object == "deal":
        yield from _deal(record)
    elif record.snapshot.object in {"contact", "lead"}:
        yield from _person(record)
    elif record.snapshot.object == "company" and (concept := _quiet(record, QUIET_COMPANY_DAYS)):
        yield record.defect(concept, "stale", "low", "Nothing has happened with this company for over a year")


def _quiet(record: Record, days: int) -> str | None:
    """The concept that shows that nobody was in touch for longer than `days`; the later of contact and activity counts."""
    seen = [(record.day(concept), concept) for concept in ("last_contacted_at", "last_activity_at")]
    known = [(when, concept) for when, concept in seen if when]
    known += [(note.at.date(), "") for note in record.snapshot.notes]
    if not known:
        return None
    when, concept = max(known, key=lambda entry: entry[0])
    return concept if concept and (record.today - when).days > days else None


def _deal(record: Record) -> Iterator[Defect]:
    if record.outcome:
        return
    close = record.day("close_date")
    created = record.day("created_at")
    if close and close < record.today and not (created and close < created):
        yield record.defect("close_date", "stale", "high", "The close date has passed and the deal is still open")
    if concept := _quiet(record, QUIET_DEAL_DAYS):
        yield record.defect(concept, "stale", "medium", "No contact on this open deal for over two months")


def _person(record: Record) -> Iterator[Defect]:
    stage = re.sub(r"[^a-z]", "", (record["lifecycle_stage"] or "").casefold())
    status = re.sub(r"[^a-z]", "", (record["lead_status"] or "").casefold())
    if status in _DONE or (record["converted"] or "").casefold() == "true":
        return
    active = stage in _ACTIVE or (record.snapshot.object == "lead" and not stage)
    if active and (concept := _quiet(record, QUIET_LEAD_DAYS)):
        yield record.defect(concept, "stale", "medium", "No contact for over four months")
    elif stage == "customer" and (concept := _quiet(record, QUIET_CUSTOMER_DAYS)):
        yield record.defect(concept, "stale", "low", "No contact with this customer for over a year")
    created = record.day("created_at")
    if status in {"new", "opennotcontacted"} and created and (record.today - created).days > NEW_LEAD_DAYS:
        yield record.defect("lead_status", "stale", "medium", "Still new after more than a month")
