"""Requirements: what the customer asked for, in notes, e-mails and texts of a deal, lead or contact.

Law: every requirement carries the verbatim words that it rests on and where they stand. What it says here is still
ungrounded: `processors.grounding` decides what reaches a record. A record without texts costs no question.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from llm_gateway.prompt import Prompt
from llm_gateway.render import PromptFile, load
from processors.analyses.analysis import RULES_MODEL, Analysis, Context, Finding
from processors.analyses.feedback import feedback_of
from processors.analyses.language import language_of
from processors.analyses.requirements import rules
from processors.analyses.requirements.answer import RequirementsAnswer
from processors.analyses.requirements.judging import judged
from processors.analyses.requirements.standing import standing, summary_of
from processors.analyses.requirements.texts import texts_of
from schemas.insight import Contradiction, Requirement, Requirements
from schemas.record import RecordSnapshot


@cache
def _prompt() -> PromptFile:
    return load(Path(__file__).with_name("prompt.md"))


class RequirementsAnalysis:
    """The plug-in."""

    name = "requirements"
    objects = frozenset({"deal", "lead", "contact"})
    wants_matches = False

    @property
    def version(self) -> str:
        """The prompt file's; raised when the prompt or the rules change."""
        return _prompt().version

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """The texts, with their sources and days, and a rep's feedback."""
        return {
            "feedback": feedback_of(snapshot),
            "texts": [
                [t.source, t.at.date().isoformat() if not t.source.startswith("field:") else "", t.subject, t.text]
                for t in texts_of(snapshot)
            ],
        }

    def prompt(self, snapshot: RecordSnapshot) -> Prompt[RequirementsAnswer]:
        """The question about one record."""
        feedback = feedback_of(snapshot)
        facts: dict[str, Any] = {
            "object": snapshot.object,
            "texts": [text.as_json() for text in texts_of(snapshot)],
            **({"feedback": feedback} if feedback else {}),
        }
        return _prompt().prompt(
            RequirementsAnswer,
            {"record": facts},
            facts=facts,
            rules=rules.answer,
            judge=lambda answer: judged(answer, facts),
            language=lambda: language_of(text["text"] for text in facts["texts"]),
        )

    async def analyse(self, context: Context) -> Finding:
        """Ask, where there is something to read, and put the answer into an insight's shape."""
        snapshot = context.snapshot
        texts = {text.source: text for text in texts_of(snapshot)}
        if not texts:
            return Finding(payload=Requirements(summary=summary_of((), (), ())), model=RULES_MODEL)
        answer = await context.ask(self.prompt(snapshot))
        value = answer.value
        items = tuple(
            Requirement(
                text=item.text,
                kind=item.kind,
                priority=item.priority,
                quote=item.quote,
                source=item.source,
                said_at=texts[item.source].at if item.source in texts else snapshot.modified_at,
            )
            for item in value.items
        )
        clashes = tuple(Contradiction(**clash.model_dump()) for clash in value.contradictions)
        items = standing(items, clashes, {source: text.at for source, text in texts.items()})
        payload = Requirements(
            items=items,
            contradictions=clashes,
            open_questions=tuple(value.open_questions),
            summary=summary_of(items, clashes, value.open_questions),
        )
        return Finding(payload=payload, model=answer.model, prompt_version=answer.prompt_version, usage=answer.usage)

    def carried(self, by_rules: Finding, context: Context) -> Finding:
        """What was found in texts that still say so, and what rules find in texts that came or changed since."""
        before = context.previous
        now = by_rules.payload
        if before is None or not isinstance(before.payload, Requirements) or not isinstance(now, Requirements):
            return by_rules
        texts = {text.source: text for text in texts_of(context.snapshot)}
        new = {source for source, text in texts.items() if text.at > before.as_of}
        found = [
            *(item for item in before.payload.items if item.source not in new),
            *(item for item in now.items if item.source in new),
        ]
        clashes = [
            *before.payload.contradictions,
            *(clash for clash in now.contradictions if {clash.first_source, clash.second_source} & new),
        ]
        payload = now.model_copy(
            update={
                "items": tuple(found),
                "contradictions": tuple(clashes),
                "open_questions": before.payload.open_questions or now.open_questions,
            }
        )
        return replace(by_rules, payload=payload)


PLUGIN: Analysis = RequirementsAnalysis()
