"""Fields that people need and that are empty.

Law: only a field that this CRM is known to have can be missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from processors.analyses.data_quality.record import Record, Severity
from schemas.insight import Defect

NEEDED: dict[str, tuple[tuple[str, Severity, str], ...]] = {
    "contact": (
        ("email", "high", "No e-mail address"),
        ("last_name", "high", "No last name"),
        ("first_name", "low", "No first name"),
        ("phone", "medium", "No phone number"),
        ("job_title", "medium", "No job title"),
        ("company_name", "medium", "No company"),
        ("country", "low", "No country"),
        ("lifecycle_stage", "low", "No lifecycle stage"),
    ),
    "lead": (
        ("email", "high", "No e-mail address"),
        ("last_name", "high", "No last name"),
        ("company_name", "high", "No company"),
        ("phone", "medium", "No phone number"),
        ("lead_status", "medium", "No lead status"),
        ("job_title", "medium", "No job title"),
        ("lead_source", "low", "No lead source"),
        ("country", "low", "No country"),
    ),
    "company": (
        ("company_name", "high", "No name"),
        ("domain", "medium", "No website"),
        ("industry", "medium", "No industry"),
        ("country", "medium", "No country"),
        ("city", "low", "No city"),
        ("phone", "low", "No phone number"),
    ),
    "deal": (
        ("deal_name", "high", "No name"),
        ("amount", "high", "No amount"),
        ("close_date", "high", "No close date"),
        ("deal_stage", "high", "No stage"),
        ("next_step", "low", "No next step"),
        ("lost_reason", "low", "Lost without a reason"),
    ),
}
INSTEAD: dict[str, tuple[str, ...]] = {
    "phone": ("mobile_phone",),
    "domain": ("website",),
    "last_name": ("full_name",),
    "company_name": ("company",),
    "job_title": ("department",),
}
"""Another field that serves as well."""


def check(record: Record) -> Iterator[Defect]:
    """Each needed field that is empty and that nothing stands in for."""
    for concept, severity, message in NEEDED.get(record.snapshot.object, ()):
        if concept == "domain" and not record.has("domain") and record.has("website"):
            concept = "website"  # noqa: PLW2901 — Salesforce accounts have a website only
        if not record.has(concept) or record[concept]:
            continue
        # HubSpot leads have a name of their own and no person's fields; a full name is no stand-in where last names are kept.
        if any(record[other] for other in INSTEAD.get(concept, ()) if other != "full_name"):
            continue
        if concept == "lost_reason" and record.outcome != "lost":
            continue
        if concept == "next_step" and record.outcome:
            continue
        yield record.defect(concept, "missing", severity, message)
