"""Kafka: brokers that die, leaders that move, groups that never come to rest."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from infra.kafka.connection import options
from processors.app import ANALYST_GROUP, HYDRATOR_GROUP
from schemas.topics import ALL, CHANGES, INSIGHTS, RECORDS
from sinks.app import group_of
from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.stand import Stand

MOVE_EVERY = 3.0
STORM = {
    HYDRATOR_GROUP: CHANGES.name,
    ANALYST_GROUP: RECORDS.name,
    group_of("postgres"): INSIGHTS.name,
    group_of("hubspot"): INSIGHTS.name,
}


class BrokerKilled(Fault):
    """One of three dies, and comes back."""

    name = "broker-killed"
    said = "one of three brokers is killed (SIGKILL) and restarted"
    short, long = 4.0, 10.0
    nodes = 3

    def __init__(self) -> None:
        self._name = ""
        self._pid = 0
        self._code: int | None = None

    async def inject(self, stand: Stand) -> None:
        self._name = stand.chance.choice(stand.brokers())
        self._pid = stand.stack.pids()[self._name]
        await asyncio.to_thread(stand.stack.kill, self._name)
        self._code = stand.stack.ended().get(self._name)

    async def recover(self, stand: Stand) -> None:
        if self._name:
            await asyncio.to_thread(stand.stack.revive, self._name)

    async def evidence(self, stand: Stand) -> str:
        now = stand.stack.pids().get(self._name)
        if self._code != -9 or now in {None, self._pid}:
            raise NoEvidenceError(f"{self._name}: exit code {self._code}, pid {self._pid} and now {now}")
        return f"{self._name} died (pid {self._pid}, signal 9) and came back as pid {now}"


class AllBrokersAway(Fault):
    """No Kafka at all."""

    name = "kafka-away"
    said = "all brokers are killed and stay away for 30 s"
    short, long = 4.0, 30.0

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    async def inject(self, stand: Stand) -> None:
        await asyncio.gather(*(asyncio.to_thread(stand.stack.kill, name) for name in stand.brokers()))
        ended = stand.stack.ended()
        self._codes = {name: ended.get(name, 0) for name in stand.brokers()}

    async def recover(self, stand: Stand) -> None:
        # Starting one starts all that are gone: a quorum of one would wait for ever.
        await asyncio.to_thread(stand.stack.revive, stand.brokers()[0])

    async def evidence(self, stand: Stand) -> str:
        if set(self._codes.values()) != {-9}:
            raise NoEvidenceError(f"exit codes {self._codes}")
        return f"{len(self._codes)} brokers died of signal 9"


class LeaderMoves(Fault):
    """The leader of every partition moves every few seconds, by taking the leading replica away and giving it back."""

    name = "leader-moves"
    said = f"the leader of every partition moves every {MOVE_EVERY:g} s"
    short, long = 6.0, 20.0
    nodes = 3

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], int] = {}
        self._moves = 0
        self._task: asyncio.Task[None] | None = None

    async def inject(self, stand: Stand) -> None:
        self._task = asyncio.create_task(self._move(stand))

    async def _move(self, stand: Stand) -> None:
        admin = AIOKafkaAdminClient(**options(stand.settings))
        await admin.start()
        try:
            step = 0
            while True:
                step += 1
                leaders = await _leaders(admin)
                self._moves += sum(self._before.get(place, now) != now for place, now in leaders.items())
                self._before = leaders
                topics: dict[str, list[tuple[int, list[int], dict[int, bytes]]]] = {}
                for (topic, partition), leader in leaders.items():
                    others = [node for node in (1, 2, 3) if node != leader]
                    replicas = others if step % 2 else [*others, leader]
                    topics.setdefault(topic, []).append((partition, replicas, {}))
                await admin._send_to_controller(
                    AlterPartitionReassignmentsRequest(
                        10_000, [(topic, rows, {}) for topic, rows in topics.items()], {}
                    )
                )
                await asyncio.sleep(MOVE_EVERY / 2)
        finally:
            await admin.close()

    async def recover(self, stand: Stand) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        admin = AIOKafkaAdminClient(**options(stand.settings))
        await admin.start()
        try:
            leaders = await _leaders(admin)
            topics: dict[str, list[tuple[int, list[int], dict[int, bytes]]]] = {}
            for (topic, partition), leader in leaders.items():
                replicas = [leader, *(node for node in (1, 2, 3) if node != leader)]
                topics.setdefault(topic, []).append((partition, replicas, {}))
            await admin._send_to_controller(
                AlterPartitionReassignmentsRequest(10_000, [(topic, rows, {}) for topic, rows in topics.items()], {})
            )
        finally:
            await admin.close()

    async def evidence(self, stand: Stand) -> str:
        if self._moves < len(self._before):
            raise NoEvidenceError(f"only {self._moves} leaders moved")
        return f"{self._moves} moves of leaders over {len(self._before)} partitions"


async def _leaders(admin: AIOKafkaAdminClient) -> dict[tuple[str, int], int]:
    found = await admin.describe_topics([topic.name for topic in ALL])
    return {
        (topic["topic"], partition["partition"]): partition["leader"]
        for topic in found
        for partition in topic["partitions"]
    }


class RebalanceStorm(Fault):
    """A member of no use joins the groups and leaves them, again and again."""

    name = "rebalance-storm"
    said = "a further member joins and leaves the groups of hydrator, analyst and sinks every second"
    short, long = 6.0, 20.0

    def __init__(self) -> None:
        self._joined: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def inject(self, stand: Stand) -> None:
        self._tasks = [asyncio.create_task(self._storm(stand, group, topic)) for group, topic in STORM.items()]

    async def _storm(self, stand: Stand, group: str, topic: str) -> None:
        while True:
            consumer = AIOKafkaConsumer(
                topic,
                **options(stand.settings),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=(RangePartitionAssignor,),
            )
            try:
                async with asyncio.timeout(15):
                    await consumer.start()
                    self._joined[group] = self._joined.get(group, 0) + bool(consumer.assignment())
                await asyncio.sleep(stand.chance.uniform(0.2, 1.0))
            except (KafkaError, TimeoutError):
                pass
            finally:
                with contextlib.suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(10):
                        await consumer.stop()
            await asyncio.sleep(0.5)

    async def recover(self, stand: Stand) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def evidence(self, stand: Stand) -> str:
        if sum(self._joined.values()) < len(STORM):
            raise NoEvidenceError(f"it joined {self._joined} times")
        return f"{sum(self._joined.values())} joins with partitions taken from the roles"


FAULTS: dict[str, type[Fault]] = {
    each.name: each for each in (BrokerKilled, AllBrokersAway, LeaderMoves, RebalanceStorm)
}
