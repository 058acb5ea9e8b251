"""A record as the checks see it, and how they say what they found.

Law: a defect's message holds no value and no count of days: what changes from day to day must not renew an insight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from processors.analyses.data_quality.nearness import meant_region
from processors.analyses.data_quality.reference import region_of
from processors.analyses.facts import day, filled, label_of
from processors.analyses.lead_intel.opinions import closed
from schemas.insight import Defect
from schemas.record import RecordSnapshot

Severity = Literal["high", "medium", "low"]
Kind = Literal["missing", "malformed", "misspelt", "contradictory", "stale"]

MAX_SHOWN = 200


@dataclass
class Record:
    """A snapshot and today's date."""

    snapshot: RecordSnapshot
    today: date

    @cached_property
    def _values(self) -> dict[str, str]:
        """Every filled concept's, trimmed: the checks ask for each of them again and again."""
        return filled(self.snapshot, self.snapshot.concepts)

    def __getitem__(self, concept: str) -> str | None:
        """The value of a concept, trimmed; None when empty."""
        return self._values.get(concept)

    def has(self, concept: str) -> bool:
        """Whether this CRM has a field for it (and so an empty one is known to be empty)."""
        field = self.snapshot.concepts.get(concept)
        return field is not None and (not self.snapshot.known_fields or field in self.snapshot.known_fields)

    def day(self, concept: str) -> date | None:
        """The calendar day of a concept's value; None when it is no date."""
        return day(self[concept])

    @cached_property
    def region(self) -> str | None:
        """ISO code of its country, where that is readable."""
        country = self["country"]
        return region_of(country) or (meant_region(country) if country else None)

    @cached_property
    def outcome(self) -> Literal["won", "lost", "over"] | None:
        """How a deal ended, `over` where the CRM does not say how; None while it is open."""
        flags = {name: (self[name] or "").casefold() for name in ("closed", "won")}
        by_stage = closed(self["deal_stage"])
        if by_stage:
            return by_stage
        if flags["closed"] != "true":
            return None
        return {"true": "won", "false": "lost"}.get(flags["won"], "over")  # type: ignore[return-value]  # a dict of literals is a dict of str

    def defect(
        self,
        concept: str,
        kind: Kind,
        severity: Severity,
        message: str,
        *,
        proposed: str | None = None,
        other: str | None = None,
    ) -> Defect:
        """Say what is wrong, in the CRM's own field names."""
        concepts = self.snapshot.concepts
        value = self[concept]
        return Defect(
            field=concepts.get(concept, concept),
            kind=kind,
            severity=severity,
            message=message.format(label=label_of(concept)),
            value=value[:MAX_SHOWN] if value else None,
            proposed=proposed,
            other_field=concepts.get(other) if other else None,
        )
