"""What was promised, held against what is there: lost, twice, out of order.

Law: the truth is the sandbox's memory and journal. `settled` says when a changed record is that; one that is not in time is
**lost**, unless a dead letter of this round names it. So is every acknowledged delivery that is not on `crm.deliveries`.
**Twice** and **out of order**: see `journal_tail` and `audit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from console.reading import partitions_of
from infra.kafka.codec import Codec
from infra.kafka.connection import options
from infra.plugins import load
from processors.analyses.analysis import Analysis
from schemas.dead_letter import DeadLetter
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import DEAD_LETTERS, DELIVERIES, RECORDS, Topic
from tests.faults import audit
from tests.faults.journal_tail import JournalTail, Key
from tests.faults.settled import Made, Seen, why_unsettled
from tests.faults.stand import TENANT, Stand

_MOST_TOLD = 8


@dataclass
class Verdict:
    """What was found in one round."""

    acknowledged: int = 0
    """Events that our door acknowledged."""
    records: int = 0
    """Records that were changed."""
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    letters: Counter[str] = field(default_factory=Counter)
    """Dead letters of the round, by cause."""
    named: int = 0
    """Records that are not settled and have a dead letter."""
    aside: int = 0
    """Rows that still wait in `set_aside`."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.twice or self.out_of_order)

    def told(self) -> str:
        """What is wrong, in a few lines."""
        lines = []
        for name, found in (("lost", self.lost), ("twice", self.twice), ("out of order", self.out_of_order)):
            lines += [f"  {name}: {each}" for each in found[:_MOST_TOLD]]
            if len(found) > _MOST_TOLD:
                lines.append(f"  {name}: and {len(found) - _MOST_TOLD} more")
        return "\n".join(lines)


class Judge:
    """One per run."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self.journal = JournalTail(stand.crm.data / "journal.jsonl")
        self._codec = Codec(stand.keyring, "hookline/faults")
        self._analyses: Mapping[str, Analysis] = load("processors.analyses", Analysis, stand.settings.analyses)
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: dict[str, list[TopicPartition]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._snapshots: dict[Key, dict[int, Made]] = defaultdict(dict)
        self._last: dict[Key, tuple[int, RecordSnapshot]] = {}
        self._letters: list[tuple[Key | None, str]] = []
        self._audit_since = 0
        self._stored_before = 0

    async def open(self) -> None:
        """Before the first round."""
        await asyncio.to_thread(audit.install, self._stand)

    async def begin(self) -> None:
        """A new round. Every save is on its record now; echoes of our writes may still come."""
        # In this order: what is stored between the two is not taken for lost.
        self._stored_before = await self._stored()
        await asyncio.to_thread(self._stand.crm.call, "state")
        self.journal.begin()
        await self._read_topics()
        self._letters.clear()
        self._audit_since = await asyncio.to_thread(audit.position, self._stand)

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def quiet(self) -> str | None:
        """None when nothing more is to be expected, else what is still under way; quick."""
        state = await self._stand.crm.look("/sandbox/state")
        self.journal.read()
        if not state["idle"]:
            return "deliveries are under way"
        aside = await asyncio.to_thread(self._aside)
        if aside:
            return f"{aside} records are set aside"
        if self.journal.open_saves:
            return f"{self.journal.open_saves} saves are not on their records"
        return None

    async def verdict(self) -> Verdict:
        """Look at everything that was changed in this round."""
        await asyncio.to_thread(self._stand.crm.call, "state")
        self.journal.read()
        await self._read_topics()
        found = Verdict(acknowledged=self.journal.events, records=len(self.journal.changed))
        found.letters = Counter(cause for _, cause in self._letters)
        named = {key for key, _ in self._letters if key}
        unsettled = await self._unsettled()
        found.named = len(named & unsettled.keys())
        found.lost = [f"{'/'.join(key)}: {why}" for key, why in unsettled.items() if key not in named]
        # While an event stream flows its deliveries hide such a loss here; then the records alone show it.
        missing = self.journal.accepted - (await self._stored() - self._stored_before)
        if missing > 0:
            found.lost.append(f"{missing} acknowledged deliveries are not on {DELIVERIES.name}")
        found.twice = self.journal.twice + await asyncio.to_thread(audit.twice, self._stand, self._audit_since)
        found.out_of_order = self.journal.out_of_order + await asyncio.to_thread(
            audit.out_of_order, self._stand, self._audit_since
        )
        found.aside = await asyncio.to_thread(self._aside)
        return found

    def p95(self, since: int, until: int) -> int | None:
        """Of the saves made in between (epoch ms), in ms."""
        found = sorted(latency for at, latency in self.journal.latencies if since <= at < until)
        return found[min(len(found) - 1, int(0.95 * len(found)))] if found else None

    # records

    async def _unsettled(self) -> dict[Key, str]:
        by_group: dict[tuple[str, str], list[Key]] = defaultdict(list)
        for key in self.journal.changed:
            by_group[key.account, key.object].append(key)
        rows = await asyncio.to_thread(self._rows)
        unsettled: dict[Key, str] = {}
        for (account, _), keys in by_group.items():
            truths = await self._stand.crm.acall(
                "truth", account=account, records=[[key.object, key.id] for key in keys]
            )
            for key, truth in zip(keys, truths, strict=True):
                seen = Seen(self._last.get(key), self._snapshots[key], rows.get(key, {}), self.journal.as_of(key))
                why = why_unsettled(key, truth, self.journal.changed[key].wanted, seen, self._analyses)
                if why:
                    unsettled[key] = why
        return unsettled

    def _rows(self) -> dict[Key, dict[str, dict[str, Any]]]:
        names = (
            "account",
            "object",
            "record_id",
            "analysis",
            "epoch",
            "snapshot_offset",
            "generation",
            "retracted",
            "payload",
            "model",
            "as_of",
        )
        found: dict[Key, dict[str, dict[str, Any]]] = defaultdict(dict)
        for row in self._stand.sql(f"SELECT {', '.join(names)} FROM insights WHERE tenant = %s", (TENANT,)):
            values = dict(zip(names, row, strict=True))
            found[Key(*row[:3])][row[3]] = values
        return found

    def _aside(self) -> int:
        return self._stand.sql("SELECT count(*) FROM set_aside WHERE emitted_at IS NULL")[0][0]

    # topics

    async def _reader(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **options(self._stand.settings),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                metadata_max_age_ms=5_000,
            )
            await consumer.start()
            # All that is read, for good: a consumer knows of no topic but those that are assigned to it.
            self._partitions = {
                topic.name: await partitions_of(consumer, topic.name) for topic in (RECORDS, DEAD_LETTERS, DELIVERIES)
            }
            assert all(self._partitions.values())
            consumer.assign([partition for partitions in self._partitions.values() for partition in partitions])
            # Of deliveries only the number counts.
            consumer.pause(*self._partitions[DELIVERIES.name])
            for name in (RECORDS.name, DEAD_LETTERS.name):
                for partition in self._partitions[name]:
                    consumer.seek(partition, self._positions.get(partition, 0))
            self._consumer = consumer
        return self._consumer

    async def _read_topics(self) -> None:
        await self._patiently(lambda: self._read(RECORDS))
        await self._patiently(lambda: self._read(DEAD_LETTERS))

    async def _patiently(self, work: Any) -> Any:
        """The brokers may just have come back."""
        for attempt in range(5):
            try:
                async with asyncio.timeout(20):
                    return await work()
            except (KafkaError, TimeoutError):
                await self.close()
                if attempt == 4:
                    raise
                await asyncio.sleep(1)
        raise AssertionError

    async def _stored(self) -> int:
        async def ask() -> int:
            consumer = await self._reader()
            ends = await consumer.end_offsets(self._partitions[DELIVERIES.name])
            return sum(ends.values())

        return await self._patiently(ask)

    async def _read(self, topic: Topic[Any]) -> None:
        consumer = await self._reader()
        partitions = self._partitions[topic.name]
        ends = await consumer.end_offsets(partitions)
        behind = [partition for partition in partitions if self._positions.get(partition, 0) < ends[partition]]
        while any(self._positions.get(partition, 0) < ends[partition] for partition in behind):
            for partition, records in (await consumer.getmany(*partitions, timeout_ms=200)).items():
                opened, failed = await self._codec.open(topic, records)
                for message in opened:
                    if topic is RECORDS:
                        self._snapshot(message.payload, message.offset)
                    else:
                        self._letter(message.payload)
                assert not [raw for raw, *_ in failed if raw.topic == DEAD_LETTERS.name], "a dead letter cannot be read"
                self._positions[partition] = records[-1].offset + 1

    def _snapshot(self, snapshot: RecordSnapshot, offset: int) -> None:
        key = Key(snapshot.account, snapshot.object, snapshot.id)
        inputs = {}
        if not snapshot.deleted:
            for name, analysis in self._analyses.items():
                if snapshot.object in analysis.objects:
                    reads = [analysis.inputs(snapshot), analysis.pieces(snapshot)]
                    read = orjson.dumps(reads, option=orjson.OPT_SORT_KEYS)
                    inputs[name] = hashlib.sha256(read).digest()
        self._snapshots[key][offset] = Made(inputs, round(snapshot.modified_at.timestamp() * 1000), snapshot.deleted)
        if key not in self._last or self._last[key][0] < offset:
            self._last[key] = offset, snapshot

    def _letter(self, letter: DeadLetter) -> None:
        key = None
        if letter.account and letter.object and letter.record_id:
            key = Key(letter.account, letter.object, letter.record_id)
        else:
            # What a bug of ours laid aside is named by its own key.
            with contextlib.suppress(ValueError):
                ref = RecordRef.parse(letter.original_key.decode(errors="replace"))
                key = Key(ref.account, ref.object, ref.id)
        self._letters.append((key, f"{letter.stage} {letter.cause.value}"))
