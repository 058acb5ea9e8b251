"""What changed since the last insight, in a rep's words: computed from both insights' evidence, never by a model.

Law: values come from the snapshot, or from evidence that an earlier snapshot grounded; nothing else is said.
"""

from __future__ import annotations

from processors.analyses.facts import facts_of, label_of
from processors.analyses.lead_intel.scoring import READS
from processors.analyses.suspicion import presentable
from schemas.insight import Insight, LeadIntel
from schemas.record import RecordSnapshot

MOST = 6


def changes_since(  # noqa: C901 - one kind of change after the other
    previous: Insight | None, now: LeadIntel, snapshot: RecordSnapshot
) -> tuple[str, ...]:
    """At most six lines, the score first; empty for the first insight."""
    before = previous.payload if previous else None
    if not isinstance(before, LeadIntel):
        return ()
    lines = _score(before, now)
    concept_of = {field: concept for concept, field in snapshot.concepts.items()}
    old = {factor.evidence.field: factor for factor in before.factors}
    said: set[str] = set()
    for field, factor in old.items():
        concept, value = concept_of.get(field, ""), " ".join(snapshot.fields.get(field, "").split())
        if value == factor.evidence.value or not concept:
            continue
        said.add(field)
        if not value:
            lines.append(f"{label_of(concept)} was emptied (it was {factor.evidence.value})")
        elif presentable(concept, value):
            lines.append(f"{label_of(concept)}: {factor.evidence.value} → {value}")
        else:
            lines.append(f"{label_of(concept)} changed")
    reads = READS.get(snapshot.object, READS["contact"])
    for concept, fact in facts_of(snapshot, reads).items():
        if fact.field in snapshot.changed and fact.field not in said:
            shown = " ".join(fact.value.split())
            lines.append(
                f"{label_of(concept)} is now {shown}"
                if presentable(concept, fact.value)
                else f"{label_of(concept)} changed"
            )
    if "notes" in snapshot.changed and snapshot.notes:
        latest = max(snapshot.notes, key=lambda note: note.at)
        kind = {"email": "e-mail", "task": "task"}.get(latest.kind, "note")
        lines.append(f"New {kind} of {latest.at.date().isoformat()}")
    for factor in now.factors:
        earlier = old.get(factor.evidence.field)
        if (
            earlier
            and factor.evidence.field not in said
            and factor.label != earlier.label
            and factor.evidence.value == earlier.evidence.value
        ):
            lines.append(
                f"{label_of(concept_of.get(factor.evidence.field, ''))}: {factor.label[:1].lower()}{factor.label[1:]}"
            )
    return tuple(lines[:MOST])


def _score(before: LeadIntel, now: LeadIntel) -> list[str]:
    if before.score is not None and now.score is not None and before.score != now.score:
        grade = f", grade {before.grade} → {now.grade}" if before.grade != now.grade else ""
        return [f"Score {before.score} → {now.score}{grade}"]
    if before.score is None and now.score is not None:
        return ["Enough data for a score now"]
    if before.score is not None and now.score is None:
        return ["No longer enough data for a score"]
    return []
