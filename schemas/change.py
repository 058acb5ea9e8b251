"""A trigger: this record may have changed. It names what changed and carries no values.

Law: a change is never the truth about a record; the hydrator reads that from the CRM.
"""

from __future__ import annotations

from typing import Literal

from schemas.record import Message, ObjectType, Reason, RecordRef, Timestamp

ChangeKind = Literal["created", "updated", "deleted", "merged", "associated", "restored", "erased"]


class Change(Message):
    """Topics `crm.changes` (live) and `crm.changes.bulk` (imports, backfills, replays, redelivery)."""

    tenant: str
    account: str
    object: ObjectType
    id: str
    kind: ChangeKind
    occurred_at: Timestamp
    """When it happened in the CRM, by the CRM's clock; arrival order is not event order."""
    properties: tuple[str, ...] = ()
    """Vendor names of the fields that changed, where the CRM says so."""
    merged_ids: tuple[str, ...] = ()
    """For `merged`: the records that went into this one."""
    edited_by: str | None = None
    """The CRM's id of who did it (`userId:10000001`, `005...`), where the CRM says so."""
    reason: Reason = "webhook"
    delivery: str | None = None
    """The request id of the delivery that brought it."""

    @property
    def ref(self) -> RecordRef:
        """The record's identity."""
        return RecordRef(self.tenant, self.account, self.object, self.id)
