"""Saves held against the insights written: what was lost, late, written twice or written backwards.

Law: it decides from the journal alone. A record that a person or another integration changed must end with an insight
whose `hookline_as_of` is at least the record's last-modified time after the last such save.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from infra.local.sandbox.journal_lines import InsightWrite, Save

OURS = "hookline_"
VOLATILE = frozenset(
    {
        "lastmodifieddate",
        "hs_lastmodifieddate",
        "last_synced_at",
        "last_synced_at__c",
        "external_sync_hash",
        "external_sync_hash__c",
        "marketing_touch_count",
        "marketing_touch_count__c",
        "hs_analytics_last_timestamp",
        "notes_last_updated",
        "notes_last_contacted",
        "num_notes",
        "num_associated_contacts",
        "num_associated_deals",
        "lastmodifiedbyid",
        "systemmodstamp",
        "lastactivitydate",
        "lastvieweddate",
        "lastreferenceddate",
    }
)
"""Properties, in lower case, whose change alone asks for no new insight."""
SETTLED_OBJECTS = frozenset({"contact", "company", "deal", "lead"})
"""Objects that carry insights; notes and e-mails count as saves of their deal."""
_NOTED = frozenset({"note", "email"})
_GONE = frozenset({"delete", "erase", "merged_away"})
_VERSION = re.compile(r"\d+(?:\.\d+)+")

RecordKey = tuple[str, str, str]
"""Account, object, id."""
Status = Literal["settled", "unsettled", "gone"]


class Outcome(NamedTuple):
    """How one changed record ended."""

    account: str
    object: str
    id: str
    status: Status
    """`gone`: deleted, erased or merged away since, so that nothing can be owed to it."""
    saves: int
    """How many saves of it count."""
    wanted: int
    """Epoch milliseconds: the last-modified time after the last save that counts."""
    as_of: int
    """Epoch milliseconds: `hookline_as_of` as it stands at the end; 0 when there is none."""


class Backwards(NamedTuple):
    """A value that must never go down, and did."""

    key: RecordKey
    property: str
    before: str
    after: str


@dataclass(slots=True)
class Reconciliation:
    """What came of every save."""

    outcomes: dict[RecordKey, Outcome] = field(default_factory=dict)
    latencies_ms: list[int] = field(default_factory=list)
    """Per save: from the save until an insight as new as it was on the record; sorted."""
    duplicate_effects: list[InsightWrite] = field(default_factory=list)
    """Writes which changed nothing: the same insight written twice."""
    backwards: list[Backwards] = field(default_factory=list)
    saves: int = 0
    """Saves that count."""
    insight_writes: int = 0

    @property
    def unsettled(self) -> list[Outcome]:
        """Records whose last change no insight covers; the caller subtracts those with a named dead letter."""
        return [outcome for outcome in self.outcomes.values() if outcome.status == "unsettled"]

    def percentile(self, share: float) -> int | None:
        """The latency in ms that `share` (0 to 1) of the saves stay within (nearest rank); None without any."""
        if not self.latencies_ms:
            return None
        rank = min(max(1, math.ceil(share * len(self.latencies_ms))), len(self.latencies_ms))
        return self.latencies_ms[rank - 1]

    @property
    def p50_ms(self) -> int | None:
        """Median latency in ms."""
        return self.percentile(0.5)

    @property
    def p95_ms(self) -> int | None:
        """95th percentile of the latency in ms."""
        return self.percentile(0.95)

    def summary(self) -> dict[str, Any]:
        """Counts and percentiles, fit for JSON."""
        statuses = [outcome.status for outcome in self.outcomes.values()]
        return {
            "saves": self.saves,
            "records": len(statuses),
            "settled": statuses.count("settled"),
            "unsettled": statuses.count("unsettled"),
            "gone": statuses.count("gone"),
            "insight_writes": self.insight_writes,
            "duplicate_effects": len(self.duplicate_effects),
            "backwards": len(self.backwards),
            "measured": len(self.latencies_ms),
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
        }


def is_ours(name: str) -> bool:
    """Whether a property is this product's, in either vendor's spelling."""
    return name[:9].lower() == OURS


def counts(save: Save) -> bool:
    """Whether a save asks for a new insight: foreign, and it changed more than our own or volatile properties."""
    if save.by == "hookline" or save.object not in SETTLED_OBJECTS or save.cause in _GONE:
        return False
    if save.cause in _NOTED:
        return True
    return any(not is_ours(name) and name.lower() not in VOLATILE for name in save.properties)


def _millis(value: Any) -> int:
    """Epoch milliseconds of an ISO time in either vendor's spelling, or of a number; 0 for what is neither."""
    text = str(value or "")
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return round(moment.timestamp() * 1000) if moment.tzinfo else 0


class _Record:
    """One record while its story is read."""

    __slots__ = ("as_of", "floor", "gone", "open", "saves", "wanted")

    def __init__(self) -> None:
        self.open: list[Save] = []
        self.saves = 0
        self.wanted = 0
        self.as_of = 0
        self.gone = False
        self.floor: dict[str, tuple[tuple[int, ...], str]] = {}


def _order(name: str, value: Any) -> tuple[int, ...] | None:
    """What a value that may never go down is compared by, or None for any other property."""
    low = name.lower().removesuffix("__c")
    if low == f"{OURS}as_of":
        return (_millis(value),)
    if low.endswith("version") and value is not None and _VERSION.fullmatch(str(value)):
        return tuple(int(part) for part in str(value).split("."))
    return None


def reconcile(saves: Iterable[Save], writes: Iterable[InsightWrite]) -> Reconciliation:
    """Hold `saves` against `writes`, both in the journal's order."""
    result = Reconciliation()
    records: dict[RecordKey, _Record] = {}
    story: list[Save | InsightWrite] = sorted([*saves, *writes], key=lambda line: line.sequence)
    for line in story:
        key = (line.account, line.object, line.id)
        record = records.setdefault(key, _Record())
        if isinstance(line, Save):
            _read_save(line, record, result)
        else:
            _read_write(line, key, record, result)
    for key, record in records.items():
        if record.saves:
            status: Status = "gone" if record.gone else "settled" if record.as_of >= record.wanted else "unsettled"
            result.outcomes[key] = Outcome(*key, status, record.saves, record.wanted, record.as_of)
    result.latencies_ms.sort()
    return result


def _read_save(save: Save, record: _Record, result: Reconciliation) -> None:
    if save.cause in _GONE:
        record.gone = True
    elif save.cause == "restore":
        record.gone = False
    if counts(save):
        result.saves += 1
        record.saves += 1
        record.wanted = max(record.wanted, save.modified_at)
        record.open.append(save)


def _read_write(write: InsightWrite, key: RecordKey, record: _Record, result: Reconciliation) -> None:
    result.insight_writes += 1
    if not write.changed:
        result.duplicate_effects.append(write)
    for name, value in write.values.items():
        order = _order(name, value)
        if order is None:
            continue
        before = record.floor.get(name)
        if before is not None and order < before[0]:
            result.backwards.append(Backwards(key, name, before[1], str(value)))
        record.floor[name] = (order, str(value))
        if len(order) == 1 and name.lower().startswith(f"{OURS}as_of"):
            record.as_of = order[0]
    still_open = []
    for save in record.open:
        if record.as_of >= save.modified_at:
            result.latencies_ms.append(write.at - save.at)
        else:
            still_open.append(save)
    record.open = still_open
