"""Which requirements still stand, and the one-line summary: counted from what is there, never written by a model.

Law: pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from schemas.insight import Contradiction, Requirement


def standing(
    items: Sequence[Requirement], clashes: Sequence[Contradiction], said_at: Mapping[str, datetime]
) -> tuple[Requirement, ...]:
    """A requirement that a later statement contradicts is superseded; said at the same moment, both stay open. `said_at`: by source."""
    gone = set()
    for clash in clashes:
        first, second = said_at.get(clash.first_source), said_at.get(clash.second_source)
        if first and second and first != second:
            gone.add(
                (clash.first_source, clash.first_quote) if first < second else (clash.second_source, clash.second_quote)
            )
    return tuple(
        item.model_copy(update={"status": "superseded" if (item.source, item.quote) in gone else "open"})
        for item in items
    )


def _many(count: int, one: str) -> str:
    return f"{count} {one}{'' if count == 1 else 's'}"


def summary_of(items: Sequence[Requirement], clashes: Collection[Contradiction], questions: Collection[str]) -> str:
    """`3 requirements (2 must), 1 contradiction, 2 open questions`."""
    if not items:
        return "No requirements found in notes, e-mails or texts."
    standing_items = [item for item in items if item.status == "open"]
    must = sum(item.priority == "must" for item in standing_items)
    parts = [_many(len(standing_items), "requirement") + (f" ({must} must)" if must else "")]
    if len(standing_items) < len(items):
        parts.append(f"{len(items) - len(standing_items)} superseded")
    if clashes:
        parts.append(_many(len(clashes), "contradiction"))
    if questions:
        parts.append(_many(len(questions), "open question"))
    return ", ".join(parts) + "."
