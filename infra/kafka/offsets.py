"""Which offset of a partition may be committed: the lowest one that is not finished.

Law: pure and synchronous. Never past an unfinished offset; gaps (compaction, transactions) are no offsets at all.
"""

from __future__ import annotations

from collections import deque


class Offsets:
    """One partition during one assignment of it."""

    __slots__ = ("_done", "_order", "_position", "committed", "lost")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._done: set[int] = set()
        self._position: int | None = None
        self.committed: int | None = None
        """What was last committed; where this assignment began, until then."""
        self.lost = False
        """Set when the partition was taken away: nothing of it is committed any more."""

    def received(self, offset: int) -> bool:
        """Note that it was read; False for one that had been read before, which must not be handled again."""
        if self._position is not None and offset < self._position:
            return False
        if self._position is None:
            self.committed = offset
        self._order.append(offset)
        self._position = offset + 1
        return True

    def finished(self, offset: int) -> None:
        """Note that everything it caused is acknowledged; in any order."""
        self._done.add(offset)
        while self._order and self._order[0] in self._done:
            self._done.remove(self._order.popleft())

    @property
    def unfinished(self) -> int:
        """Offsets that were read and are not finished."""
        return len(self._order) - len(self._done)

    @property
    def held_back(self) -> int:
        """Finished offsets that wait for an unfinished one before them."""
        return len(self._done)

    @property
    def committable(self) -> int | None:
        """The offset to commit (that of the next message to be handled), or None when there is nothing new to commit."""
        if self.lost:
            return None
        found = self._order[0] if self._order else self._position
        return found if found is not None and self.committed is not None and found > self.committed else None

    @property
    def low(self) -> int | None:
        """The lowest unfinished offset, or the next to be read."""
        return self._order[0] if self._order else self._position
