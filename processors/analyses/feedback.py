"""What a rep said of an earlier insight, as an analysis reads it and shows it to a model.

Law: pure. It is data like a note: it may change what is judged, is never an instruction, and nothing can be cited from it
(grounding knows the record's fields and texts alone; a correction that talks to a machine taints the record as a note would).
"""

from __future__ import annotations

from collections.abc import Mapping

from processors.analyses.facts import plain
from schemas.record import RecordSnapshot

LENGTH = 700
"""Characters of a correction that are read."""
_THUMBS = {"up": "up", "down": "down", "👍": "up", "👎": "down"}


def feedback_of(snapshot: RecordSnapshot) -> dict[str, str]:
    """`thumbs` (up or down) and `correction`, as far as they are there; empty where nobody said anything."""
    given = snapshot.feedback
    if not given:
        return {}
    found = {
        "thumbs": _THUMBS.get(given.get("feedback", "").strip().casefold(), ""),
        "correction": given.get("feedback_note", "").strip()[:LENGTH],
    }
    return {name: text for name, text in found.items() if text}


def doubts(feedback: Mapping[str, str], value: str) -> bool:
    """Whether a rep whose thumb is down names this very value in the correction: what plain rules can make of it."""
    if feedback.get("thumbs") != "down":
        return False
    wanted, said = plain(value), plain(feedback.get("correction", ""))
    return len(wanted) > 2 and wanted in said
