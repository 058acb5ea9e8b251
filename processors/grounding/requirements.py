"""Grounding of requirements: each by its verbatim quote; its wording by the quote; what stands, counted again.

Law: a quote is the source's own words or it is nothing; a text that talks to a machine is no source.
"""

from __future__ import annotations

from collections.abc import Sequence

from processors.analyses.requirements.rules import answer as by_rules
from processors.analyses.requirements.standing import standing, summary_of
from processors.analyses.requirements.texts import sentences
from processors.analyses.suspicion import addresses_machine
from processors.grounding.evidence import Evidence, normal, words
from processors.grounding.prose import refusal
from schemas.insight import Contradiction, Requirement, Requirements

TEXT_LENGTH = 200
QUESTION_LENGTH = 160
MOST_QUESTIONS = 5
TOPICS = frozenset({"Functional", "Integration", "Security", "Budget", "Timeline", "Commercial", "Support", "Other"})


def ground_requirements(payload: Requirements, evidence: Evidence) -> tuple[Requirements, list[str]]:
    """The payload as far as the record's texts bear it out, and what was dropped (never its text)."""
    dropped: list[str] = []
    items: list[Requirement] = []
    for item in payload.items:
        grounded = _item(item, evidence, dropped)
        if grounded and not any(
            (grounded.source, grounded.quote, grounded.kind) == (i.source, i.quote, i.kind) for i in items
        ):
            items.append(grounded)
    clashes = tuple(clash for clash in (_clash(clash, evidence, dropped) for clash in payload.contradictions) if clash)
    asked = _questions(payload.open_questions, evidence, items, dropped)
    kept = standing(items, clashes, {source: text.at for source, text in evidence.texts.items()})
    return Requirements(
        items=kept, contradictions=clashes, open_questions=asked, summary=summary_of(kept, clashes, asked)
    ), dropped


def _item(item: Requirement, evidence: Evidence, dropped: list[str]) -> Requirement | None:
    quote = evidence.quote(item.source, item.quote)
    if quote is None:
        dropped.append("requirement: its quote does not stand in its source")
        return None
    if addresses_machine(quote):
        dropped.append("requirement: its quote talks to a machine")
        return None
    text = item.text
    if (
        not _follows(text, quote)
        or (evidence.tainted and normal(text) not in normal(quote))
        or refusal(text, evidence, sources=(quote,), length=TEXT_LENGTH)
    ):
        text = quote if len(quote) <= TEXT_LENGTH else quote[: TEXT_LENGTH - 2].rsplit(" ", 1)[0] + " …"
        if text != item.text:
            dropped.append("wording of a requirement")
    return item.model_copy(update={"text": text, "quote": quote, "said_at": evidence.texts[item.source].at})


_FILLER_TEXT = """
    the a an and or of to in on at by for with is are be as it that this must should could can will shall need
    needs require requires required want wants support supports customer they their we our its from have has not
    no than up per via all any
"""
_FILLER = frozenset(_FILLER_TEXT.split())


def _follows(text: str, quote: str) -> bool:
    """Whether a wording says no more than its quote: three of four words that mean something are the quote's."""
    said = [word for word in words(text) if word not in _FILLER]
    quoted = words(quote)
    if not said:
        return False
    return sum(any(word[:5] == other[:5] for other in quoted) for word in said) >= 0.75 * len(said)


def _clash(clash: Contradiction, evidence: Evidence, dropped: list[str]) -> Contradiction | None:
    first, second = (
        evidence.quote(clash.first_source, clash.first_quote),
        evidence.quote(clash.second_source, clash.second_quote),
    )
    if first is None or second is None or (clash.first_source, first) == (clash.second_source, second):
        dropped.append("contradiction: a quote does not stand in its source")
        return None
    about = clash.about
    if about not in TOPICS and (evidence.tainted or refusal(about, evidence, sources=(first, second), length=40)):
        dropped.append("topic of a contradiction")
        about = "Two statements disagree"
    return clash.model_copy(update={"about": about, "first_quote": first, "second_quote": second})


def _questions(
    proposed: Sequence[str], evidence: Evidence, items: list[Requirement], dropped: list[str]
) -> tuple[str, ...]:
    ours: Sequence[str] | None = None

    def by_us() -> Sequence[str]:
        return by_rules({"texts": [text.as_json() for text in evidence.texts.values()]}).open_questions

    own = {normal(sentence) for text in evidence.texts.values() for sentence in sentences(text.text)}
    kept: list[str] = []
    for question in proposed[: 2 * MOST_QUESTIONS]:
        reason = _question(question, evidence, items, own)
        if reason:
            # Our own questions are what the rules ask about these texts: only a refused one is worth asking them again.
            ours = by_us() if ours is None else ours
            if question not in ours:
                dropped.append(f"open question: {reason}")
                continue
        kept.append(question)
    if items and not kept:
        kept = list(by_us() if ours is None else ours)
    return tuple(dict.fromkeys(kept))[:MOST_QUESTIONS]


def _question(question: str, evidence: Evidence, items: list[Requirement], own: set[str]) -> str | None:
    if evidence.tainted:
        return "the record holds text that talks to a machine"
    if not question.rstrip().endswith("?"):
        return "not a question"
    if normal(question) in own:
        return "copied from a note"
    return refusal(question, evidence, sources=[item.quote for item in items], length=QUESTION_LENGTH)
