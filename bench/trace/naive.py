"""The bill of whoever asks about every delivery: each analysis's whole question about the record as it stood then, on one model;
and the least that is to pay for answers as full, within the same time, where each analysis asks by itself.

Law: pure; counts tokens as the Groq stand-in does (four characters each). A naive data quality has no prompt of ours: it is taken
to be as long as the mean of the others. Each record's first state is empty.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from bench.trace.days import APPLIES, TEXTS, UNREAD, Delivery, saved
from infra.crm.concepts import MAPS
from llm_gateway.pricing import most_usd
from llm_gateway.prompt import Prompt
from processors.analyses.lead_intel import PLUGIN as LEAD_INTEL
from processors.analyses.lead_intel import too_little
from processors.analyses.requirements import PLUGIN as REQUIREMENTS
from processors.analyses.requirements.texts import texts_of
from schemas.record import Note, RecordRef, RecordSnapshot

_MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
_ASKED: dict[str, tuple[Any, ...]] = {"contact": (LEAD_INTEL,), "deal": (LEAD_INTEL, REQUIREMENTS), "company": ()}


@dataclass(slots=True)
class Naive:
    """What it comes to."""

    calls: int = 0
    dollars: float = 0.0
    by_analysis: dict[str, dict[str, float]] = field(default_factory=dict)
    """Calls, tokens in and out, dollars."""


@dataclass(slots=True)
class _Record:
    fields: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def bill(piece: Iterable[Delivery], model: str) -> Naive:
    """The bill for a piece of a day, at Groq's list price for `model`."""
    records: defaultdict[tuple[str, str, str], _Record] = defaultdict(_Record)
    sums = {each.name: [0, 0, 0] for each in (LEAD_INTEL, REQUIREMENTS)}
    calls = 0
    for delivery in piece:
        calls += APPLIES[delivery.object]
        snapshot = _after(delivery, records[delivery.record])
        for analysis in _ASKED[delivery.object]:
            question = _question(analysis, snapshot)
            length = (1, (len(question.system) + len(question.user)) // 4 + 1, _answered(question))
            sums[analysis.name] = [before + more for before, more in zip(sums[analysis.name], length, strict=True)]
    found = Naive(calls)
    for name, (asked, tokens_in, tokens_out) in sums.items():
        dollars = most_usd("groq", model, tokens_in, tokens_out)
        found.by_analysis[name] = {"calls": asked, "input_tokens": tokens_in, "output_tokens": tokens_out, "dollars": dollars}  # fmt: skip
    asked = sum(each[0] for each in sums.values())
    found.dollars = sum(each["dollars"] for each in found.by_analysis.values()) * calls / max(1, asked)
    return found


def least(piece: Iterable[Delivery], model: str, seconds: float) -> float:
    """Dollars of the fewest questions that speak of every change within `seconds`, about the analyses of the naive count: at the
    price of `model`, which is never wrong, with instructions that cost nothing; each text read once.

    A question waits as long as it may, and then speaks for all that has come. Where an analysis reads nothing of a change, and
    where there is too little for a score, nobody is asked.
    """
    records: defaultdict[tuple[str, str, str], _Record] = defaultdict(_Record)
    due: dict[tuple[str, str, str], float] = {}
    now: dict[tuple[str, str, str], RecordSnapshot] = {}
    fewest = _Fewest()
    for delivery in piece:
        for record in [each for each, until in due.items() if until < delivery.t]:
            del due[record]
            fewest.ask(now[record])
        now[delivery.record] = _after(delivery, records[delivery.record])
        if any(name not in UNREAD for name, _ in delivery.events):
            due.setdefault(delivery.record, delivery.t + seconds)
    for record in due:
        fewest.ask(now[record])
    return most_usd("groq", model, fewest.tokens_in, fewest.tokens_out)


@dataclass(slots=True)
class _Fewest:
    tokens_in: int = 0
    tokens_out: int = 0
    last: dict[tuple[RecordRef, str], RecordSnapshot] = field(default_factory=dict)

    def ask(self, snapshot: RecordSnapshot) -> None:
        for analysis in _ASKED[snapshot.object]:
            before = self.last.get((snapshot.ref, analysis.name))
            self.last[snapshot.ref, analysis.name] = snapshot
            if analysis is REQUIREMENTS:
                question = _about_what_is_new(snapshot, analysis.pieces(before) if before else {})
            elif too_little(snapshot) or (before and analysis.inputs(before) == analysis.inputs(snapshot)):
                continue
            else:
                question = _question(analysis, snapshot)
            if question is not None:
                self.tokens_in += len(question.user) // 4
                self.tokens_out += _answered(question)


def _question(analysis: Any, snapshot: RecordSnapshot) -> Prompt[Any]:
    prompt: Prompt[Any] = analysis.prompt(snapshot)
    return prompt


def _about_what_is_new(snapshot: RecordSnapshot, read: Mapping[str, Any]) -> Prompt[Any] | None:
    """Requirements of the texts that differ from those of `read`, without a word of the others; None where none does."""
    pieces = REQUIREMENTS.pieces(snapshot)
    new = [text for text in texts_of(snapshot) if pieces[text.source] != read.get(text.source)]
    question = _question(REQUIREMENTS, snapshot)
    facts = {**question.facts, "texts": [text.as_json() for text in new]}
    return replace(question, facts=facts, user=orjson.dumps(facts).decode()) if new else None


def _answered(question: Prompt[Any]) -> int:
    """Tokens of what the rules answer."""
    assert question.rules is not None
    return len(json.dumps(question.rules(question.facts).model_dump(mode="json"))) // 4 + 1


def _after(delivery: Delivery, record: _Record) -> RecordSnapshot:
    at = _MIDNIGHT + timedelta(seconds=delivery.t)
    for name, value in delivery.events:
        if name in TEXTS:
            kind: Any = "note" if name == "note" else "email"
            record.notes.append(Note(id=str(len(record.notes)), kind=kind, at=at, text=saved(name, value)[1]))
        elif name not in UNREAD:
            field_name, now = saved(name, value)
            record.fields[field_name] = now
    return RecordSnapshot(
        tenant="naive",
        account=delivery.account,
        object=delivery.object,
        id=delivery.id,
        crm="hubspot",
        fields=dict(record.fields),
        concepts=MAPS["hubspot"][delivery.object],
        notes=tuple(record.notes),
        modified_at=at,
        read_at=at,
    )
