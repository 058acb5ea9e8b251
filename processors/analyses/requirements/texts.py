"""The texts of a record that customers' wishes stand in, each with the source that a quote of it cites.

Law: texts stay verbatim; a source names exactly one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from processors.analyses.facts import facts_of
from schemas.record import RecordSnapshot

TEXT_FIELDS = ("description", "message", "next_step")
"""Concepts whose values are sentences."""
MAX_TEXTS = 40
MAX_LENGTH = 6_000


@dataclass(frozen=True, slots=True)
class Text:
    """One text."""

    source: str
    """`note:ID`, `email:ID`, `task:ID` or `field:NAME`."""
    at: datetime
    text: str
    subject: str = ""

    def as_json(self) -> dict[str, str]:
        """As a model is shown it."""
        return {
            "source": self.source,
            "at": self.at.astimezone(UTC).isoformat(timespec="seconds"),
            "subject": self.subject,
            "text": self.text,
        }


def texts_of(snapshot: RecordSnapshot) -> list[Text]:
    """Oldest first; the newest MAX_TEXTS of them, each cut at MAX_LENGTH characters."""
    found = [
        Text(f"field:{fact.field}", fact.since, fact.value[:MAX_LENGTH])
        for fact in facts_of(snapshot, TEXT_FIELDS).values()
    ]
    found += [
        Text(f"{note.kind}:{note.id}", note.at, note.text[:MAX_LENGTH], note.subject or "")
        for note in snapshot.notes
        if note.text.strip()
    ]
    found.sort(key=lambda text: (text.at, text.source))
    return found[-MAX_TEXTS:]


_BREAK = re.compile(r"(?<=[.!?;])\s+(?=[^\sa-z])|\n+|(?<=[.!?])\s*$")
_LEAD = re.compile(r"^\s*(?:[-*•–>]+|\(?\d{1,2}[.)])\s*")
_REPLY = re.compile(
    r"^\s*(?:>|on .{5,80} wrote:|am .{5,80} schrieb|-{2,}\s*(?:original|forwarded|ursprüng)|von: |from: )",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|z\.B|d\.h|bzw|ca|Mr|Mrs|Ms|Dr|Nr|No|vs|Inc|Ltd|approx|[0-9])\.$", re.IGNORECASE
)


def sentences(text: str) -> Iterator[str]:
    """Verbatim pieces of a text, one statement each; what is quoted from an earlier mail is left out."""
    for line in text.split("\n"):
        if _REPLY.match(line):
            if re.match(r"^\s*(?:-{2,}|on .{5,80} wrote|am .{5,80} schrieb)", line, re.IGNORECASE):
                return
            continue
        held = ""
        for piece in _BREAK.split(line):
            if not piece or not piece.strip():
                continue
            held = f"{held} {piece}" if held else piece
            if _ABBREVIATION.search(held):
                continue
            yield from _whole(held, line)
            held = ""
        if held:
            yield from _whole(held, line)


def _whole(piece: str, line: str) -> Iterator[str]:
    # A piece that was put together again across white space must still be verbatim.
    found = piece.strip() if piece.strip() in line else piece.strip().split(". ", maxsplit=1)[0]
    found = _LEAD.sub("", found).strip()
    if 8 <= len(found) <= 400:
        yield found
