"""Changes of one batch folded per record: what is known of why each record is to be looked at.

Law: pure. Folding loses no news: the latest time counts, properties add up, and any reason stronger than a webhook stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from infra.kafka.codec import Received
from processors.snapshots import NOTES, is_foreign
from schemas.change import Change
from schemas.record import Reason, RecordRef

_STRENGTH: dict[Reason, int] = {
    "webhook": 0,
    "gap": 1,
    "reconcile": 2,
    "backfill": 3,
    "redrive": 4,
    "set_aside": 5,
    "replay": 6,
    "fenced": 7,
}


def stronger(one: Reason, other: Reason) -> Reason:
    """Which of two reasons a fold keeps: the one that lets more through."""
    return one if _STRENGTH[one] >= _STRENGTH[other] else other


@dataclass(slots=True)
class Trigger:
    """All changes of one record in a batch, as one."""

    ref: RecordRef
    occurred_at: datetime
    """The latest."""
    reason: Reason = "webhook"
    edited_by: str | None = None
    """Of the latest change that names somebody."""
    erased: bool = False
    deleted_at: datetime | None = None
    """The latest deletion."""
    created_at: datetime | None = None
    """The latest creation or restoration."""
    named: dict[str, datetime] = field(default_factory=dict)
    """Property → when it last changed, where the CRM says so."""
    authors: dict[str | None, datetime] = field(default_factory=dict)
    """Who touched it without the CRM saying what changed → when last."""
    reshaped_at: datetime | None = None
    """The latest merge, creation or restoration."""
    received: list[Received[Change]] = field(default_factory=list)
    _edited_at: datetime | None = None

    @property
    def newest(self) -> Received[Change]:
        """The message that a dead letter is made of."""
        return self.received[-1]

    @property
    def traceparents(self) -> list[str]:
        """Oldest first."""
        return [each.envelope.traceparent for each in self.received]

    @property
    def revived(self) -> bool:
        """Whether something that only a living record can have came after the deletion, or at the same moment a restoration."""
        if self.deleted_at is None:
            return False
        return self.occurred_at > self.deleted_at or (
            self.created_at is not None and self.created_at >= self.deleted_at
        )

    def add(self, received: Received[Change]) -> None:
        """Fold one more in."""
        change = received.payload
        at = change.occurred_at
        self.received.append(received)
        self.occurred_at = max(self.occurred_at, at)
        self.reason = stronger(change.reason, self.reason)
        if change.edited_by and (self._edited_at is None or at >= self._edited_at):
            self.edited_by, self._edited_at = change.edited_by, at
        if change.kind == "erased":
            self.erased = True
        elif change.kind == "deleted":
            self.deleted_at = _later(self.deleted_at, at)
        elif change.kind != "updated":
            if change.kind != "associated":
                self.reshaped_at = _later(self.reshaped_at, at)
            if change.kind in {"created", "restored"}:
                self.created_at = _later(self.created_at, at)
        elif not change.properties:
            self.authors[change.edited_by] = max(at, self.authors.get(change.edited_by, at))
        for name in change.properties:
            self.named[name] = max(at, self.named.get(name, at))

    def news_at(self, own_prefix: str, ours: str | None) -> datetime | None:
        """When somebody other than us last changed something that counts; None when nothing says so.

        `ours` is the user that our own writes appear under. An edit whose author is unknown proves nothing. A note or an
        association is news by what it brings: where it changed nothing that is read, it is none.
        """
        found = self.reshaped_at
        for name, at in self.named.items():
            if name != NOTES and is_foreign(name, own_prefix):
                found = _later(found, at)
        for author, at in self.authors.items():
            if author is not None and ours is not None and author != ours:
                found = _later(found, at)
        return found

    def named_at(self, own_prefix: str) -> datetime | None:
        """When a field of the record itself last changed, as the CRM says."""
        times = [at for name, at in self.named.items() if name != NOTES and is_foreign(name, own_prefix)]
        return max(times, default=None)


def fold(received: Iterable[Received[Change]]) -> dict[RecordRef, Trigger]:
    """One trigger per record, in the order of their first change."""
    triggers: dict[RecordRef, Trigger] = {}
    for each in received:
        ref = each.payload.ref
        trigger = triggers.get(ref)
        if trigger is None:
            trigger = triggers[ref] = Trigger(ref, each.payload.occurred_at)
        trigger.add(each)
    return triggers


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None or other > one else one
