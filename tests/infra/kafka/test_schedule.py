"""The schedule under adversarial orders of arrivals, completions, revokes and crashes."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from infra.kafka.raw import COMPRESSED, RawMessage, size_of, weight_of
from infra.kafka.schedule import MOST_HELD_BACK, Batch, Schedule
from infra.keyring.cipher import DataKey, seal
from schemas.envelope import SIZE

PARTITIONS = [("live", 0), ("live", 1), ("bulk", 0)]
KEYS = [b"a", b"b", b"c", None]


def message(topic: str, partition: int, offset: int, key: bytes | None, size: int = 10) -> RawMessage:
    return RawMessage(topic, partition, offset, key, b"x" * size)


def test_a_batch_ends_by_what_its_messages_are_once_they_are_opened():
    """INVARIANT: a delivery of a hundred events, which is sealed compressed, counts as what it is. If it fails, thousands of events
    are one call's work, and everybody else's wait for it."""
    key = DataKey("00" * 16, "acme", "delivery", "acme/1", b"k" * 32)
    events = orjson.dumps([{"objectId": 10_000_000_000 + 7919 * number, "propertyName": "jobtitle", "occurredAt": 1_770_000_000_000 + number,
        "eventId": 982_451_653 * number % 10**10, "subscriptionType": "contact.propertyChange"} for number in range(300)])  # fmt: skip
    sealed = seal(key, events, purpose="crm.deliveries", compress=True)
    assert len(sealed) < len(events) / 3
    assert sealed[:1] == COMPRESSED
    schedule = Schedule(max_messages=1_000, max_bytes=10**9)
    for offset in range(20):
        schedule.arrive(RawMessage("live", 0, offset, b"acme/%02d" % offset, sealed), 0.0)
    batch = schedule.take(0.0, 500, 4 * len(events))
    assert batch is not None
    assert 2 <= len(batch.messages) <= 8
    assert schedule.bytes == 20 * size_of(batch.messages[0].raw), "memory is held by what they are now"
    plain = RawMessage("live", 0, 0, b"acme/01", b"\x01" * 10_000)
    assert weight_of(plain) == size_of(plain)


@pytest.mark.parametrize(("told", "known"), [(b"90000", True), (b"", False), (b"-1", False), (b"many", False)])
def test_what_tells_its_size_is_not_guessed(told, known):
    """INVARIANT: a flood's hundred events look alike and shrink to a fiftieth; a call takes them on as what they are."""
    value = COMPRESSED + b"x" * 1_500
    raw = RawMessage("live", 0, 0, b"acme/01", value, [("ce_id", b"1"), (SIZE, told), ("hl_attempt", b"2")])
    assert weight_of(raw) == size_of(raw) + (90_000 if known else 7 * len(value))


class Schedules(RuleBasedStateMachine):
    """A broker that remembers logs and commits, members that crash, and one schedule between them."""

    taken = Bundle("taken")

    @initialize(
        cooldown=st.sampled_from([0.0, 0.0, 5.0]), limit=st.sampled_from([4, 1000]), batch=st.sampled_from([1, 3, 500])
    )
    def begin(self, cooldown: float, limit: int, batch: int) -> None:
        self.now = 100.0
        self.cooldown, self.limit, self.batch = cooldown, limit, batch
        self.logs: dict[tuple[str, int], list[RawMessage]] = {partition: [] for partition in PARTITIONS}
        self.commits = dict.fromkeys(PARTITIONS, 0)
        self.handled: dict[tuple[str, int], set[int]] = {partition: set() for partition in PARTITIONS}
        self.effects = 0
        self.faults = False
        self.finished_at: dict[bytes, float] = {}
        self.restart()

    def restart(self) -> None:
        self.schedule = Schedule(max_messages=self.limit, max_bytes=10**9, cooldown=self.cooldown)
        self.running: list[Batch] = []
        self.position = dict(self.commits)
        self.last_started: dict[tuple[tuple[str, int], bytes], int] = {}
        self.epoch = dict.fromkeys(PARTITIONS, 0)
        self.finished_at.clear()

    @rule(partition=st.sampled_from(PARTITIONS), key=st.sampled_from(KEYS), gap=st.sampled_from([0, 0, 0, 3]))
    def produce(self, partition: tuple[str, int], key: bytes | None, gap: int) -> None:
        log = self.logs[partition]
        log.append(message(*partition, (log[-1].offset + 1 if log else 0) + gap, key))

    @rule(partition=st.sampled_from(PARTITIONS), count=st.integers(1, 5))
    def fetch(self, partition: tuple[str, int], count: int) -> None:
        ready = [each for each in self.logs[partition] if each.offset >= self.position[partition]][:count]
        for each in ready:
            self.schedule.arrive(each, self.now)
            self.position[partition] = each.offset + 1

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=taken)
    def take(self):
        batch = self.schedule.take(self.now, self.batch)
        if batch is None:
            return multiple()
        assert 0 < len(batch.messages) <= self.batch
        for other in self.running:
            assert not set(other.keys) & set(batch.keys), "two batches at once hold one key"
        full = self.schedule.full
        for held in batch.messages:
            partition = (held.raw.topic, held.raw.partition)
            assert not held.offsets.lost, "handled after its partition was taken away"
            place = (partition, held.raw.key or b"%d" % held.raw.offset)
            assert held.raw.offset > self.last_started.get(place, -1), "out of order within a key"
            self.last_started[place] = held.raw.offset
            if held.raw.key is not None and held.raw.key in self.finished_at and not full:
                assert self.now >= self.finished_at[held.raw.key] + self.cooldown, "before its rest was over"
        self.running.append(batch)
        return batch

    @rule(batch=consumes(taken))
    def finish(self, batch: Batch) -> None:
        if batch not in self.running:
            return
        self.running.remove(batch)
        for held in batch.messages:
            self.handled[held.raw.topic, held.raw.partition].add(held.raw.offset)
            self.effects += 1
        self.schedule.finish(batch, self.now)
        for key in batch.keys:
            if isinstance(key, bytes):
                self.finished_at[key] = self.now

    @rule(batch=consumes(taken), data=st.data())
    def see_again(self, batch: Batch, data: st.DataObject) -> None:
        """Some of its keys are to come again: nothing of them counts as handled."""
        if batch not in self.running:
            return
        self.running.remove(batch)
        keys = sorted(key for key in batch.keys if isinstance(key, bytes))
        again = {key: 3.0 for key in keys if data.draw(st.booleans())}
        for held in batch.messages:
            place = (held.raw.topic, held.raw.partition)
            if held.key in again:
                self.last_started[place, held.raw.key] = min(
                    held.raw.offset - 1, self.last_started.get((place, held.raw.key), held.raw.offset)
                )
            else:
                self.handled[place].add(held.raw.offset)
                self.effects += 1
        self.schedule.finish(batch, self.now, again)
        self.finished_at.update(dict.fromkeys(keys, self.now))

    @rule()
    def commit(self) -> None:
        found = self.schedule.committable()
        for partition, offset in found.items():
            assert offset > self.commits[partition], "committed backwards or for nothing"
            below = {each.offset for each in self.logs[partition] if each.offset < offset}
            assert below <= self.handled[partition], "committed past an unfinished offset"
            self.commits[partition] = offset
        self.schedule.committed(found)

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS), min_size=1))
    def rebalance(self, partitions: set[tuple[str, int]]) -> None:
        self.faults = True
        waiting, working = self.schedule.waiting, self.schedule.in_flight
        dropped = self.schedule.revoke(partitions)
        assert self.schedule.waiting == waiting - dropped
        assert self.schedule.in_flight == working
        self.commit()
        self.schedule.fence(partitions)
        for held in (held for batch in self.running for held in batch.messages):
            if (held.raw.topic, held.raw.partition) in partitions:
                assert held.offsets.lost, "what is in work of a lost partition may be committed or tried again"
        for partition in partitions:
            assert partition not in self.schedule.committable()
            self.position[partition] = self.commits[partition]
            for place in [place for place in self.last_started if place[0] == partition]:
                del self.last_started[place]

    @rule()
    def crash(self) -> None:
        self.faults = True
        self.restart()

    @invariant()
    def counts_what_it_holds(self) -> None:
        if not hasattr(self, "schedule"):
            return
        assert self.schedule.in_flight == sum(len(batch.messages) for batch in self.running)
        assert self.schedule.waiting >= 0
        assert (self.schedule.messages == 0) == (self.schedule.bytes == 0)

    @precondition(lambda self: hasattr(self, "schedule"))
    @invariant()
    def someone_can_go_on(self) -> None:
        if self.schedule.waiting and not self.running:
            assert self.schedule._ready or self.schedule.next_wake() is not None, "messages wait for ever"

    def teardown(self) -> None:
        if not hasattr(self, "schedule"):
            return
        for batch in list(self.running):
            self.finish(batch)
        for _ in range(10_000):
            for partition in PARTITIONS:
                self.fetch(partition, 1000)
            batch = self.take()
            if isinstance(batch, Batch):
                self.finish(batch)
            elif self.schedule.waiting:
                self.now += 1.0
            else:
                break
        self.commit()
        for partition, log in self.logs.items():
            assert self.handled[partition] == {each.offset for each in log}, "an offset was never handled"
            assert self.commits[partition] == (log[-1].offset + 1 if log else 0), "handled, and not committed"
        if not self.faults:
            assert self.effects == sum(map(len, self.logs.values())), "handled more than once without a fault"


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestSchedules.__doc__ = """INVARIANT: at least once, in order within a key, never past an unfinished offset.

When it fails, a crash or a rebalance loses a customer's change, or an older state of a record overwrites a newer one.
"""


def schedule(**more: float) -> Schedule:
    return Schedule(**{"max_messages": 100, "max_bytes": 10**6, **more})


def test_a_key_gets_all_that_waits_for_it_at_once() -> None:
    found = schedule()
    for offset, key in enumerate([b"a", b"b", b"a", b"a"]):
        found.arrive(message("t", 0, offset, key), 0.0)
    batch = found.take(0.0, 3)
    assert [held.raw.offset for held in batch.messages] == [0, 2, 3]
    assert [held.raw.offset for held in found.take(0.0, 3).messages] == [1]


def test_the_same_key_by_two_topics_is_never_handled_at_once() -> None:
    """INVARIANT: a record's live and bulk changes wait for one another; else two handlers race for its state."""
    found = schedule()
    found.arrive(message("crm.changes", 0, 5, b"record"), 0.0)
    batch = found.take(0.0, 10)
    found.arrive(message("crm.changes.bulk", 3, 9, b"record"), 0.0)
    assert found.take(0.0, 10) is None
    found.finish(batch, 0.0)
    assert found.take(0.0, 10).messages[0].raw.topic == "crm.changes.bulk"


def test_a_first_message_goes_at_once_and_what_follows_rests_and_goes_together() -> None:
    found = schedule(cooldown=5.0)
    found.arrive(message("t", 0, 0, b"a"), 10.0)
    batch = found.take(10.0, 10)
    found.arrive(message("t", 0, 1, b"a"), 10.5)
    found.finish(batch, 11.0)
    found.arrive(message("t", 0, 2, b"a"), 12.0)
    assert found.take(15.9, 10) is None
    assert found.next_wake() == 16.0
    assert [held.raw.offset for held in found.take(16.0, 10).messages] == [1, 2]


def test_what_is_to_come_again_waits_uncommitted_and_comes_with_what_has_come_meanwhile() -> None:
    """INVARIANT: a question that rests is in no commit. If it breaks, a crash leaves a record without its insight."""
    found = schedule()
    found.arrive(message("t", 0, 0, b"a"), 10.0)
    found.arrive(message("t", 0, 1, b"b"), 10.0)
    found.finish(found.take(10.0, 10), 11.0, {b"a": 40.0})
    assert found.committable() == {}
    found.arrive(message("t", 0, 2, b"a"), 12.0)
    found.arrive(message("t", 0, 3, b"c"), 12.0)
    assert [held.raw.offset for held in found.take(12.0, 10).messages] == [3]
    assert found.next_wake() == 51.0
    assert found.take(50.9, 10) is None
    batch = found.take(51.0, 10)
    assert [held.raw.offset for held in batch.messages] == [0, 2]
    found.finish(batch, 51.0)
    assert found.committable() == {("t", 0): 3}


def test_rests_of_different_lengths_end_in_their_own_order() -> None:
    found = schedule()
    for offset, key in enumerate((b"long", b"short")):
        found.arrive(message("t", 0, offset, key), 0.0)
    found.finish(found.take(0.0, 10), 0.0, {b"long": 30.0, b"short": 10.0})
    assert found.next_wake() == 10.0
    assert [held.raw.offset for held in found.take(10.0, 10).messages] == [1]
    assert found.next_wake() == 30.0


def test_what_comes_again_is_dropped_with_its_partition() -> None:
    found = schedule()
    found.arrive(message("t", 0, 0, b"a"), 0.0)
    batch = found.take(0.0, 10)
    found.revoke([("t", 0)])
    found.finish(batch, 0.0, {b"a": 5.0})
    found.fence([("t", 0)])
    assert (found.messages, found.bytes) == (0, 0)
    assert found.take(6.0, 10) is None


def test_rests_end_early_when_too_much_that_is_finished_waits_for_them_to_be_committed() -> None:
    """INVARIANT: what is handled again after a crash is bounded, however long a question may rest."""
    found = schedule(max_messages=10_000)
    found.arrive(message("t", 0, 0, b"rests"), 0.0)
    found.finish(found.take(0.0, 10), 0.0, {b"rests": 1000.0})
    for offset in range(1, MOST_HELD_BACK + 2):
        found.arrive(message("t", 0, offset, b"%d" % offset), 1.0)
        found.finish(found.take(1.0, 1), 1.0)
    assert [held.raw.key for held in found.take(2.0, 10).messages] == [b"rests"]


def test_over_the_bounds_resting_keys_go_early_so_that_memory_is_bounded() -> None:
    found = schedule(cooldown=1000.0, max_messages=3)
    found.arrive(message("t", 0, 0, b"a"), 0.0)
    found.finish(found.take(0.0, 10), 0.0)
    for offset in (1, 2, 3):
        found.arrive(message("t", 0, offset, b"a"), 1.0)
    assert found.full
    assert len(found.take(1.0, 10).messages) == 3


def test_ninety_percent_of_either_bound_is_not_roomy_yet() -> None:
    found = schedule(max_messages=10)
    for offset in range(9):
        found.arrive(message("t", 0, offset, None), 0.0)
    assert not found.roomy
    assert not found.full
    found.finish(found.take(0.0, 1), 0.0)
    assert found.roomy


@pytest.mark.parametrize("again", [0, 1])
def test_an_offset_that_was_read_before_is_not_handled_twice(again: int) -> None:
    found = schedule()
    for offset in (0, 1, again):
        found.arrive(message("t", 0, offset, b"a"), 0.0)
    assert found.messages == 2


# Turns


def of(tenant: str, number: int, *, offset: int, size: int = 10) -> RawMessage:
    return message("live", 0, offset, f"{tenant}/hubspot:1/contact/{number}".encode(), size)


def tenants_of(batch: Batch) -> list[str]:
    return [held.owner.decode() for held in batch.messages]


def test_a_tenant_behind_anothers_backlog_is_in_the_next_batch():
    schedule = Schedule(max_messages=10_000, max_bytes=10**9)
    for offset in range(3_000):
        schedule.arrive(of("flood", offset, offset=offset), 0.0)
    schedule.arrive(of("quiet", 1, offset=3_000), 0.0)
    assert "quiet" in tenants_of(schedule.take(0.0, 200))


def test_turns_are_a_quarter_of_a_batch_and_a_lone_tenant_gets_all_of_it():
    schedule = Schedule(max_messages=10_000, max_bytes=10**9)
    offset = 0
    for tenant in ("a", "b", "c", "d", "e"):
        for number in range(100):
            schedule.arrive(of(tenant, number, offset=offset), 0.0)
            offset += 1
    assert tenants_of(schedule.take(0.0, 40)) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10 + ["d"] * 10
    assert tenants_of(schedule.take(0.0, 40))[:10] == ["e"] * 10
    alone = Schedule(max_messages=10_000, max_bytes=10**9)
    for number in range(100):
        alone.arrive(of("a", number, offset=number), 0.0)
    assert len(alone.take(0.0, 40).messages) == 40


def test_a_worker_stays_free_of_whoever_fills_the_others():
    schedule = Schedule(max_messages=10_000, max_bytes=10**9, most_batches_an_owner=2)
    for offset in range(1_000):
        schedule.arrive(of("flood", offset, offset=offset), 0.0)
    first, second = schedule.take(0.0, 10), schedule.take(0.0, 10)
    assert schedule.take(0.0, 10) is None
    schedule.arrive(of("quiet", 1, offset=1_000), 0.0)
    assert tenants_of(schedule.take(0.0, 10)) == ["quiet"]
    schedule.finish(first, 0.0)
    assert tenants_of(schedule.take(0.0, 10)) == ["flood"] * 10
    schedule.abandon(second, 0.0)
    assert schedule.take(0.0, 10) is not None


def test_a_batch_ends_at_its_bytes_with_one_key_to_spare():
    schedule = Schedule(max_messages=10_000, max_bytes=10**9)
    for offset in range(10):
        schedule.arrive(of("a", offset, offset=offset, size=1_000), 0.0)
    assert len(schedule.take(0.0, 100, 2_500).messages) == 3
    assert len(schedule.take(0.0, 100, 1).messages) == 1


@settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8)), min_size=1, max_size=80), st.integers(1, 12)
)
def test_every_message_gets_its_turn(arrivals, size):
    """INVARIANT: nothing that is ready stays behind for ever, whoever takes turns. If it fails, a tenant is starved."""
    schedule = Schedule(max_messages=10_000, max_bytes=10**9, most_batches_an_owner=2)
    for offset, (tenant, number) in enumerate(arrivals):
        schedule.arrive(of(tenant, number, offset=offset), 0.0)
    seen: list[int] = []
    for _ in range(len(arrivals)):
        batch = schedule.take(0.0, size)
        if batch is None:
            break
        seen.extend(held.raw.offset for held in batch.messages)
        schedule.finish(batch, 0.0)
    assert sorted(seen) == list(range(len(arrivals)))
    assert schedule.messages == schedule.bytes == 0
