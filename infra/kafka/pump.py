"""The one engine that every stage consumes with.

Law: a handler's exception never becomes a commit; offsets are committed only after the handler has returned, up to the
lowest unfinished one; a partition that was taken away is never committed. Polling never waits for a handler, so that a
slow or hanging one costs no membership. What to handle next is `schedule`'s decision, what to commit `offsets`'.
A handler may block on nothing but awaiting; it is called again with the same messages after a crash or a rebalance.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from infra import metrics, telemetry
from infra.kafka.at_once import Fetched, take_at_once
from infra.kafka.attempt import Again, Attempts, GaveUp, Handler, OnPoison
from infra.kafka.connection import options, refusal
from infra.kafka.letters import is_redriven
from infra.kafka.marks import commit_of, read_marks
from infra.kafka.poison import Poison, PoisonLimits, TooMuchPoison
from infra.kafka.raw import Raw
from infra.kafka.schedule import Batch, Partition, Schedule
from infra.settings import Settings
from infra.unavailable import BrokerUnavailable, Unavailable

__all__ = ["Handler", "PoisonLimits", "Pump", "TooMuchPoison", "Unavailable"]

POLL_SECONDS = 0.5
FETCH_WAIT_MS = 500
PATIENT_BYTES = 1024 * 1024
"""Less than this is fetched every FETCH_WAIT_MS only while nobody waits for it."""
COMMIT_EVERY_SECONDS = 0.5
"""So much finished work at most is done again after a crash; what ends in order commits before it leaves."""
COMMIT_MANY_EVERY_SECONDS = 0.2
MANY = 100
"""Where so many messages or more are finished meanwhile, the shorter time holds: readers seem behind by what is not committed."""
MAX_BATCH_BYTES = 1024 * 1024
"""A call's messages weigh no more than this and one key's once they are opened: it must not keep the loop for long."""
_MEMORY = "memory"
DOWNSTREAM = "downstream"
"""The part to `pause` for while those who read what this one writes are behind; no fault of anybody's."""
_NO_FAULT = frozenset({_MEMORY, DOWNSTREAM})


class FetcherEndedError(RuntimeError):
    """The consumer would stay silent for ever."""


class Pump:
    """Consumes `topics` as a member of `group`. All methods belong to the event loop that `start` ran in."""

    def __init__(
        self,
        settings: Settings,
        *,
        topics: Sequence[str],
        group: str,
        handler: Handler,
        on_poison: OnPoison,
        key_of: Callable[[Raw], bytes | None] | None = None,
        max_batch: int = 500,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        concurrency: int = 4,
        cooldown: float = 0.0,
        poison_limits: PoisonLimits | None = None,
        client_id: str | None = None,
        revoke_timeout: float = 10.0,
        session_timeout: float = 10.0,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:
        """`cooldown` and the timeouts are in seconds; the bounds on memory default to the settings'.

        `handler` returns when every effect of every message is acknowledged downstream. It gets what waits for each key
        that it gets, in order, up to `max_batch` messages or about `max_batch_bytes`; keys of concurrent calls are disjoint.
        It may return key → seconds: then the messages of that key come again after that time (sooner when too much waits
        for them), with what has come by then, and stay uncommitted until it returns without them. It raises Unavailable
        (or lets a client library's connection error pass) when nobody can go on now: the pump pauses and tries again.
        SettingsError stops the pump. Any other exception is bisected to the message that fails alone, which `on_poison`
        lays aside.
        """
        self._settings = settings
        self._topics = tuple(topics)
        self._group = group
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._concurrency = concurrency
        self._client_id = client_id or f"hookline-{group}"
        self._revoke_timeout = revoke_timeout
        self._session_timeout = session_timeout
        self._build_consumer = consumer
        self._patient = False
        self.taken_in = 0
        """Messages that were fetched since it was built."""
        self._schedule = Schedule(
            max_messages=max_messages or settings.max_in_flight_messages,
            max_bytes=max_bytes or settings.max_in_flight_bytes,
            cooldown=cooldown,
            key_of=key_of,
            # One worker stays free of whoever fills all others: what is another's need not wait for a call to end.
            most_batches_an_owner=concurrency - 1 if concurrency > 1 else None,
        )
        self._max_bytes = max_bytes or settings.max_in_flight_bytes
        self._poison = Poison(poison_limits or PoisonLimits(), group)
        self._attempts = Attempts(
            group=group, handler=handler, on_poison=on_poison, poison=self._poison, pause=self.pause, resume=self.resume
        )
        self._log = telemetry.log("pump").bind(group=group)
        self._consumer: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: dict[Batch, asyncio.Task[None]] = {}
        self._paused: dict[str, int] = {}
        self._fetching = True
        self._commit_wanted = asyncio.Event()
        self._uncommitted = 0
        """Messages that were finished since the last commit began."""
        self._committing = asyncio.Lock()
        self._marked: set[Partition] = set()
        """Partitions whose commit says that this group stopped there."""
        self._finished = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._assigned: set[Partition] | None = None
        self._draining = False
        self._stopped: asyncio.Future[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109 -- bounds several waits, not one
        """Join the group and begin; raises BrokerUnavailable when no broker answers within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._draining = False
        self._consumer = await self._connect(timeout)
        take_at_once(self._consumer, self._take)
        self._consumer.subscribe(topics=list(self._topics), listener=_Listener(self))
        self._spawn(self._poll(), "poll")
        self._spawn(self._commit_loop(), "commit")

    async def drain(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109 -- bounds several waits, not one
        """Stop fetching, finish what is in work, commit, leave the group.

        What does not finish in `timeout` seconds is cancelled and stays uncommitted. May be called twice.
        """
        if self._consumer is None or self._draining:
            return
        self._draining = True
        self._attempts.stop()
        self._apply_pauses()
        self._schedule.revoke(list(self._schedule.offsets))
        deadline = time.monotonic() + timeout
        await self._wait_for(lambda: set(self._workers), timeout)
        for worker in list(self._workers.values()):
            worker.cancel()
        await asyncio.gather(*self._workers.values(), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(1.0, deadline - time.monotonic())):
                await self._commit()
        await self._close()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    async def wait(self) -> None:
        """Return when the pump has been drained; raise what stopped it otherwise."""
        assert self._stopped is not None, "start() first"
        await asyncio.shield(self._stopped)

    def pause(self, part: str) -> None:
        """Take no new batches and fetch nothing because of `part`, staying in the group; counted, so resume as often."""
        self._paused[part] = self._paused.get(part, 0) + 1
        metrics.PAUSED.labels(self._group, part).set(1)
        self._apply_pauses()

    def resume(self, part: str) -> None:
        """Undo one `pause` of this part; one too many does nothing."""
        count = self._paused.get(part, 0) - 1
        if count > 0:
            self._paused[part] = count
            return
        if self._paused.pop(part, None) is not None:
            metrics.PAUSED.labels(self._group, part).set(0)
        self._apply_pauses()
        self._kick()

    def be_patient(self, patient: bool) -> None:
        """Whether nobody waits for what comes: then it is fetched seldom and much at once, and what is under way ends by itself.
        Everything else stays as it is. May be called at any time, and again.
        """
        self._patient = patient
        fetcher = getattr(self._consumer, "_fetcher", None)
        if fetcher is not None:
            # aiokafka has no way to say so later; each of its requests reads it anew.
            fetcher._fetch_min_bytes = PATIENT_BYTES if patient else 1  # noqa: SLF001 -- as above

    def laid_aside(self, raw: Raw, why: str) -> None:
        """Count a message in work that its handler itself laid aside against the limits; stops the pump when they are too many.

        Of another pump's messages nothing is heard, and what an operator sent again counts neither way.
        """
        partition = (raw.topic, raw.partition)
        if self._schedule.has_in_work(partition, raw.offset):
            try:
                self._poison.bad(partition, raw.offset, why, counts=not is_redriven(raw))
            except TooMuchPoison as error:
                self._fail(error)

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._group

    @property
    def paused(self) -> tuple[str, ...]:
        """The parts because of which it pauses."""
        return tuple(self._paused)

    @property
    def assigned(self) -> frozenset[Partition] | None:
        """Partitions that this member has; None while it has not joined."""
        return None if self._assigned is None else frozenset(self._assigned)

    @property
    def held(self) -> int:
        """Messages in memory."""
        return self._schedule.messages

    @property
    def in_flight(self) -> int:
        """Messages in work."""
        return self._schedule.in_flight

    def lag(self) -> dict[Partition, int]:
        """Messages that lie on each partition of ours and are not finished, as far as the broker has told."""
        found: dict[Partition, int] = {}
        for partition in self._assigned or ():
            try:
                end = self._consumer.highwater(TopicPartition(*partition))
            except (IllegalStateError, AssertionError):
                continue
            offsets = self._schedule.offsets.get(partition)
            if end is not None and offsets is not None and offsets.low is not None:
                found[partition] = max(0, end - offsets.low)
        return found

    async def ask(self, seconds: float = 3.0) -> str | None:
        """For readiness: None when it is a member, the broker answers within `seconds` and nothing pauses it."""
        if self._stopped is None:
            return f"{self._group} has not started"
        if self._stopped.done():
            error = self._stopped.exception()
            return f"{self._group} has stopped" + (f": {error}" if error else "")
        if self._draining:
            return f"{self._group} is draining"
        try:
            async with asyncio.timeout(seconds):
                await self._consumer.topics()
        except (TimeoutError, KafkaError, OSError) as error:
            return f"kafka does not answer {self._group} ({type(error).__name__}): check {self._settings.kafka_url}"
        if self._assigned is None:
            return f"{self._group} has not joined its group yet (a rebalance is under way)"
        away = [part for part in self._paused if part not in _NO_FAULT]
        return f"{self._group} pauses because of {', '.join(away)}" if away else None

    # -- polling -------------------------------------------------------------------------------------------------------

    async def _connect(self, timeout: float) -> Any:  # noqa: ASYNC109 -- bounds several tries
        deadline = time.monotonic() + timeout
        while True:
            consumer = self._build_consumer(
                **options(self._settings),
                client_id=self._client_id,
                group_id=self._group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=(RangePartitionAssignor,),
                session_timeout_ms=int(self._session_timeout * 1000),
                heartbeat_interval_ms=int(self._session_timeout * 1000 / 4),
                rebalance_timeout_ms=int((self._revoke_timeout + self._session_timeout) * 1000),
                max_poll_interval_ms=300_000,
                # Above the longest that a join may take; aiokafka's 40 s would be the stall after a lost answer.
                request_timeout_ms=int((self._revoke_timeout + self._session_timeout + 5.0) * 1000),
                fetch_max_wait_ms=FETCH_WAIT_MS,
                fetch_min_bytes=PATIENT_BYTES if self._patient else 1,
                fetch_max_bytes=min(50 * 1024 * 1024, max(1024 * 1024, self._max_bytes // 2)),
                metadata_max_age_ms=60_000,
            )
            try:
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    await consumer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                with contextlib.suppress(KafkaError, OSError):
                    await consumer.stop()
                if time.monotonic() >= deadline - 1.0:
                    raise BrokerUnavailable(
                        f"no broker at {self._settings.kafka_url} answers ({type(error).__name__})",
                        remedy=await refusal(self._settings),
                    ) from error
                self._log.warning("kafka_away", error=type(error).__name__)
                await asyncio.sleep(1.0)
            else:
                return consumer

    async def _poll(self) -> None:
        reported = 0.0
        while True:
            try:
                fetched = await self._consumer.getmany(timeout_ms=int(POLL_SECONDS * 1000))
            except KafkaError as error:
                if not error.retriable and not isinstance(error, CommitFailedError):
                    raise
                self._log.warning("poll_failed", error=type(error).__name__)
                await asyncio.sleep(POLL_SECONDS)
                continue
            self._look_after_fetcher()
            # No await between getmany's return and here: a revoke cannot come in between.
            self._take(fetched)
            now = time.monotonic()
            if now - reported > 1.0:
                reported = now
                self._report()

    def _take(self, fetched: Fetched) -> None:
        """Take in what was fetched, in the turn of the loop in which the consumer handed it out."""
        try:
            if fetched and not self._draining:
                now = time.monotonic()
                for records in fetched.values():
                    self.taken_in += len(records)
                    for record in records:
                        self._schedule.arrive(record, now)
                self._kick()
            if self._fetching and self._schedule.full and _MEMORY not in self._paused:
                self._hold_fetching()
        except Exception as error:  # noqa: BLE001 -- aiokafka, which may be calling, must not learn of a bug of ours by falling silent
            self._fail(error)

    def _look_after_fetcher(self) -> None:
        """Aiokafka's consumer stays in its group, and its `getmany` answers nothing, when the task that fetches has ended."""
        task = getattr(getattr(self._consumer, "_fetcher", None), "_fetch_task", None)
        if task is not None and task.done() and not self._draining:
            raise FetcherEndedError(
                f"{self._group} fetches nothing any more: aiokafka's fetcher ended; start this role again (it goes on where it stopped)"
            )

    def _hold_fetching(self) -> None:
        self._paused[_MEMORY] = 1
        metrics.PAUSED.labels(self._group, _MEMORY).set(1)
        self._apply_pauses()

    def _apply_pauses(self) -> None:
        if self._consumer is None:
            return
        partitions = self._consumer.assignment()
        fetching = not (self._paused or self._draining)
        if not fetching:
            self._consumer.pause(*partitions)
        elif partitions:
            self._consumer.resume(*partitions)
        self._fetching = fetching

    # -- handling ------------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Give every free worker what is ready."""
        if self._draining or any(part != _MEMORY for part in self._paused):
            return
        now = time.monotonic()
        # One at a time where this group stopped before, so that it stops again before many are laid aside.
        most = 1 if self._schedule.has_unfinished(self._poison.suspects) else self._max_batch
        while len(self._workers) < self._concurrency and (
            batch := self._schedule.take(now, most, self._max_batch_bytes)
        ):
            task = asyncio.get_running_loop().create_task(self._work(batch), name=f"{self._group}-worker")
            self._workers[batch] = task
        wake = self._schedule.next_wake()
        if (
            wake is not None
            and len(self._workers) < self._concurrency
            and (self._timer is None or wake < self._timer_at)
        ):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = wake
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wake - now) + 0.001, self._rested)

    def _rested(self) -> None:
        self._timer = None
        self._kick()

    async def _work(self, batch: Batch) -> None:
        again: Again | None = None
        try:
            again = await self._attempts.handle(batch)
        except asyncio.CancelledError:
            self._log.warning("batch_cancelled", messages=len(batch.messages))
            raise
        except GaveUp:
            self._log.info("batch_given_up", messages=len(batch.messages))
        except Exception as error:  # noqa: BLE001 -- whatever ends a batch unfinished must stop the pump, never be lost
            self._fail(error)
        finally:
            now = time.monotonic()
            self._workers.pop(batch, None)
            if again is not None:
                self._schedule.finish(batch, now, again)
                self._uncommitted += len(batch.messages)
                self._commit_wanted.set()
            else:
                self._schedule.abandon(batch, now)
            if _MEMORY in self._paused and self._schedule.roomy:
                self.resume(_MEMORY)
            self._finished.set()
            self._kick()

    # -- committing ----------------------------------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        while True:
            await self._commit_wanted.wait()
            self._commit_wanted.clear()
            self._uncommitted = 0
            await self._commit()
            # The first batch after a rest is committed at once; under load one commit then speaks for many batches.
            await asyncio.sleep(COMMIT_MANY_EVERY_SECONDS)
            if self._uncommitted < MANY:
                await asyncio.sleep(COMMIT_EVERY_SECONDS - COMMIT_MANY_EVERY_SECONDS)

    async def _commit(self) -> None:
        """Commit what may be; whatever goes wrong is logged and left for the next time: at worst it is handled again."""
        async with self._committing:
            wanted = self._schedule.committable()
            owned = self._consumer.assignment()
            suspects = self._poison.suspects
            for partition in suspects:
                # A stop may come before anything new is finished, and has to be known all the same.
                known = self._schedule.offsets.get(partition)
                if partition not in self._marked and known is not None and known.low is not None:
                    wanted.setdefault(partition, known.low)
            wanted = {partition: offset for partition, offset in wanted.items() if TopicPartition(*partition) in owned}
            if not wanted:
                return
            try:
                await self._consumer.commit(
                    {
                        TopicPartition(*partition): commit_of(offset, stopped=partition in suspects)
                        for partition, offset in wanted.items()
                    }
                )
            except (CommitFailedError, IllegalStateError) as error:
                metrics.COMMITS.labels(self._group, "fenced").inc()
                self._log.info("commit_fenced", partitions=len(wanted), error=type(error).__name__)
            except (KafkaError, OSError) as error:
                metrics.COMMITS.labels(self._group, "failed").inc()
                self._log.warning("commit_failed", partitions=len(wanted), error=type(error).__name__)
            else:
                self._schedule.committed(wanted)
                self._marked = (self._marked - wanted.keys()) | (wanted.keys() & set(suspects))
                metrics.COMMITS.labels(self._group, "ok").inc()

    # -- rebalancing ---------------------------------------------------------------------------------------------------

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        """Drop what waits, finish what is in work for as long as `revoke_timeout`, commit, and fence."""
        self._assigned = None
        if not partitions:
            return
        metrics.REBALANCES.labels(self._group).inc()
        dropped = self._schedule.revoke(partitions)
        # A batch that waits for a part to come back is not worth holding up the group's rebalance.
        left = await self._wait_for(
            lambda: self._schedule.busy_with(partitions) - self._attempts.stuck, self._revoke_timeout
        )
        try:
            async with asyncio.timeout(self._session_timeout / 2):
                await self._commit()
        except TimeoutError:
            self._log.warning("commit_failed", partitions=len(partitions), error="TimeoutError")
        self._schedule.fence(partitions)
        self._log.info("partitions_revoked", partitions=len(partitions), dropped=dropped, unfinished_batches=len(left))
        if _MEMORY in self._paused and self._schedule.roomy:
            self.resume(_MEMORY)

    async def assigned_now(self, partitions: Sequence[Partition]) -> None:
        """Begin with these."""
        self._apply_pauses()
        marked = await read_marks(self._consumer, partitions, self._session_timeout / 2)
        self._marked = (self._marked - set(partitions)) | marked
        self._poison.begin(partitions, marked)
        self._assigned = set(partitions)
        self._apply_pauses()
        self._log.info("partitions_assigned", partitions=len(partitions))
        self._kick()

    async def _wait_for(self, busy: Callable[[], set[Batch]], seconds: float) -> set[Batch]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while busy():
                    self._finished.clear()
                    await self._finished.wait()
        return busy()

    # -- ending --------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{self._group}-{name}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self._fail(error)

        task.add_done_callback(ended)

    def _fail(self, error: BaseException) -> None:
        """Stop for good: `wait` raises `error`; the role drains and leaves."""
        if self._stopped is not None and not self._stopped.done():
            self._log.error("pump_stopped", error=type(error).__name__)
            self._stopped.set_exception(error)
            # Nobody may be waiting yet; the error is not lost, `ask` and `wait` tell it.
            self._stopped.exception()
            self.pause("failure")
            self._commit_wanted.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(self._session_timeout):
                await self._consumer.stop()
        self._report()

    def _report(self) -> None:
        metrics.HELD_MESSAGES.labels(self._group).set(self._schedule.messages)
        metrics.HELD_BYTES.labels(self._group).set(self._schedule.bytes)
        metrics.IN_FLIGHT.labels(self._group).set(self._schedule.in_flight)
        for (topic, partition), behind in self.lag().items():
            metrics.LAG.labels(self._group, topic, str(partition)).set(behind)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._pump.revoked([(each.topic, each.partition) for each in revoked])

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._pump.assigned_now([(each.topic, each.partition) for each in assigned])
