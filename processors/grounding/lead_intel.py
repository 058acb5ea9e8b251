"""Grounding of lead intelligence: factors by their evidence, score and grade by formula, sentences by `prose`.

Law: nothing that a model says about score, dates or confidence survives; a refused sentence is replaced by one of ours.
"""

from __future__ import annotations

from processors.analyses.facts import label_of
from processors.analyses.lead_intel.changes import changes_since
from processors.analyses.lead_intel.scoring import (
    MIN_FACTORS,
    NEUTRAL_FACTORS,
    NEVER_CITED,
    READS,
    bounded,
    confidence_of,
    expected,
    grade_of,
    missing,
    score_of,
)
from processors.analyses.lead_intel.view import View, advice_of, summary_of
from processors.grounding.evidence import Evidence
from processors.grounding.prose import begins_with_a_deed, refusal
from schemas.insight import Evidence as Cited
from schemas.insight import Factor, Insight, LeadIntel, NextAction

LABEL_LENGTH = 48
SENTENCE_LENGTH = 220
SUMMARY_LENGTH = 420


def ground_lead_intel(payload: LeadIntel, evidence: Evidence, previous: Insight | None) -> tuple[LeadIntel, list[str]]:
    """The payload as far as the record bears it out, and what was dropped (never its text)."""
    snapshot = evidence.snapshot
    view = View.on(snapshot)
    factors, dropped = _factors(payload, evidence)
    enough = len(factors) >= MIN_FACTORS
    score = score_of(factors) if enough else None
    summary, own = payload.summary, summary_of(view, factors)
    if reason := _refused(summary, evidence, SUMMARY_LENGTH, own=own):
        dropped.append(f"summary: {reason}")
        summary = ""
    # Our own summary names the strongest factors, which grounding may just have changed: it is made again from those that stand.
    if not summary or (summary != own and summary == summary_of(view, payload.factors)):
        summary = own
    action = payload.next_action
    if action is not None:
        action, why = _action(action, view, evidence)
        dropped += why
    grounded = LeadIntel(
        status="scored" if enough else "not_enough_data",
        score=score,
        grade=grade_of(score) if score is not None else None,
        factors=tuple(factors),
        summary=summary,
        next_action=action,
        confidence=confidence_of(snapshot, factors) if enough else 0.0,
        missing=() if enough else tuple(label_of(concept) for concept in missing(snapshot)),
    )
    changes = changes_since(previous, grounded, snapshot)
    return grounded.model_copy(update={"changes": changes}) if changes else grounded, dropped


def _refused(text: str, evidence: Evidence, length: int, *, own: str) -> str | None:
    if text == own:
        return None
    if evidence.tainted:
        return "the record holds text that talks to a machine"
    return refusal(text, evidence, length=length)


def _factors(payload: LeadIntel, evidence: Evidence) -> tuple[list[Factor], list[str]]:
    snapshot = evidence.snapshot
    reads = READS.get(snapshot.object, READS["contact"])
    kept: list[Factor] = []
    dropped: list[str] = []
    seen: set[str] = set()
    neutral = 0
    for factor in payload.factors:
        field = factor.evidence.field
        concept = evidence.concept_of.get(field, "")
        value = evidence.cite(field, factor.evidence.value)
        view = expected(snapshot, concept, snapshot.fields.get(field, "")) if concept else None
        if value is None:
            dropped.append("factor: cites a value that the record does not have")
        elif concept not in reads or concept in NEVER_CITED:
            dropped.append("factor: cites a field that no score rests on")
        elif field in seen:
            dropped.append("factor: cites a field twice")
        elif view and view.direction != factor.direction:
            dropped.append("factor: says the opposite of what its value shows")
        elif view is None and neutral >= NEUTRAL_FACTORS:
            dropped.append("factor: too many that experience has no view of")
        else:
            seen.add(field)
            neutral += view is None
            label = factor.label
            ours = view.label if view else label_of(concept)
            if label not in {ours, label_of(concept)} and (
                evidence.tainted
                or refusal(label, evidence, length=LABEL_LENGTH)
                or label.rstrip().endswith((".", "!", "?"))
            ):
                dropped.append("label of a factor")
                label = ours
            weight, since = bounded(factor.weight, view), snapshot.since_when(field)
            if (label, weight, value, since) == (
                factor.label,
                factor.weight,
                factor.evidence.value,
                factor.evidence.since,
            ):
                kept.append(factor)
                continue
            kept.append(
                Factor(
                    label=label,
                    direction=factor.direction,
                    weight=weight,
                    evidence=Cited(field=field, value=value, since=since),
                )
            )
    kept.sort(key=lambda factor: (-factor.weight, factor.evidence.field))
    return kept, dropped


def _action(action: NextAction, view: View, evidence: Evidence) -> tuple[NextAction, list[str]]:
    advice = advice_of(view)
    ours = {advice.text, advice.why}
    reason = None
    if action.text not in ours:
        reason = (
            "it does not begin with a deed"
            if not begins_with_a_deed(action.text)
            else _refused(action.text, evidence, SENTENCE_LENGTH, own=advice.text)
        )
    if reason:
        return NextAction(text=advice.text, why=advice.why, due=action.due), [f"next action: {reason}"]
    if (
        action.why
        and action.why not in ours
        and (reason := _refused(action.why, evidence, SENTENCE_LENGTH, own=advice.why))
    ):
        return NextAction(text=action.text, why="", due=action.due), [f"reason of the next action: {reason}"]
    return action, []
