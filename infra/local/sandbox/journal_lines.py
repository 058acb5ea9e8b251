"""What a line of the journal says of a save, and of a write of insights.

Law: fields are only added; times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Save:
    """One save of one record: by a person, another integration, or this product outside its own properties."""

    sequence: int
    account: str
    object: str
    id: str
    at: int
    """Epoch milliseconds, when it was saved."""
    modified_at: int
    """Epoch milliseconds, the record's own last-modified time after it; at least 1 more than after the save before."""
    by: str
    """`person`, `hookline`, or another integration's name."""
    cause: str
    """`edit`, `create`, `note`, `email`, `merge`, `delete`, `restore`, `erase`."""
    properties: dict[str, Any] = field(default_factory=dict)
    """What changed, with the new values; empty for a save that changed nothing."""


@dataclass(frozen=True, slots=True)
class InsightWrite:
    """One write through an API that touched properties of this product on one record."""

    sequence: int
    account: str
    object: str
    id: str
    at: int
    """Epoch milliseconds, when it was readable on the record."""
    values: dict[str, Any]
    changed: tuple[str, ...]
    """Which of the values differed from what was there."""
    by: str = "hookline"
