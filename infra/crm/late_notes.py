"""A record and the notes on it are read one after the other: a note that comes in between is read, and its record is from before it.

Law: pure. Such a record is read once more, so that its last-modified time, which people and we judge its insights by, is not behind
what was read with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

JUST_NOW = timedelta(seconds=60)
"""Longer than a read takes. A CRM that moves no record's time for a note would else be asked twice for ever."""


def outdated(modified_at: datetime, notes: Iterable[datetime], now: datetime) -> bool:
    """Whether the newest note, by when it came or last changed, came just now and after what its record says of itself."""
    newest = max(notes, default=None)
    return newest is not None and newest > modified_at and now - newest < JUST_NOW
