"""What a demo comes down to: numbers from the sandbox's journal, held against what the pipeline left behind.

Law: latency and losses are judged by the journal alone, echoes by the journal and what lies on `crm.records`; the
pipeline's counters only say how much work was done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from infra.local.sandbox.journal import Journal, Save
from infra.local.sandbox.reconciliation import Outcome
from schemas.record import RecordSnapshot

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


def judge(
    report: Report, journal: Journal, excused: Collection[RecordKey], snapshots: Iterable[RecordSnapshot] = ()
) -> Report:
    """Fill in what only the journal may say.

    Args:
        report: filled in and returned.
        journal: the sandbox's.
        excused: records with a named dead letter.
        snapshots: what was published, per record in order.
    """
    result = journal.reconcile()
    report.saves = result.saves
    report.unsettled = tuple(o for o in result.unsettled if (o.account, o.object, o.id) not in excused)
    report.lost = len(report.unsettled)
    report.duplicate_effects = len(result.duplicate_effects)
    report.backwards = len(result.backwards)
    report.p50_ms, report.p95_ms = result.p50_ms, result.p95_ms
    report.crm_writes = result.insight_writes
    report.deliveries = sum(line["accepted"] for line in journal.deliveries())
    report.echo_rounds = echo_rounds(journal.saves(), snapshots)
    return report


def echo_rounds(saves: Iterable[Save], snapshots: Iterable[RecordSnapshot]) -> int:
    """Rounds that nothing but our own write-back can have caused.

    A round begins with a snapshot, in the order of its topic. One that says about the record, its notes and its
    relations what the one before said is an echo's, unless somebody else saved the record in between (and set a value
    back, say). Compared is what was published, not what the hydrator says of it.
    """
    foreign: dict[RecordKey, list[int]] = {}
    for save in saves:
        if save.by != "hookline":
            foreign.setdefault((save.account, save.object, save.id), []).append(save.modified_at)
    rounds = 0
    last: dict[RecordKey, RecordSnapshot] = {}
    for snapshot in snapshots:
        key = (snapshot.account, snapshot.object, snapshot.id)
        before = last.get(key)
        if before is not None and _content(before) == _content(snapshot):
            since, until = _millis(before.modified_at), _millis(snapshot.modified_at)
            rounds += not any(since < at <= until for at in foreign.get(key, ()))
        last[key] = snapshot
    return rounds


def _content(snapshot: RecordSnapshot) -> tuple[object, ...]:
    return snapshot.fields, snapshot.notes, snapshot.related, snapshot.deleted


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
