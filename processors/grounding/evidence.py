"""What a record bears out: its values, numbers, dates, words and verbatim sentences, as claims are compared with them.

Law: made from the snapshot alone; what talks to a machine, or hides text, is no evidence of anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from processors.analyses.facts import day, label_of, number
from processors.analyses.requirements.texts import Text, texts_of
from processors.analyses.suspicion import addresses_machine, folded, joined_talks, machine_text, presentable
from schemas.record import RecordSnapshot

SEAMS = 8
"""Of so many texts the ends are read together."""
RUN = 6
"""So many words in a row that stand in a note are copied, not said."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_DIGITS = re.compile(r"\d[\d.,'’ \u00a0\u202f]*")


def normal(text: str) -> str:
    """White space, case, quotes and dashes made alike: what two copies of one value may differ in."""
    plain = (
        folded(text)
        .casefold()
        .replace("’", "'")
        .replace("‘", "'")
        .replace("“", '"')
        .replace("”", '"')
        .replace("–", "-")
        .replace("—", "-")
    )
    return " ".join(plain.split())


def same_value(claimed: str, actual: str) -> bool:
    """Whether a claim names the value, whatever its case, white space or number format."""
    if claimed == actual:
        return True
    if normal(claimed) == normal(actual):
        return True
    if day(claimed) is not None and day(claimed) == day(actual):
        return True
    amounts = (_amount(claimed), _amount(actual))
    return amounts[0] is not None and amounts[0] == amounts[1]


def _amount(text: str) -> float | None:
    """A value that is a number and nothing else but a currency."""
    return (
        number(text)
        if re.fullmatch(r"\s*[€$£]?\s*-?\d[\d.,' \u00a0\u202f]*\s*(?:[€$£%]|EUR|USD|GBP|CHF)?\s*", text)
        else None
    )


def words(text: str) -> list[str]:
    """Its words, case folded."""
    return [match.group().casefold().replace("’", "'") for match in _WORD.finditer(folded(text))]


def numbers(text: str) -> set[float]:
    """Every number in a text, as written and digit by digit group."""
    found = {number(match.group()) for match in _DIGITS.finditer(text)}
    return {value for value in found if value is not None}


def runs_of(said: Sequence[str]) -> set[tuple[str, ...]]:
    """Every RUN words in a row."""
    return {tuple(said[i : i + RUN]) for i in range(len(said) - RUN + 1)}


@dataclass
class Evidence:
    """One snapshot, ready to be asked."""

    snapshot: RecordSnapshot

    @cached_property
    def concept_of(self) -> dict[str, str]:
        """Field → concept."""
        return {field: concept for concept, field in self.snapshot.concepts.items()}

    @cached_property
    def values(self) -> dict[str, str]:
        """Field → value, of those that may be cited and shown."""
        return {
            field: " ".join(value.split())
            for field, value in self.snapshot.fields.items()
            if presentable(self.concept_of.get(field, ""), value)
        }

    @cached_property
    def words(self) -> frozenset[str]:
        """Of presentable values, and of the labels that we give to fields."""
        found = {word for value in self.values.values() for word in words(value.replace("_", " "))}
        found |= {word for concept in self.snapshot.concepts for word in words(label_of(concept))}
        return frozenset(found)

    @cached_property
    def numbers(self) -> frozenset[float]:
        """Of presentable values."""
        return frozenset(value for text in self.values.values() for value in numbers(text))

    @cached_property
    def dates(self) -> frozenset[date]:
        """Of presentable values and of the moments at which notes were written or fields changed."""
        found = {day(text) for text in self.values.values()}
        found |= {note.at.date() for note in self.snapshot.notes}
        found |= {when.date() for when in self.snapshot.since.values()}
        found.add(self.snapshot.modified_at.date())
        return frozenset(value for value in found if value is not None)

    @cached_property
    def texts(self) -> dict[str, Text]:
        """Source → text, of those that talk to people."""
        return {
            text.source: text
            for text in texts_of(self.snapshot)
            if not addresses_machine(machine_text(text.subject, text.text))
        }

    @cached_property
    def tainted(self) -> bool:
        """Whether anything on this record talks to a machine: one text or value, or two that only do so together."""
        feedback = list(self.snapshot.feedback.values())
        fields = [*self.snapshot.fields.values(), *feedback]
        notes = sorted(self.snapshot.notes, key=lambda note: (note.at, note.id))
        if any(
            addresses_machine(part) for part in (*fields, *(machine_text(note.subject, note.text) for note in notes))
        ):
            return True
        # An order cut in two, whichever half came first. Values that are a word or a number hold no half of a sentence.
        return joined_talks([*(note.text for note in notes[-SEAMS:]), *feedback]) or joined_talks(
            [value for value in fields if " " in value][:SEAMS]
        )

    @cached_property
    def runs(self) -> dict[tuple[str, ...], frozenset[tuple[str, ...]]]:
        """Of every text on the record, trusted or not: its words → its runs of RUN words, which must not simply be copied."""
        prose = [words(f"{note.subject or ''} {note.text}") for note in self.snapshot.notes]
        prose += [words(value) for value in self.snapshot.feedback.values()]
        prose += [words(value) for field, value in self.snapshot.fields.items() if field not in self.values]
        return {tuple(said): frozenset(runs_of(said)) for said in prose}

    def cite(self, field: str, value: str) -> str | None:
        """The record's own value of a field when the claim names it truly; else None."""
        actual = self.snapshot.fields.get(field)
        if actual is None or field not in self.values or not same_value(value, actual):
            return None
        return self.values[field]

    def quote(self, source: str, quoted: str) -> str | None:
        """The verbatim passage of a source that a quote repeats; None when it is not there or too short to mean anything."""
        text = self.texts.get(source)
        wanted = normal(quoted).strip(" \"'.…")
        if text is None or len(wanted) < 8:
            return None
        return verbatim(wanted, text.text)


MAX_QUOTE = 400


def verbatim(wanted: str, text: str) -> str | None:
    """The passage of `text` that reads `wanted` (already normal), cut to whole words around it as it stands."""
    pattern = r"\s+".join(_spelled(word) for word in wanted.split())
    match = re.search(rf"(?<!\w){pattern}(?!\w)[.!]?", folded(text), re.IGNORECASE)
    return match.group().strip() if match and len(match.group()) <= MAX_QUOTE else None


def _spelled(word: str) -> str:
    return "".join({"'": "['’‘]", '"': '["“”]', "-": "[-–—]"}.get(c, re.escape(c)) for c in word)
