"""What a CRM says was changed since a moment: rows without values, page by page, and where the next page begins.

Law: pure data. A cursor is text that means something to the adapter that made it alone, holds no value of a customer's, and is
good for as long as one likes: it names a place in the order (time, then id), never a page number, because records that are
changed while somebody pages move to the end and would push others over a page's edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Changed:
    """One record that was changed."""

    id: str
    modified_at: datetime
    """By the CRM's clock. Salesforce: SystemModstamp, which automatic processes move, too."""
    edited_by: str | None = None
    """Who made the last edit, as far as the CRM says; as `Read.edited_by`."""
    merged_ids: tuple[str, ...] = ()
    """Records that ever went into this one, as far as the CRM says."""
    deleted: bool = False
    merged_into: str | None = None
    """Of a deleted one, as far as the CRM says."""


@dataclass(frozen=True, slots=True)
class ChangedPage:
    """Some of what was changed, oldest first; a record that is changed while one pages may come twice, and none is left out."""

    records: tuple[Changed, ...]
    next: str | None
    """Where the next page begins; None: this was the last."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order (time, then id)."""

    at: datetime
    id: str | None = None
    """None: before every record of this moment; else behind this one, of which the moment's others may still come."""

    def __str__(self) -> str:
        """As a cursor."""
        return f"{to_millis(self.at)}{'' if self.id is None else f'/{self.id}'}"

    @classmethod
    def parse(cls, cursor: str) -> Place:
        """What `str` made; raises ValueError for anything else."""
        millis, behind, last = cursor.partition("/")
        if not millis.isascii() or not millis.isdigit() or not (last.isascii() and (last.isalnum() or not last)):
            raise ValueError(f"{cursor[:40]!r} is no cursor of changed records")
        return cls(EPOCH + timedelta(milliseconds=int(millis)), last if behind else None)


def to_millis(at: datetime) -> int:
    """Whole milliseconds since 1970, rounded down: what both CRMs order by."""
    return (at - EPOCH) // timedelta(milliseconds=1)
