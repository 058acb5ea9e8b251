"""What a demo comes down to: numbers from the sandbox's journal, held against what the pipeline left behind.

Law: latency, losses and echoes are judged by the journal alone; the pipeline's counters only say how much work was done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from infra.local.sandbox.journal import InsightWrite, Journal, Save
from infra.local.sandbox.reconciliation import Outcome, counts

RecordKey = tuple[str, str, str]
"""Account, object, id."""


@dataclass
class Report:
    """The demo's result; `as_json` is the contract of `hookline demo --json`."""

    deliveries: int = 0
    changes: int = 0
    records: int = 0
    insights: int = 0
    model_calls: int = 0
    cache_hits: int = 0
    crm_writes: int = 0
    postgres_rows: int = 0
    dead_letters: int = 0
    lost: int = 0
    duplicate_effects: int = 0
    echo_rounds: int = 0
    p50_ms: int | None = None
    p95_ms: int | None = None
    by_analysis: dict[str, int] = field(default_factory=dict)
    backwards: int = 0
    saves: int = 0
    unsettled: tuple[Outcome, ...] = ()

    @property
    def accounted_for(self) -> bool:
        """Everything that was sent became an insight or a named dead letter, once."""
        return self.saves > 0 and not (self.lost or self.duplicate_effects or self.echo_rounds or self.backwards)

    def as_json(self) -> dict[str, Any]:
        """For the last line of `--json`."""
        values = asdict(self)
        del values["unsettled"]
        return values


def from_journal(report: Report, journal: Journal, excused: Collection[RecordKey]) -> Report:
    """Fill in what only the journal may say; `excused`: records with a named dead letter."""
    result = journal.reconcile()
    report.saves = result.saves
    report.unsettled = tuple(o for o in result.unsettled if (o.account, o.object, o.id) not in excused)
    report.lost = len(report.unsettled)
    report.duplicate_effects = len(result.duplicate_effects)
    report.backwards = len(result.backwards)
    report.p50_ms, report.p95_ms = result.p50_ms, result.p95_ms
    report.crm_writes = result.insight_writes
    report.deliveries = sum(line["accepted"] for line in journal.deliveries())
    report.echo_rounds = echo_rounds(journal.saves(), journal.insight_writes())
    return report


def echo_rounds(saves: Iterable[Save], writes: Iterable[InsightWrite]) -> int:
    """Insights of ours that nothing but our own write-back can have caused.

    An insight says as of when the record was read. One that moved on although nobody but us had saved the record in
    between was caused by an echo.
    """
    foreign: dict[RecordKey, list[int]] = {}
    for save in saves:
        if save.by != "hookline" and (counts(save) or save.cause in {"delete", "restore", "merge", "erase"}):
            foreign.setdefault((save.account, save.object, save.id), []).append(save.modified_at)
    rounds = 0
    last: dict[RecordKey, int] = {}
    for write in writes:
        key = (write.account, write.object, write.id)
        as_of = _as_of(write)
        if as_of is None:
            continue
        before = last.get(key)
        if before is not None and as_of > before and not any(before < at <= as_of for at in foreign.get(key, ())):
            rounds += 1
        last[key] = max(as_of, before or 0)
    return rounds


def _as_of(write: InsightWrite) -> int | None:
    for name, value in write.values.items():
        if name.lower() in {"hookline_as_of", "hookline_as_of__c"} and value:
            return round(datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp() * 1000)
    return None
