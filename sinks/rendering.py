"""An insight as a rep reads it on the record: short lines, each claim with what it rests on, within the fields' limits.

Law: pure; the same insight always makes the same text, or an unchanged insight would be written again. Every field of an
analysis is named, an empty one with an empty text, so that what no longer holds is cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from infra.crm.own_fields import OWN_FIELDS
from infra.crm.text import cut
from schemas.insight import (
    DataQuality,
    Defect,
    Duplicate,
    Factor,
    Insight,
    LeadIntel,
    NextAction,
    Requirement,
    Requirements,
)

ANALYSIS_FIELDS: dict[str, tuple[str, ...]] = {
    "lead_intel": ("score", "grade", "summary", "why", "what_changed", "next_step", "next_step_due"),
    "requirements": ("requirements", "open_questions"),
    "data_quality": ("data_quality", "data_health", "duplicates"),
}
"""Which fields an analysis owns. In this order they decide whose `model` the record shows."""
RECORD_FIELDS = ("as_of", "analyzed_at", "model", "version")

_LINE = 300


def render(insight: Insight) -> dict[str, str]:
    """The fields that the insight's analysis owns, by their short names."""
    owned = ANALYSIS_FIELDS.get(insight.analysis, ())
    given: dict[str, str] = {}
    if isinstance(insight.payload, LeadIntel):
        given = _lead(insight.payload)
    elif isinstance(insight.payload, Requirements):
        given = _requirements(insight.payload)
    elif isinstance(insight.payload, DataQuality):
        given = _quality(insight.payload)
    return {name: cut(given.get(name, "").replace("\x00", ""), OWN_FIELDS[name].limit) for name in owned}


def stamp(moment: datetime) -> str:
    """A moment as the fields hold it: ISO 8601 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lead(found: LeadIntel) -> dict[str, str]:
    if found.status == "not_enough_data":
        wanted = f" Most helpful would be: {', '.join(found.missing)}." if found.missing else ""
        summary = f"Not enough data for a score yet.{wanted}{f' {found.summary}' if found.summary else ''}"
        return {"summary": summary, "what_changed": _lines(found.changes, str), **_next(found.next_action)}
    return {
        "score": "" if found.score is None else str(found.score),
        "grade": found.grade or "",
        "summary": found.summary,
        "why": _lines(found.factors, _factor),
        "what_changed": _lines(found.changes, str),
        **_next(found.next_action),
    }


def _next(action: NextAction | None) -> dict[str, str]:
    if action is None:
        return {}
    return {
        "next_step": f"{action.text}{f' ({action.why})' if action.why else ''}",
        "next_step_due": action.due.isoformat(),
    }


def _factor(factor: Factor) -> str:
    sign = "+" if factor.direction == "up" else "−"
    shown = "" if factor.evidence.value.casefold() in factor.label.casefold() else f": {factor.evidence.value}"
    return (
        f"{sign}{factor.weight} {factor.label}{shown} ({factor.evidence.field}, since {factor.evidence.since:%Y-%m-%d})"
    )


def _requirements(found: Requirements) -> dict[str, str]:
    items = sorted(
        found.items, key=lambda item: (item.status == "superseded", ("must", "should", "could").index(item.priority))
    )
    lines = [_requirement(item) for item in items]
    lines += [
        f"Contradiction about {one.about}: “{one.first_quote}” ({one.first_source}) against “{one.second_quote}” ({one.second_source})"
        for one in found.contradictions
    ]
    return {
        "requirements": _lines(lines, str),
        "open_questions": _lines(found.open_questions, lambda question: f"• {question}"),
    }


def _requirement(item: Requirement) -> str:
    status = " [superseded]" if item.status == "superseded" else ""
    # Rules have no words of their own for what was asked: said once is enough.
    told = "" if item.text.strip() == item.quote.strip() else f"{item.text} – "
    return f"{item.priority.upper()} {item.kind}{status}: {told}“{item.quote}” ({item.source}, {item.said_at:%Y-%m-%d})"


def _quality(found: DataQuality) -> dict[str, str]:
    order = ("high", "medium", "low")
    defects = sorted(found.defects, key=lambda defect: order.index(defect.severity))
    return {
        "data_quality": _lines(defects, _defect) or (found.summary if not found.duplicates else ""),
        "data_health": str(found.health),
        "duplicates": _lines(found.duplicates, _duplicate),
    }


def _defect(defect: Defect) -> str:
    proposed = f" → {defect.proposed}" if defect.proposed else ""
    return f"{defect.severity.capitalize()}: {defect.message} ({defect.field}, {defect.kind}){proposed}"


def _duplicate(duplicate: Duplicate) -> str:
    return f"{duplicate.id} ({duplicate.probability:.0%}): {', '.join(duplicate.evidence)}"


def _lines(items: Iterable[Any], show: Callable[[Any], str]) -> str:
    """One line an item; white space within one is folded."""
    return "\n".join(cut(" ".join(show(item).split()), _LINE) for item in items)
