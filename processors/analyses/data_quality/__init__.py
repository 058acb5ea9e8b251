"""Data quality: what is missing, malformed, misspelt, contradictory or stale, and which records are likely the same.

Law: deterministic checks alone. No model is asked: everything that it could judge here is decided by rules whose verdict
can be checked, at no cost and with no text of a customer's leaving the process. A field's one worst defect is told, not
three that follow from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from processors.analyses.analysis import RULES_MODEL, Analysis, Context, Finding
from processors.analyses.data_quality import consistency, formats, missing, spelling, staleness
from processors.analyses.data_quality.record import Record
from processors.matching import Match
from schemas.insight import DataQuality, Defect, Duplicate
from schemas.record import RecordSnapshot

POINTS = {"high": 20, "medium": 10, "low": 4}
DUPLICATE_POINTS = 10
_ORDER = {"high": 0, "medium": 1, "low": 2}


def defects_of(snapshot: RecordSnapshot, today: date) -> tuple[Defect, ...]:
    """Every defect, worst first; a field has one defect of a kind, and an unreadable value no further ones."""
    record = Record(snapshot, today)
    found: dict[tuple[str, str], Defect] = {}
    unreadable: set[str] = set()
    for check in (missing.check, formats.check, spelling.check, consistency.check, staleness.check):
        for defect in check(record):
            if defect.field in unreadable:
                continue
            found.setdefault((defect.field, defect.kind), defect)
        unreadable |= {field for field, kind in found if kind in {"malformed", "misspelt"}}
    return tuple(sorted(found.values(), key=lambda d: (_ORDER[d.severity], d.field, d.kind)))


def health_of(defects: Sequence[Defect], duplicates: Sequence[Duplicate]) -> int:
    """100 minus 20, 10 or 4 points a defect by severity, and 10 when there are likely duplicates; never below 0."""
    return max(0, 100 - sum(POINTS[d.severity] for d in defects) - (DUPLICATE_POINTS if duplicates else 0))


def summary_of(defects: Sequence[Defect], duplicates: Sequence[Duplicate]) -> str:
    """What to mend first, in a sentence."""
    if not defects and not duplicates:
        return "Nothing to mend."
    parts = []
    if defects:
        many = len(defects)
        parts.append(
            f"{many} thing{'' if many == 1 else 's'} to mend, first: {defects[0].message[:1].lower()}{defects[0].message[1:]}"
        )
    if duplicates:
        many = len(duplicates)
        parts.append(f"{many} likely duplicate{'' if many == 1 else 's'}")
    return "; ".join(parts) + "."


class DataQualityAnalysis:
    """The plug-in."""

    name = "data_quality"
    objects = frozenset({"contact", "company", "deal", "lead"})
    wants_matches = True
    version = "1"

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """All foreign fields, so that every real change of a record renews its insight; and the day of the last note."""
        return {
            "fields": dict(snapshot.fields),
            "last_note": max((n.at.date().isoformat() for n in snapshot.notes), default=""),
        }

    def pieces(self, snapshot: RecordSnapshot) -> dict[str, Any]:  # noqa: ARG002 -- the protocol's signature
        """None: all of it bears on the answer."""
        return {}

    async def analyse(self, context: Context) -> Finding:
        """Check; asks nobody."""
        defects = defects_of(context.snapshot, context.today)
        duplicates = tuple(duplicate_of(match) for match in context.matches)
        payload = DataQuality(
            health=health_of(defects, duplicates),
            defects=defects,
            duplicates=duplicates,
            summary=summary_of(defects, duplicates),
        )
        return Finding(payload=payload, model=RULES_MODEL, prompt_version=self.version)


def duplicate_of(match: Match) -> Duplicate:
    """A match as the insight shows it."""
    return Duplicate(id=match.id, probability=round(match.probability, 3), evidence=match.evidence)


PLUGIN: Analysis = DataQualityAnalysis()
