"""Requirements: what the customer asked for, in notes, e-mails and texts of a deal, lead or contact.

Law: every requirement carries the verbatim words that it rests on and where they stand. What it says here is still
ungrounded: `processors.grounding` decides what reaches a record. A record without texts costs no question, and a text that was
read once is not read again while it stays as it is (`earlier`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from processors.analyses.requirements.earlier import Earlier, earlier_of
from processors.analyses.requirements.judging import judged
from processors.analyses.requirements.standing import standing, summary_of
from processors.analyses.requirements.texts import Text, texts_of
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
        """A rep's feedback."""
        return {"feedback": feedback_of(snapshot)}

    def pieces(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """The texts by source, with their days."""
        return {
            text.source: [
                text.at.date().isoformat() if not text.source.startswith("field:") else "",
                text.subject,
                text.text,
            ]
            for text in texts_of(snapshot)
        }

    def prompt(self, snapshot: RecordSnapshot, earlier: Earlier | None = None) -> Prompt[RequirementsAnswer]:
        """The question about one record: about all of its texts, or about those that `earlier` does not know."""
        feedback = feedback_of(snapshot)
        texts = texts_of(snapshot)
        facts: dict[str, Any] = {
            "object": snapshot.object,
            **({"earlier": earlier.as_json()} if earlier else {}),
            "texts": [text.as_json() for text in (earlier.unread(texts) if earlier else texts)],
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
        """Ask, where there is something new to read, and put the answer into an insight's shape."""
        snapshot = context.snapshot
        texts = {text.source: text for text in texts_of(snapshot)}
        if not texts:
            return Finding(payload=Requirements(summary=summary_of((), (), ())), model=RULES_MODEL)
        earlier = earlier_of(context, texts)
        if earlier and context.previous and not earlier.unread(texts.values()):
            # Something was taken away, and nothing came.
            before = context.previous
            # What is still to be asked, grounding says of what is left.
            payload = _payload(texts, earlier.items, earlier.contradictions, ())
            return Finding(payload=payload, model=before.model, prompt_version=before.prompt_version)
        answer = await context.ask(self.prompt(snapshot, earlier))
        value = answer.value
        items = [
            Requirement(
                text=item.text,
                kind=item.kind,
                priority=item.priority,
                quote=item.quote,
                source=item.source,
                said_at=texts[item.source].at if item.source in texts else snapshot.modified_at,
            )
            for item in value.items
        ]
        clashes = [Contradiction(**clash.model_dump()) for clash in value.contradictions]
        if earlier:
            # What it says of texts that it was not shown is no news, and may be wrong.
            new = (
                item for item in items if item.source not in earlier.known and not earlier.lists(item.quote, clashes)
            )
            items = [*earlier.items, *new]
            clashes = [*earlier.contradictions, *(each for each in clashes if each not in earlier.contradictions)]
        payload = _payload(texts, items, clashes, value.open_questions)
        return Finding(payload=payload, model=answer.model, prompt_version=answer.prompt_version, usage=answer.usage)

    def carried(self, by_rules: Finding, context: Context) -> Finding:
        """What was found in texts that still say so, and what rules find in texts that came or changed since."""
        before = context.previous
        now = by_rules.payload
        if before is None or not isinstance(before.payload, Requirements) or not isinstance(now, Requirements):
            return by_rules
        asked = before.payload.open_questions or now.open_questions
        texts = {text.source: text for text in texts_of(context.snapshot)}
        if earlier_of(context, texts):
            # What was found in them is in there already.
            return replace(by_rules, payload=now.model_copy(update={"open_questions": asked}))
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
            update={"items": tuple(found), "contradictions": tuple(clashes), "open_questions": asked}
        )
        return replace(by_rules, payload=payload)


def _payload(
    texts: Mapping[str, Text],
    items: Iterable[Requirement],
    clashes: Iterable[Contradiction],
    open_questions: Iterable[str],
) -> Requirements:
    """In the order of the texts; what stands is worked out, and the summary counted."""
    place = {source: number for number, source in enumerate(texts)}
    in_order = sorted(items, key=lambda item: place.get(item.source, len(place)))
    all_clashes, questions = tuple(clashes), tuple(open_questions)
    found = standing(in_order, all_clashes, {source: text.at for source, text in texts.items()})
    return Requirements(
        items=found,
        contradictions=all_clashes,
        open_questions=questions,
        summary=summary_of(found, all_clashes, questions),
    )


PLUGIN: Analysis = RequirementsAnalysis()
