"""When laying messages aside has gone too far: a bad deploy must stop instead of draining a topic into dead letters.

Law: pure and synchronous; counts per partition, over a run and over a ratio of recent messages. A message is counted once,
however often it is laid aside before its batch has ended, and never as good when it was.

When the limit is reached, every partition that is failing is under suspicion until a message of it is good. Whoever begins
with one that is (the same release, started again by its supervisor) is let lay one aside and stops at the next: were it none,
a single bad message would keep a mended release from ever passing it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
        self._suspects: set[Partition] = set()

    @property
    def suspects(self) -> Collection[Partition]:
        """Partitions that failed when the limit was reached, here or before, and had nothing good since."""
        return frozenset(self._suspects)

    def begin(self, partitions: Iterable[Partition], suspects: Collection[Partition]) -> None:
        """These partitions are ours from now on; `suspects` were so when their last reader stopped."""
        for partition in partitions:
            self._suspects.discard(partition)
            if partition in suspects:
                self._suspects.add(partition)
                least = float(self._limits.least)
                self._counts[partition] = _Count(
                    max(0, self._limits.run - 2), max(0.0, self._limits.ratio * least - 1), least
                )

    def good(self, partition: Partition, offsets: Iterable[int]) -> None:
        """These were handled, but for those that were laid aside meanwhile."""
        number = sum((partition, offset) not in self._aside for offset in offsets)
        if not number:
            return
        count = self._counts.setdefault(partition, _Count())
        self._suspects.discard(partition)
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
            again = partition in self._suspects
            # The others that fail at the moment would otherwise begin anew at each restart.
            self._suspects.update(each for each, found in self._counts.items() if found.run)
            what = (
                "it had stopped before, and since it was started again messages failed again"
                if again
                else f"the last {count.run} messages in a row failed ({share:.0%} of the last {count.all:.0f})"
            )
            raise TooMuchPoison(
                f"{self._group} stopped: on {partition[0]}/{partition[1]} {what}, "
                f"most recently with {why}. This looks like a bug or a setting, not like bad "
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
