"""When laying messages aside has gone too far: a bad deploy must stop instead of draining a topic into dead letters.

Law: pure and synchronous; counts per partition, over a run and over a ratio of recent messages. A message is counted once,
however often it is laid aside before its batch has ended, and never as good when it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from infra.kafka.schedule import Partition


class TooMuchPoison(RuntimeError):  # noqa: N818 -- says what it is
    """The limit is reached; the text says what to do. Nothing after it was committed."""


@dataclass(frozen=True, slots=True)
class PoisonLimits:
    """`run`: messages of a partition laid aside one after the other; `ratio`: of its last ones, once there are `least`."""

    run: int = 20
    ratio: float = 0.5
    least: int = 100


@dataclass(slots=True)
class _Count:
    run: int = 0
    bad: float = 0.0
    all: float = 0.0


_MEMORY = 1_000.0


class Poison:
    """One per pump."""

    def __init__(self, limits: PoisonLimits, group: str) -> None:
        self._limits = limits
        self._group = group
        self._counts: dict[Partition, _Count] = {}
        self._aside: set[tuple[Partition, int]] = set()

    def good(self, partition: Partition, offsets: Iterable[int]) -> None:
        """These were handled, but for those that were laid aside meanwhile."""
        number = sum((partition, offset) not in self._aside for offset in offsets)
        if not number:
            return
        count = self._counts.setdefault(partition, _Count())
        count.run = 0
        count.all += number
        self._forget(count)

    def bad(self, partition: Partition, offset: int, why: str, *, counts: bool = True) -> None:
        """This one was laid aside; raises TooMuchPoison at the limit. Without `counts` it is neither good nor bad."""
        if (partition, offset) in self._aside:
            return
        self._aside.add((partition, offset))
        if not counts:
            return
        count = self._counts.setdefault(partition, _Count())
        count.run += 1
        count.bad += 1
        count.all += 1
        self._forget(count)
        share = count.bad / count.all
        if count.run >= self._limits.run or (count.all >= self._limits.least and share > self._limits.ratio):
            raise TooMuchPoison(
                f"{self._group} stopped: on {partition[0]}/{partition[1]} the last {count.run} messages in a row failed "
                f"({share:.0%} of the last {count.all:.0f}), most recently with {why}. This looks like a bug or a setting, not like bad "
                "messages: mend or roll back this release and start it again (it goes on where it stopped), then redrive the dead "
                "letters that it wrote."
            )

    def ended(self, partition: Partition, offsets: Iterable[int]) -> None:
        """Their batch has ended: what comes again is counted again."""
        self._aside.difference_update((partition, offset) for offset in offsets)

    @staticmethod
    def _forget(count: _Count) -> None:
        if count.all > _MEMORY:
            count.bad *= _MEMORY / count.all
            count.all = _MEMORY
