"""Lead intelligence between two questions: what the last insight said and the record still shows, and rules for what has changed.

Law: pure. A reason stays while its value stays, or while experience says the same of the value that has replaced it; any other
value that changed is judged by experience alone. Sentences stay while no reason moved; otherwise they are ours. Score, grade and
dates are computed from what results, by grounding.
"""

from __future__ import annotations

from processors.analyses.lead_intel.scoring import expected
from processors.analyses.lead_intel.view import View, questions, summary_of
from schemas.insight import Evidence, Factor, LeadIntel
from schemas.record import RecordSnapshot


def carried(before: LeadIntel, by_rules: LeadIntel, snapshot: RecordSnapshot) -> LeadIntel:
    """`by_rules`: what the rules alone say of `snapshot`."""
    stands = {factor.evidence.field: kept for factor in before.factors if (kept := _standing(factor, snapshot))}
    moved = {factor.evidence.field for factor in before.factors} - stands.keys()
    touched = moved | set(snapshot.changed)
    fresh = [
        factor
        for factor in by_rules.factors
        if factor.evidence.field in touched and factor.evidence.field not in stands
    ]
    factors = (*stands.values(), *fresh)
    still = not moved and not fresh
    return by_rules.model_copy(
        update={
            "factors": factors,
            "summary": before.summary if still else summary_of(View.of(questions(snapshot)), factors),
            "next_action": before.next_action if still and "notes" not in snapshot.changed else by_rules.next_action,
        }
    )


def _standing(factor: Factor, snapshot: RecordSnapshot) -> Factor | None:
    """The same reason, as the snapshot shows it; None when it is gone."""
    field, before = factor.evidence.field, factor.evidence.value
    value = " ".join(snapshot.fields.get(field, "").split())
    if value == before:
        return factor
    concept = next((concept for concept, name in snapshot.concepts.items() if name == field), "")
    view = expected(snapshot, concept, value) if value and concept else None
    if view is None or view != expected(snapshot, concept, before):
        return None
    return factor.model_copy(update={"evidence": Evidence(field=field, value=value, since=snapshot.since_when(field))})
