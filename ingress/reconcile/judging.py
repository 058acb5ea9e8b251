"""Whether what a CRM lists as changed is known here already.

Law: pure. Known is a record that was read after it was changed, in that state or a later one, or that waits to be read again.
In doubt it is not known: to look at a record once too often costs a part of one batched call, and the hydrator compares contents,
so that a write of our own is never taken for an edit that was missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.crm.changed import Changed
from schemas.record import RecordRef

CLOCKS_APART = timedelta(seconds=30)
"""The CRM's clock against our database's: a reading only shortly after a change need not have seen it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What we know of one record."""

    modified_at: datetime
    """By the CRM's clock, of the state that was last published; of a deleted one: when it was deleted."""
    read_at: datetime
    """By the database's clock, from before the last reading began."""
    deleted: bool


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the records of one page."""

    standings: Mapping[RecordRef, Known]
    waiting: frozenset[RecordRef] = frozenset()
    """Set aside: they are read again in any case."""


def is_known(row: Changed, ref: RecordRef, knowledge: Knowledge) -> bool:
    """Whether the row tells nothing that calls for another look."""
    if ref in knowledge.waiting:
        return True
    known = knowledge.standings.get(ref)
    if row.deleted:
        return known is None or known.deleted
    if known is None:
        return False
    if known.deleted:
        # A search index may show a deleted record for a while; a restored one has a later time.
        return row.modified_at <= known.modified_at
    return was_seen(row.modified_at, known)


def was_seen(at: datetime, known: Known) -> bool:
    """Whether what happened at `at` lies before the last reading."""
    return known.modified_at >= at or known.read_at > at + CLOCKS_APART
