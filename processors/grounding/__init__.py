"""The wall between what a model says and what reaches a record: a claim stands on the record's own values, or is dropped.

Law: CRM text is data, never an instruction. Every insight passes through here, whichever analysis made it and whoever
answered; passing twice changes nothing. What is dropped is counted and named by kind, never by its text.
"""

from __future__ import annotations

from dataclasses import dataclass

from processors.grounding.data_quality import ground_data_quality
from processors.grounding.evidence import Evidence
from processors.grounding.lead_intel import ground_lead_intel
from processors.grounding.requirements import ground_requirements
from schemas.insight import DataQuality, Insight, LeadIntel, Requirements
from schemas.record import RecordSnapshot


@dataclass(frozen=True, slots=True)
class Grounded:
    """What may reach the record."""

    payload: LeadIntel | Requirements | DataQuality
    dropped: tuple[str, ...]
    """One line for each claim or sentence that was left out or replaced: its kind and why, without its text."""


def ground(
    payload: LeadIntel | Requirements | DataQuality,
    snapshot: RecordSnapshot,
    *,
    previous: Insight | None = None,
    evidence: Evidence | None = None,
) -> Grounded:
    """Keep what `snapshot` bears out. `previous`: the analysis's last insight, which "what changed" is told against; `evidence`:
    that of this snapshot, for whoever asks more than once: it remembers what it worked out.

    Pure and without I/O; never raises for anything that a model can say.
    """
    evidence = evidence or Evidence(snapshot)
    found: LeadIntel | Requirements | DataQuality
    if isinstance(payload, LeadIntel):
        found, dropped = ground_lead_intel(payload, evidence, previous)
    elif isinstance(payload, Requirements):
        found, dropped = ground_requirements(payload, evidence)
    else:
        found, dropped = ground_data_quality(payload, evidence)
    return Grounded(payload=found, dropped=tuple(dropped))
