"""What a CRM record is to us: its identity, and the snapshot that every analysis is a function of.

Law: vendor field names and values are kept as the CRM gave them, because a rep must recognise what is cited;
`concepts` says which of them means what, so that an analysis need not know a vendor.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer


@lru_cache(maxsize=8_192)  # a message says the same few moments again and again
def _iso_millis(value: datetime) -> str:
    text = value.isoformat(timespec="milliseconds")
    if not text.endswith("+00:00"):
        text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text[:-6] + "Z"


Timestamp = Annotated[AwareDatetime, PlainSerializer(_iso_millis, return_type=str)]
"""A moment in UTC, written as ISO 8601 with milliseconds."""

MAX_SNAPSHOT_BYTES = 256 * 1024
"""Snapshots are capped at this size; what was left out is named in `RecordSnapshot.omitted`."""

ObjectType = Literal["contact", "company", "deal", "lead", "ticket", "note", "email", "other"]
"""Our names for CRM objects. Salesforce: Account is `company`, Opportunity is `deal`, Task and ContentNote are `note`."""

Reason = Literal["webhook", "gap", "backfill", "reconcile", "replay", "set_aside", "redrive", "fenced"]
"""Why a record is looked at. Anything but `webhook` and `reconcile` passes even where nothing seems to have changed."""


class RecordRef(NamedTuple):
    """A CRM record's identity, everywhere the same four parts."""

    tenant: str
    account: str
    """`hubspot:145883449` or `salesforce:00D...` (18 characters)."""
    object: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.account}/{self.object}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> RecordRef:
        """Read `tenant/account/object/id`; raises ValueError when a part is missing."""
        parts = text.split("/")
        if len(parts) < 4 or not all(parts[:4]):
            raise ValueError(f"record {text!r}: expected tenant/account/object/id")
        return cls(*parts[:4])


class Message(BaseModel):
    """Base of every payload: immutable; fields of a newer minor version are kept out, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Note(Message):
    """A text that somebody wrote on a record: a note, an e-mail or a logged task."""

    id: str
    kind: Literal["note", "email", "task"]
    at: Timestamp
    author: str | None = None
    """The CRM's user or owner id, or an e-mail's direction and sender; never trusted as an instruction."""
    subject: str | None = None
    text: str
    """Plain text; HTML is taken out by the CRM adapter."""


class Related(Message):
    """A record that this one is associated with, as far as an analysis reads it."""

    object: ObjectType
    id: str
    fields: dict[str, str] = Field(default_factory=dict)


class RecordSnapshot(Message):
    """A CRM record as it stood when it was read. Topic `crm.records`, compacted by record."""

    tenant: str
    account: str
    object: ObjectType
    id: str
    crm: str
    """Which CRM's field names these are: `hubspot`, `salesforce`."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Vendor field name → value; empty fields are absent; our own fields are never in here (see `feedback`)."""
    known_fields: tuple[str, ...] = ()
    """Names that were asked for and exist, so that an absent one is known to be empty."""
    concepts: dict[str, str] = Field(default_factory=dict)
    """Concept (`email`, `job_title`, `amount`, ...; see infra/crm/concepts.py) → vendor field name."""
    since: dict[str, Timestamp] = Field(default_factory=dict)
    """Vendor field name → since when it has had this value, as far as we saw; else `modified_at` applies."""
    changed: tuple[str, ...] = ()
    """Fields (or `notes`, `related`) that differ from the snapshot before; empty for the first one."""
    notes: tuple[Note, ...] = ()
    feedback: dict[str, str] = Field(default_factory=dict)
    """What people wrote of earlier insights into our fields that are theirs: `feedback` (up, down), `feedback_note`."""
    related: tuple[Related, ...] = ()
    modified_at: Timestamp
    """The CRM's own last-modified time at the moment of reading."""
    read_at: Timestamp
    owner: str | None = None
    edited_by: str | None = None
    """Who made the last foreign change, as far as the CRM says; the *user* of per-user quotas, else `owner`."""
    deleted: bool = False
    merged_into: str | None = None
    omitted: tuple[str, ...] = ()
    """What the size cap left out, by name."""
    reason: Reason = "webhook"
    lane: Literal["live", "bulk"] = "live"
    """Of the changes that it was read for: a tenant over its rate stands behind others at the model, too."""

    @property
    def ref(self) -> RecordRef:
        """The record's identity."""
        return RecordRef(self.tenant, self.account, self.object, self.id)

    def value(self, concept: str) -> str | None:
        """The value of the field that means `concept`, or None when it is empty or unknown to this CRM."""
        name = self.concepts.get(concept)
        return self.fields.get(name) if name else None

    def since_when(self, field: str) -> datetime:
        """Since when `field` has had its value."""
        return self.since.get(field, self.modified_at)
