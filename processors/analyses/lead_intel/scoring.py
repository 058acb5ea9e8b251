"""From grounded factors to a number: the formula that no model can talk to.

score = clamp(BASE + Σ weights up − Σ weights down, 0, 100); A ≥ 80, B ≥ 60, C ≥ 40, D ≥ 20, E below (docs/analyses.md).
Where experience (`opinions`) has a view of a value, a model may weigh it at most half as much again and may not turn it
around; where it has none, a factor weighs NEUTRAL_CAP at most, and NEUTRAL_FACTORS of them count.

Law: pure arithmetic over factors and snapshot; reads no text that a model wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from processors.analyses.facts import day, filled
from processors.analyses.lead_intel.opinions import Opinion, closed, opinion
from schemas.insight import Factor
from schemas.record import RecordSnapshot

BASE = 40
NEUTRAL_CAP = 4
NEUTRAL_FACTORS = 3
MAX_WEIGHT = 25
MIN_FACTORS = 2
"""Fewer grounded factors than this are not enough data."""

PERSON = (
    "job_title",
    "company_name",
    "email",
    "phone",
    "lifecycle_stage",
    "lead_status",
    "lead_source",
    "last_contacted_at",
)
DEAL = ("deal_stage", "amount", "close_date", "next_step", "last_contacted_at", "pipeline")
READS: dict[str, tuple[str, ...]] = {
    "contact": (
        "first_name", "last_name", "full_name", "job_title", "seniority", "company_name", "email", "phone", "mobile_phone", "city", "country",
        "industry", "employees", "annual_revenue", "lifecycle_stage", "lead_status", "lead_source", "rating", "opted_out",
        "last_contacted_at", "last_activity_at", "next_step", "website",
    ),
    "deal": (
        "deal_name", "deal_stage", "pipeline", "amount", "currency", "probability", "close_date", "created_at", "deal_type", "priority",
        "next_step", "lead_source", "last_contacted_at", "last_activity_at", "description",
    ),
}  # fmt: skip
READS["lead"] = (*READS["contact"], "description")
"""The concepts that lead intelligence reads, by kind of record; only these can be cited."""
NEVER_CITED = frozenset({"description", "first_name", "last_name", "full_name"})
"""Read for understanding; a name or a free text is no reason for a score."""


def important(snapshot: RecordSnapshot) -> tuple[str, ...]:
    """What one would want to know before judging, as far as this CRM has a field for it."""
    wanted = DEAL if snapshot.object == "deal" else PERSON
    return tuple(concept for concept in wanted if concept in snapshot.concepts)


def missing(snapshot: RecordSnapshot) -> tuple[str, ...]:
    """The important ones that are empty."""
    wanted = important(snapshot)
    there = filled(snapshot, wanted)
    return tuple(concept for concept in wanted if concept not in there)


def expected(snapshot: RecordSnapshot, concept: str, value: str) -> Opinion | None:
    """What experience says about this value in this record, on the day that the record was last changed."""
    over = closed(snapshot.value("deal_stage") or snapshot.value("lead_status")) is not None
    return opinion(concept, value, crm=snapshot.crm, on=snapshot.modified_at.date(), object=snapshot.object, over=over)


def bounded(weight: int, view: Opinion | None) -> int:
    """A proposed weight within what its value can carry."""
    cap = NEUTRAL_CAP if view is None else min(MAX_WEIGHT, math.ceil(view.weight * 1.5))
    return max(1, min(weight, cap))


def score_of(factors: Iterable[Factor]) -> int:
    """0 to 100."""
    return max(0, min(100, BASE + sum(f.weight if f.direction == "up" else -f.weight for f in factors)))


def grade_of(score: int) -> Literal["A", "B", "C", "D", "E"]:
    """The letter of a score."""
    if score >= 80:
        return "A"
    if score >= 60:
        return "B"
    if score >= 40:
        return "C"
    return "D" if score >= 20 else "E"


def confidence_of(snapshot: RecordSnapshot, factors: Iterable[Factor]) -> float:
    """0 to 0.95: how much of what one would want to know is known, how many reasons stand, how fresh the contact is."""
    wanted = important(snapshot)
    coverage = 1 - len(missing(snapshot)) / len(wanted) if wanted else 0.0
    reasons = min(len(list(factors)), 6) / 6
    contacted = day(snapshot.value("last_contacted_at"))
    fresh = bool(contacted) and (snapshot.modified_at.date() - (contacted or snapshot.modified_at.date())).days <= 30
    return round(min(0.95, 0.1 + 0.5 * coverage + 0.25 * reasons + (0.1 if fresh else 0.0)), 2)
