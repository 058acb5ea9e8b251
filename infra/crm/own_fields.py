"""The fields that we add to a CRM's records: said once, the same in every CRM, under one prefix.

Law: names are forever (neither CRM lets one be renamed); a new field is added at the end, none changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "long_text", "number", "date"]

SHORT_TEXT = 255
LONG_TEXT = 32_000
"""Salesforce holds at most 32,768 characters in a long text area, HubSpot 65,536 in a text: the smaller one, and room."""


@dataclass(frozen=True, slots=True)
class OwnField:
    """One field."""

    name: str
    label: str
    kind: Kind
    description: str
    written_by: Literal["hookline", "rep"] = "hookline"
    """What a rep writes is read and never written by us."""

    @property
    def limit(self) -> int:
        """The most characters that fit, in every CRM."""
        return {"text": SHORT_TEXT, "long_text": LONG_TEXT, "number": 18, "date": 10}[self.kind]


_RECORD: tuple[OwnField, ...] = (
    OwnField("score", "Hookline score", "number", "0 to 100: how promising this record is."),
    OwnField("grade", "Hookline grade", "text", "A to E, from the score."),
    OwnField("summary", "Hookline summary", "long_text", "What matters about this record, in two or three sentences."),
    OwnField(
        "why", "Hookline: why this score", "long_text", "Each reason with its points and the field that it rests on."
    ),
    OwnField("what_changed", "Hookline: what changed", "long_text", "What is new since the analysis before."),
    OwnField("next_step", "Hookline next step", "long_text", "What to do next, and why."),
    OwnField("next_step_due", "Hookline next step due", "date", "Until when to do it."),
    OwnField("requirements", "Hookline requirements", "long_text", "What the customer asked for, in their own words."),
    OwnField("open_questions", "Hookline open questions", "long_text", "What to ask the customer."),
    OwnField(
        "data_quality", "Hookline data quality", "long_text", "Missing, malformed, contradictory and stale fields."
    ),
    OwnField("data_health", "Hookline data health", "number", "0 to 100; 100: nothing found."),
    OwnField(
        "duplicates",
        "Hookline likely duplicates",
        "long_text",
        "Records that are likely the same, and what speaks for it.",
    ),
    OwnField("as_of", "Hookline as of", "text", "The record's last-modified time that the newest analysis saw (UTC)."),
    OwnField("analyzed_at", "Hookline analysed at", "text", "When the newest analysis was made (UTC)."),
    OwnField("model", "Hookline model", "text", "What answered: a model's name, or rules."),
    OwnField("version", "Hookline version", "text", "Version of the newest analysis; a higher one is newer."),
    OwnField("feedback", "Hookline feedback", "text", "The rep's thumbs: up or down.", written_by="rep"),
    OwnField(
        "feedback_note",
        "Hookline feedback note",
        "long_text",
        "What the rep would correct, in own words.",
        written_by="rep",
    ),
)

OWN_FIELDS: dict[str, OwnField] = {found.name: found for found in _RECORD}
REP_FIELDS: frozenset[str] = frozenset(name for name, found in OWN_FIELDS.items() if found.written_by == "rep")
"""Ours, and yet people's words: a change of one is news, and a snapshot carries them."""
MAX_REP_CHARACTERS = 2_000
"""Of one such field, as much as is read."""
GROUP_LABEL = "Hookline"


def is_echo(name: str, own_prefixes: tuple[str, ...]) -> bool:
    """Whether a change of a vendor's field tells of our own write: it is ours, and not one that people write."""
    return name.startswith(own_prefixes) and not any(is_reps(name, each) for each in own_prefixes)


def is_reps(name: str, own_prefix: str) -> bool:
    """Whether a vendor's field (`hookline_feedback`, `Hookline_Feedback__c`) is one of ours that people write."""
    lower, prefix = name.lower(), own_prefix.lower()
    return lower.startswith(prefix) and lower.removeprefix(prefix).removesuffix("__c") in REP_FIELDS
