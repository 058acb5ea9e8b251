"""What one batch of the hydrator is about to cause, and the small questions that it asks on the way.

Law: pure, but for the counters; publishes, keeps and reads nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from opentelemetry.trace import Span

from infra import metrics
from infra.set_aside import Aside
from processors import snapshots
from processors.ports import Letter
from processors.state import Standing
from processors.triggers import Trigger
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.record import RecordRef, RecordSnapshot

STAGE = "hydrator"
ACTIVITIES = frozenset({"note", "email"})
"""Objects that are read with the record they hang on."""
OVERTAKEN = "OVERTAKEN"
"""Another member has published a later read meanwhile: the record is read once more."""
LAG_ENDS_AFTER = timedelta(seconds=60)
"""From then on an answer that contradicts an event is the truth: restored, moved back, or never there."""


@dataclass(slots=True)
class Publication:
    """A snapshot to be published, and what is kept of it then."""

    snapshot: RecordSnapshot
    standing: Standing
    trigger: Trigger
    span: Span


@dataclass(slots=True)
class Batch:
    """What one batch is about to cause."""

    clock: datetime
    standings: Mapping[RecordRef, Standing]
    bulk: bool = False
    """Whether these changes came on the bulk lane."""
    publications: list[Publication] = field(default_factory=list)
    asides: list[Aside] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    looked: dict[RecordRef, tuple[datetime, datetime]] = field(default_factory=dict)
    """Records that a reconciliation asked for and that are as they were: when they were last read, and when now."""
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(account, object) → records that changed without anybody telling us."""
    began_ns: int = field(default_factory=time.time_ns)

    def dead(self, trigger: Trigger, cause: Cause, detail: str) -> None:
        """Its newest message is to be laid aside for good."""
        self.letters.append(Letter(trigger.newest.raw, cause, detail, trigger.ref.tenant, trigger.ref))

    def note_missed(self, trigger: Trigger) -> None:
        """It is news, and nobody but a reconciliation told of it."""
        if all(each.payload.reason == "reconcile" for each in trigger.received):
            self.missed[trigger.ref.account, trigger.ref.object] += 1

    def aside(self, trigger: Trigger, cause: str, retry_after: float | None = None) -> None:
        """Its record is to be read again later: after `retry_after` seconds, where known."""
        self.asides.append(Aside(trigger.ref, STAGE, cause, retry_after))
        metrics.SET_ASIDE.labels(STAGE, cause).inc()


def fenced(snapshot: RecordSnapshot) -> Change:
    """The trigger for a record whose last snapshot is not its freshest."""
    return Change(
        tenant=snapshot.tenant,
        account=snapshot.account,
        object=snapshot.object,
        id=snapshot.id,
        kind="updated",
        occurred_at=snapshot.modified_at,
        reason="fenced",
    )


def by_account_and_object(triggers: Iterable[Trigger]) -> list[list[Trigger]]:
    """In groups that one call of the CRM's can answer."""
    groups: dict[tuple[str, str], list[Trigger]] = {}
    for trigger in triggers:
        groups.setdefault((trigger.ref.account, trigger.ref.object), []).append(trigger)
    return list(groups.values())


def parents_of(group: list[Trigger], answer: Mapping[str, list[tuple[str, str]]]) -> list[tuple[Change, str]]:
    """One change per parent, however many of its notes changed."""
    found: dict[RecordRef, tuple[Change, str]] = {}
    for trigger in group:
        for parent, parent_id in answer.get(trigger.ref.id, []):
            ref = RecordRef(trigger.ref.tenant, trigger.ref.account, parent, parent_id)
            before = found.get(ref)
            if parent in ACTIVITIES or parent == "other" or (before and before[0].occurred_at >= trigger.occurred_at):
                continue
            change = Change.model_validate(
                {
                    **ref._asdict(),
                    "kind": "associated",
                    "occurred_at": trigger.occurred_at,
                    "properties": (snapshots.NOTES,),
                    "edited_by": trigger.edited_by,
                    "reason": trigger.reason,
                    "delivery": trigger.newest.payload.delivery,
                }
            )
            found[ref] = change, next((each for each in reversed(trigger.traceparents) if each), "")
    return list(found.values())


def is_late(trigger: Trigger, standing: Standing) -> bool:
    """News from before a deletion that is known already. (HubSpot answers for a merged record with the one it went into.)"""
    late = trigger.occurred_at <= standing.modified_at
    return late and trigger.reason == "webhook" and trigger.created_at is None


def fresh(at: datetime | None, clock: datetime) -> bool:
    """Whether the CRM may not have caught up yet with what it told at that moment."""
    return at is not None and clock - at < LAG_ENDS_AFTER


def to_millis(at: datetime) -> datetime:
    """As it is written to Kafka: the state and the message must say the same."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
