"""What is handled next: queues per key, in order within a key, in parallel across keys, in turn across tenants.

Law: pure, synchronous, deterministic: time comes in as an argument, so that a test can drive any schedule. A key that is
in work is not ready; concurrent batches have disjoint keys. A key is the message's key alone, without topic or
partition: the same record may come by two topics of one pump (`crm.changes` and `crm.changes.bulk`), and two handlers at
once on one record would race for its state. Messages without a key are independent of one another.

A key may rest: after every handling (the cooldown), or because its handler asked to see its messages again later, together
with what has come by then. Those stay unfinished meanwhile, so that nothing of them is committed and a crash brings them again.

Whose turn it is: tenants take turns of a quarter of a batch, and no tenant is in all workers at once, so that whoever has
little to do finds a worker free and waits for nobody's backlog. What lies in Kafka beyond what is held is in its order.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from infra.kafka.offsets import Offsets
from infra.kafka.raw import Raw, size_of, weight_of

MAX_RESTING_KEYS = 200_000
"""Keys whose last handling is remembered; beyond it the oldest may go before their rest is over."""

MOST_HELD_BACK = 400
"""Finished messages that may wait for resting ones before them to be committed: so many are handled again after a crash, and
so far behind a reader seems to be (`downstream`). Beyond it rests end early."""

TURNS_IN_A_BATCH = 4
"""A tenant's turn is this part of a batch: small enough for others to get in, large enough for a CRM's batch read."""

Partition = tuple[str, int]
Key = bytes | tuple[str, int, int]
Owner = bytes


@dataclass(slots=True)
class Held:
    """A message in memory."""

    raw: Raw
    key: Key
    size: int
    weight: int
    """Bytes that it is when it is opened, about."""
    offsets: Offsets
    """Of the assignment by which it came: fenced when that is over."""
    owner: Owner


@dataclass(slots=True, eq=False)
class Batch:
    """What one call of the handler gets."""

    messages: list[Held]
    keys: dict[Key, Owner] = field(default_factory=dict)
    bytes: int = 0

    @property
    def owners(self) -> set[Owner]:
        """Whose messages it holds."""
        return set(self.keys.values())

    @property
    def partitions(self) -> set[Partition]:
        """Where its messages come from."""
        return {(held.raw.topic, held.raw.partition) for held in self.messages}


class Schedule:
    """Holds messages from their arrival until they are finished or dropped."""

    def __init__(
        self,
        *,
        max_messages: int,
        max_bytes: int,
        cooldown: float = 0.0,
        key_of: Callable[[Raw], bytes | None] | None = None,
        most_batches_an_owner: int | None = None,
    ) -> None:
        """`cooldown`: seconds that a key rests after it was handled; what arrives meanwhile goes together.

        `most_batches_an_owner`: how many batches in work may hold one tenant's messages; None: all of them.
        """
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._cooldown = cooldown
        self._key_of = key_of or (lambda raw: raw.key)
        self._most_batches = most_batches_an_owner
        self._waiting: dict[Key, deque[Held]] = {}
        # By owner, whose turn is next first; an owner without a ready key is not in it.
        self._ready: OrderedDict[Owner, OrderedDict[Key, None]] = OrderedDict()
        self._in_batches: Counter[Owner] = Counter()
        # Keys that rest, and when their rest is over; in the heap those of before may stand as well.
        self._resting: dict[Key, float] = {}
        self._ends: list[tuple[float, int, Key]] = []
        self._numbers = itertools.count()
        self._deferred: set[Key] = set()
        self._working: set[Key] = set()
        self._batches: set[Batch] = set()
        self.offsets: dict[Partition, Offsets] = {}
        self.messages = 0
        self.bytes = 0
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """Messages that no batch has."""
        return self.messages - self.in_flight

    @property
    def full(self) -> bool:
        """Nothing more should be fetched."""
        return self.messages >= self._max_messages or self.bytes >= self._max_bytes

    @property
    def roomy(self) -> bool:
        """Fetching may go on: below 90 % of both bounds, so that it does not flutter."""
        return self.messages < 0.9 * self._max_messages and self.bytes < 0.9 * self._max_bytes

    def arrive(self, raw: Raw, now: float) -> None:
        """Take a message in; one that had been taken in before during this assignment is ignored."""
        partition = (raw.topic, raw.partition)
        offsets = self.offsets.get(partition)
        if offsets is None:
            offsets = self.offsets[partition] = Offsets()
        if not offsets.received(raw.offset):
            return
        key: Key | None = self._key_of(raw)
        if key is None:
            key = (raw.topic, raw.partition, raw.offset)
        held = Held(raw, key, size_of(raw), weight_of(raw), offsets, owner_of(raw))
        self.messages += 1
        self.bytes += held.size
        queue = self._waiting.get(key)
        if queue is not None:
            queue.append(held)
            return
        self._waiting[key] = deque((held,))
        if key not in self._working and self._resting.get(key, now) <= now:
            self._make_ready(key, held.owner)

    def take(self, now: float, max_messages: int, max_bytes: int | None = None) -> Batch | None:
        """The next batch: whatever waits for ready keys, whole keys as far as they fit; None when no key is ready.

        Tenants take turns within it. `max_bytes`, as they are when opened, is passed by one key at most.
        """
        self._wake(now)
        batch = Batch([])
        turn = max(1, max_messages // TURNS_IN_A_BATCH)
        most = self._most_batches
        waits = {owner for owner, batches in self._in_batches.items() if most is not None and batches >= most}
        full = False
        while not full and (owner := next((each for each in self._ready if each not in waits), None)) is not None:
            begin = len(batch.messages)
            while owner in self._ready and len(batch.messages) < begin + turn and not full:
                full = not self._add(batch, owner, max_messages) or bool(max_bytes and batch.bytes >= max_bytes)
            if owner in self._ready and len(batch.messages) > begin:
                self._ready.move_to_end(owner)
        if not batch.messages:
            return None
        self._batches.add(batch)
        self._in_batches.update(batch.owners)
        self.in_flight += len(batch.messages)
        return batch

    def _add(self, batch: Batch, owner: Owner, max_messages: int) -> bool:
        """Move what waits for the owner's first key into the batch; False when it does not fit any more."""
        key = next(iter(self._ready[owner]))
        queue = self._waiting[key]
        room = max_messages - len(batch.messages)
        if room <= 0 or (batch.messages and len(queue) > room):
            return False
        self._not_ready(key, owner)
        self._resting.pop(key, None)
        self._deferred.discard(key)
        self._working.add(key)
        batch.keys[key] = owner
        first = len(batch.messages)
        if len(queue) <= room:
            batch.messages.extend(queue)
            del self._waiting[key]
        else:
            batch.messages.extend(queue.popleft() for _ in range(room))
        batch.bytes += sum(held.weight for held in batch.messages[first:])
        return True

    def _make_ready(self, key: Key, owner: Owner) -> None:
        self._ready.setdefault(owner, OrderedDict())[key] = None

    def _not_ready(self, key: Key, owner: Owner) -> None:
        keys = self._ready.get(owner)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._ready[owner]

    def finish(self, batch: Batch, now: float, again: Mapping[Key, float] | None = None) -> None:
        """Every effect of the batch is acknowledged: its offsets may be committed, unless their partition was lost.

        `again`: key → seconds after which its messages are to be handled once more, with what has come by then.
        """
        later = again or {}
        for held in batch.messages:
            if held.key not in later:
                held.offsets.finished(held.raw.offset)
        self._release(batch, now, rest=True, again=later)

    def abandon(self, batch: Batch, now: float) -> None:
        """The batch ends unfinished, at a stop: nothing of it may be committed."""
        self._release(batch, now, rest=False, again={})

    def revoke(self, partitions: Collection[Partition]) -> int:
        """Drop what waits of these partitions: their next owner gets it. Returns how many messages. Batches in work go on."""
        gone = set(partitions)
        dropped = 0
        for key, queue in list(self._waiting.items()):
            kept = deque(held for held in queue if (held.raw.topic, held.raw.partition) not in gone)
            if len(kept) == len(queue):
                continue
            dropped += len(queue) - len(kept)
            self.bytes -= sum(held.size for held in queue) - sum(held.size for held in kept)
            if kept:
                self._waiting[key] = kept
            else:
                del self._waiting[key]
                self._deferred.discard(key)
                self._not_ready(key, queue[0].owner)
        self.messages -= dropped
        return dropped

    def fence(self, partitions: Collection[Partition]) -> None:
        """Forget these partitions' offsets: what is still in work of them will not be committed."""
        # What a batch gave back to be handled again, after `revoke` and before now.
        self.revoke(partitions)
        for partition in partitions:
            offsets = self.offsets.pop(partition, None)
            if offsets is not None:
                offsets.lost = True

    def busy_with(self, partitions: Collection[Partition]) -> set[Batch]:
        """Batches in work that hold messages of these partitions."""
        asked = set(partitions)
        return {batch for batch in self._batches if asked & batch.partitions}

    def has_in_work(self, partition: Partition, offset: int) -> bool:
        """Whether a batch in work holds this message."""
        return any(
            (held.raw.topic, held.raw.partition, held.raw.offset) == (*partition, offset)
            for batch in self._batches
            for held in batch.messages
        )

    def has_unfinished(self, partitions: Collection[Partition]) -> bool:
        """Whether anything of these was read and is not finished."""
        return any(offsets.unfinished for each in partitions if (offsets := self.offsets.get(each)) is not None)

    def next_wake(self) -> float | None:
        """When to ask again, at the latest: the end of the first rest; None when nothing waits for one."""
        self._tidy()
        return self._ends[0][0] if self._waiting and self._ends else None

    def committable(self) -> dict[Partition, int]:
        """What may be committed now and has not been."""
        return {
            partition: found
            for partition, offsets in self.offsets.items()
            if (found := offsets.committable) is not None
        }

    def committed(self, offsets: dict[Partition, int]) -> None:
        """Note what was committed."""
        for partition, offset in offsets.items():
            known = self.offsets.get(partition)
            if known is not None:
                known.committed = offset

    def _tidy(self) -> None:
        """Ends of rests that are over, or were replaced, leave the top of the heap."""
        while self._ends and self._resting.get(self._ends[0][2]) != self._ends[0][0]:
            heapq.heappop(self._ends)

    def _lay_down(self, key: Key, until: float) -> None:
        self._resting[key] = until
        heapq.heappush(self._ends, (until, next(self._numbers), key))

    def _wake(self, now: float) -> None:
        held_back = sum(offsets.held_back for offsets in self.offsets.values()) if self._deferred else 0
        while True:
            self._tidy()
            if not self._ends:
                return
            until, _, key = self._ends[0]
            # Over the bounds the rest of a key is not worth a stopped consumer: the first to end goes at once.
            early = (
                (self.full and not self._ready)
                or len(self._resting) > MAX_RESTING_KEYS
                or (held_back > MOST_HELD_BACK and bool(self._deferred))
            )
            if until > now and not early:
                return
            heapq.heappop(self._ends)
            del self._resting[key]
            self._deferred.discard(key)
            if key in self._waiting:
                self._make_ready(key, self._waiting[key][0].owner)

    def _release(self, batch: Batch, now: float, *, rest: bool, again: Mapping[Key, float]) -> None:
        self._batches.discard(batch)
        self.in_flight -= len(batch.messages)
        given_back: dict[Key, list[Held]] = {}
        for held in batch.messages:
            if held.key in again and not held.offsets.lost:
                given_back.setdefault(held.key, []).append(held)
            else:
                self.messages -= 1
                self.bytes -= held.size
        for key in batch.keys:
            self._working.discard(key)
            if key in given_back:
                self._waiting.setdefault(key, deque()).extendleft(reversed(given_back[key]))
                self._deferred.add(key)
            if rest and (seconds := max(self._cooldown, again.get(key, 0.0))) > 0:
                self._lay_down(key, now + seconds)
            elif key in self._waiting:
                self._make_ready(key, self._waiting[key][0].owner)
        for owner in batch.owners:
            self._in_batches[owner] -= 1
            if not self._in_batches[owner]:
                del self._in_batches[owner]
        self._wake(now)


def owner_of(raw: Raw) -> Owner:
    """The tenant: the first part of every key of ours; messages without a key share one turn."""
    return (raw.key or b"").partition(b"/")[0]
