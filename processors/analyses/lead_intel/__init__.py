"""Lead intelligence: how promising a contact, lead or deal is, why, what changed and what to do next.

Law: the model proposes reasons; the score, the grade, the dates and the confidence are computed from those that the
record bears out (`scoring`). A record that no answer could give a score to costs no question. What it says here is still ungrounded: `processors.grounding` decides what reaches a record.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from llm_gateway.prompt import Prompt
from llm_gateway.render import PromptFile, load
from processors.analyses.analysis import Analysis, Context, Finding, by_rules
from processors.analyses.facts import canonical, filled, label_of
from processors.analyses.feedback import feedback_of
from processors.analyses.language import language_of
from processors.analyses.lead_intel import rules
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.lead_intel.carrying import carried
from processors.analyses.lead_intel.changes import changes_since
from processors.analyses.lead_intel.judging import judged
from processors.analyses.lead_intel.scoring import (
    MAX_WEIGHT,
    MIN_FACTORS,
    NEVER_CITED,
    READS,
    confidence_of,
    grade_of,
    missing,
    score_of,
)
from processors.analyses.lead_intel.view import RECENT_TEXTS, TEXT_LENGTH, business_day, newest_first, questions
from schemas.insight import Evidence, Factor, LeadIntel, NextAction
from schemas.record import RecordSnapshot


@cache
def _prompt() -> PromptFile:
    return load(Path(__file__).with_name("prompt.md"))


class LeadIntelAnalysis:
    """The plug-in."""

    name = "lead_intel"
    objects = frozenset({"contact", "lead", "deal"})
    wants_matches = False

    @property
    def version(self) -> str:
        """The prompt file's; raised when the prompt or the rules change."""
        return _prompt().version

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """The structured fields of `READS`, the newest notes as far as they are shown to the model, a rep's feedback."""
        return {
            "fields": canonical(snapshot, READS.get(snapshot.object, READS["contact"])),
            "notes": [
                [n.kind, n.id, n.at.date().isoformat(), n.subject or "", n.text[:TEXT_LENGTH]]
                for n in newest_first(snapshot.notes)[:RECENT_TEXTS]
            ],
            "feedback": feedback_of(snapshot),
        }

    def pieces(self, snapshot: RecordSnapshot) -> dict[str, Any]:  # noqa: ARG002 -- the protocol's signature
        """None: all of it bears on the answer."""
        return {}

    def prompt(self, snapshot: RecordSnapshot) -> Prompt[LeadIntelAnswer]:
        """The question about one record."""
        facts = questions(snapshot)
        return _prompt().prompt(
            LeadIntelAnswer,
            {"record": facts},
            facts=facts,
            rules=rules.answer,
            judge=lambda answer: judged(answer, facts),
            language=lambda: language_of(text["text"] for text in facts["conversation"]["recent"]),
        )

    async def analyse(self, context: Context) -> Finding:
        """Ask, and put the answer into an insight's shape."""
        snapshot = context.snapshot
        prompt = self.prompt(snapshot)
        answer = by_rules(prompt) if too_little(snapshot) else await context.ask(prompt)
        value = answer.value
        factors = tuple(
            Factor(
                label=f.label,
                direction=f.direction,
                weight=max(1, min(MAX_WEIGHT, f.weight)),
                evidence=Evidence(field=f.field, value=f.value, since=snapshot.since_when(f.field)),
            )
            for f in value.factors
        )
        enough = len(factors) >= MIN_FACTORS
        score = score_of(factors)
        action = NextAction(
            text=value.next_action,
            why=value.next_action_why,
            due=business_day(context.today, value.due_in_business_days),
        )
        payload = LeadIntel(
            status="scored" if enough else "not_enough_data",
            score=score if enough else None,
            grade=grade_of(score) if enough else None,
            factors=factors,
            summary=value.summary,
            next_action=action,
            confidence=confidence_of(snapshot, factors) if enough else 0.0,
            missing=() if enough else tuple(label_of(concept) for concept in missing(snapshot)),
        )
        if changes := changes_since(context.previous, payload, snapshot):
            payload = payload.model_copy(update={"changes": changes})
        return Finding(
            payload=payload,
            model=answer.model,
            prompt_version=answer.prompt_version,
            usage=answer.usage,
            confidence=payload.confidence,
        )

    def carried(self, by_rules: Finding, context: Context) -> Finding:
        """The last insight's reasons as far as their values stand, and the rules' reasons for what has changed."""
        before = context.previous.payload if context.previous else None
        now = by_rules.payload
        if not isinstance(before, LeadIntel) or not isinstance(now, LeadIntel):
            return by_rules
        return replace(by_rules, payload=carried(before, now, context.snapshot))


def too_little(snapshot: RecordSnapshot) -> bool:
    """Whether nothing that a model could say would make a score: fewer facts to cite than a score needs, and no text to read."""
    if snapshot.notes or feedback_of(snapshot):
        return False
    there = filled(snapshot, READS.get(snapshot.object, READS["contact"]))
    return "description" not in there and len(there.keys() - NEVER_CITED) < MIN_FACTORS


PLUGIN: Analysis = LeadIntelAnalysis()
