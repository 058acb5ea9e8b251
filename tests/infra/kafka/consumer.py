"""A consumer in memory that behaves as aiokafka's does, as far as the pump sees it."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from infra.kafka.raw import RawMessage


class FakeConsumer:
    """One topic `t` with some partitions; a test appends messages, rebalances, and makes commits fail or wait."""

    def __init__(self, partitions: int = 2) -> None:
        self.logs: dict[TopicPartition, list[RawMessage]] = {
            TopicPartition("t", number): [] for number in range(partitions)
        }
        self.position = dict.fromkeys(self.logs, 0)
        self.committed: dict[TopicPartition, int] = {}
        self.metadata: dict[TopicPartition, str] = {}
        self._coordinator = self
        self.commits: list[dict[TopicPartition, int]] = []
        self.paused: set[TopicPartition] = set()
        self.owned: set[TopicPartition] = set()
        self.polls = 0
        self.stopped = False
        self.fenced = False
        self.commit_gate = asyncio.Event()
        self.commit_gate.set()
        self.commit_started = asyncio.Event()
        self.news = asyncio.Event()
        self.listener = None

    def build(self, **_options):
        return self

    def append(self, partition: int, *keys: bytes, size: int = 1) -> None:
        log = self.logs[TopicPartition("t", partition)]
        for key in keys:
            log.append(RawMessage("t", partition, len(log), key, b"x" * size))
        self.news.set()

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        self.stopped = True

    def subscribe(self, topics, listener) -> None:
        self.listener = listener
        self.assign(set(self.logs))

    def assign(self, partitions: set[TopicPartition]) -> None:
        self.owned = partitions
        for partition in partitions:
            self.position[partition] = self.committed.get(partition, 0)
        self.paused.clear()
        self.ready = asyncio.ensure_future(self.listener.on_partitions_assigned(partitions))
        self.news.set()

    async def rebalance(self, keep: set[TopicPartition]) -> None:
        revoked, self.revoking = self.owned, True
        await self.listener.on_partitions_revoked(revoked)
        self.assign(keep)
        self.revoking = False

    revoking = False

    async def getmany(self, timeout_ms: int):
        self.polls += 1
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        while True:
            found = {}
            if not self.revoking:
                for partition in self.owned - self.paused:
                    log = self.logs[partition]
                    if self.position[partition] < len(log):
                        found[partition] = log[self.position[partition] :]
                        self.position[partition] = len(log)
            if found:
                return found
            self.news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self.news.wait()
            except TimeoutError:
                return {}

    async def commit(self, offsets) -> None:
        self.commit_started.set()
        await self.commit_gate.wait()
        if self.fenced or not set(offsets) <= self.owned:
            raise CommitFailedError("fenced")
        said = {place: (at, "") if isinstance(at, int) else at for place, at in offsets.items()}
        self.commits.append({place: offset for place, (offset, _) in said.items()})
        self.committed.update(self.commits[-1])
        self.metadata.update({place: metadata for place, (_, metadata) in said.items()})

    async def fetch_committed_offsets(self, partitions):
        return {
            place: OffsetAndMetadata(self.committed[place], self.metadata[place])
            for place in partitions
            if place in self.committed
        }

    def pause(self, *partitions) -> None:
        self.paused.update(partitions)

    def resume(self, *partitions) -> None:
        self.paused.difference_update(partitions)
        self.news.set()

    def assignment(self):
        return set(self.owned)

    def highwater(self, partition):
        return len(self.logs[partition])

    async def topics(self):
        return {"t"}
