"""What to write on one CRM record: which of its new insights count, and which fields differ from what is there.

Law: pure. A field is sent only if it differs from what was last written; what all analyses share (as-of, version, when,
model) moves only forward, whatever order the analyses come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.insight import Insight, Version
from sinks.destinations.crm_state import BEGINNING, NEVER, RECORD, Row
from sinks.rendering import ANALYSIS_FIELDS, RECORD_FIELDS, render, stamp

Mark = Callable[[str, str], str]
"""(field, value) → HMAC."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one record needs."""

    fresh: tuple[Insight, ...]
    """Those of its insights that are newer than what was written."""
    values: Mapping[str, str]
    """Short field names → texts to write; empty where nothing that the record shows differs."""
    rows: tuple[tuple[str, Row], ...]
    """(analysis, state) to note once it is done."""


def plan(insights: Sequence[Insight], known: Mapping[str, Row], mark: Mark) -> Plan:
    """Decide for one record. `insights`: the newest of each analysis; `known`: what was last written."""
    fresh = tuple(one for one in insights if not one.retracted and one.version > known.get(one.analysis, Row()).version)
    if not fresh:
        return Plan((), {}, ())
    values: dict[str, str] = {}
    rows: list[tuple[str, Row]] = []
    for insight in fresh:
        last = known.get(insight.analysis, Row()).written
        texts = render(insight)
        marks = {name: mark(name, value) for name, value in texts.items()}
        # What was never written is empty on the record: no need to write an empty text over it.
        values |= {
            name: value
            for name, value in texts.items()
            if (marks[name] != last[name] if name in last else marks[name] != mark(name, ""))
        }
        rows.append((insight.analysis, Row(insight.version, insight.as_of, marks)))
    shared = known.get(RECORD, Row())
    version = max(one.version for one in fresh)
    if version < shared.version or (version == shared.version and not values):
        # Older than what the record shows: it may fill in its own fields, and touches none that all share.
        return Plan(fresh, values, tuple(rows))
    as_of = max((shared.as_of, *(one.as_of for one in fresh)))
    texts = {
        "as_of": stamp(as_of),
        "analyzed_at": stamp(max(one.analyzed_at for one in fresh)),
        "version": str(version),
        **_model(fresh, known),
    }
    marks = {**shared.written, **{name: mark(name, value) for name, value in texts.items()}}
    values |= {name: value for name, value in texts.items() if marks[name] != shared.written.get(name)}
    rows.append((RECORD, Row(version, as_of, marks)))
    return Plan(fresh, values, tuple(rows))


def _model(fresh: Sequence[Insight], known: Mapping[str, Row]) -> dict[str, str]:
    """The model of the leading analysis that the record has; nothing where that one is not among the fresh."""
    by_name = {one.analysis: one for one in fresh}
    for name in (*ANALYSIS_FIELDS, *(other for other in by_name if other not in ANALYSIS_FIELDS)):
        if name in by_name:
            return {"model": by_name[name].model}
        if name in known:
            return {}
    return {}


def as_found(known: Mapping[str, Row], held: Mapping[str, str], mark: Mark) -> dict[str, Row]:
    """The state after an unconfirmed write: what the record itself holds counts, not what was noted.

    Versions of the analyses stay as they were noted, so that the insight is taken up again; its fields then differ only
    where the write did not arrive.
    """
    found: dict[str, Row] = {}
    for analysis, names in ANALYSIS_FIELDS.items():
        last = known.get(analysis, Row())
        found[analysis] = Row(last.version, last.as_of, {name: mark(name, held.get(name, "")) for name in names})
    for analysis, row in known.items():
        found.setdefault(analysis, row)
    shared = known.get(RECORD, Row())
    version = max(shared.version, _version(held.get("version", "")))
    as_of = max(shared.as_of, _moment(held.get("as_of", "")))
    found[RECORD] = Row(version, as_of, {name: mark(name, held[name]) for name in RECORD_FIELDS if held.get(name)})
    return found


def _version(text: str) -> Version:
    parts = text.split(".")
    return Version(*map(int, parts)) if len(parts) == 3 and all(part.isdigit() for part in parts) else NEVER


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return BEGINNING
    return found if found.tzinfo else BEGINNING
