"""The index of `crm.dead-letters` in Postgres: which letters there are, and what was done about each.

Law: the topic is the truth. The index follows it, a page at a time, whenever somebody asks; it holds no content and no
original. A letter is **open** as long as it lies on the topic (30 days) and was neither redriven nor discarded. One whose
redrive failed again is another letter, with the next attempt.

Pages of a partition are written in the order of their offsets and each at once, from behind the last one that is indexed: so
several may catch up at the same time, and what is indexed never has a hole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from console.dead_letters.filter import IS_OPEN, Filter, LetterId
from console.reading import owner, partitions_of, raw_range, read, reader
from infra.database.tables import dead_letters as table
from infra.kafka.codec import Codec, Received
from infra.kafka.raw import Raw
from infra.kafka.topics import epoch
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.dead_letter import Cause, DeadLetter, Kind, kind_of
from schemas.topics import DEAD_LETTERS

NEAR = 50
"""Letters that lie no further apart are read in one go."""
_DETAIL = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """A letter as the index has it."""

    id: LetterId
    at: datetime
    tenant: str
    account: str
    object: str
    record_id: str
    stage: str
    cause: str
    detail: str
    attempt: int
    original_topic: str
    redriven_at: datetime | None
    redrives: int
    discarded_at: datetime | None
    handled_by: str

    @property
    def state(self) -> str:
        """`open`, `redriven` or `discarded`."""
        return "discarded" if self.discarded_at else "redriven" if self.redriven_at else "open"

    @property
    def kind(self) -> Kind:
        """Whose it is to mend."""
        return kind_of(self.cause)


@dataclass(frozen=True, slots=True)
class Count:
    """Letters of one cause at one stage."""

    cause: str
    stage: str
    original_topic: str
    letters: int
    oldest: datetime
    newest: datetime

    @property
    def kind(self) -> Kind:
        """Whose it is to mend."""
        return kind_of(self.cause)


class Index:
    """Methods raise what the database raises, those that read the topic KafkaError and Unavailable too."""

    def __init__(self, settings: Settings, engine: AsyncEngine, codec: Codec) -> None:
        self._settings = settings
        self._engine = engine
        self._codec = codec
        self._epoch: int | None = None

    async def epoch(self) -> int:
        """Of the topic: offsets mean something only within it."""
        if self._epoch is None:
            self._epoch = await epoch(self._engine, DEAD_LETTERS)
        return self._epoch

    async def catch_up(self) -> int:
        """Index what came since the last time, and forget what the topic no longer holds; returns how many letters are new."""
        here = await self.epoch()
        added = 0
        async with reader(self._settings) as consumer:
            partitions = await partitions_of(consumer, DEAD_LETTERS.name)
            if not partitions:
                return 0
            begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            known = await self._settle({p.partition: range(begins[p], ends[p]) for p in partitions}, here)
            ranges = {p.partition: range(known[p.partition], ends[p]) for p in partitions}
            async for page in raw_range(consumer, DEAD_LETTERS.name, ranges):
                await self._add(page, here)
                added += len(page)
        return added

    async def counts(self, chosen: Filter) -> list[Count]:
        """By cause, stage and topic; most first."""
        columns = (table.c.cause, table.c.stage, table.c.original_topic)
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                sa.select(*columns, sa.func.count(), sa.func.min(table.c.at), sa.func.max(table.c.at))
                .where(table.c.epoch == await self.epoch(), chosen.where())
                .group_by(*columns)
                .order_by(sa.func.count().desc(), *columns)
            )
            return [Count(*row) for row in rows]

    async def entries(self, chosen: Filter, limit: int) -> list[Entry]:
        """The newest first."""
        return await self._entries(chosen.where(), limit)

    async def entry(self, letter: LetterId) -> Entry | None:
        """One, or None when the topic holds no such letter."""
        found = await self._entries(
            sa.and_(table.c.partition == letter.partition, table.c.letter_offset == letter.offset), 1
        )
        return found[0] if found else None

    async def ids(self, chosen: Filter) -> list[LetterId]:
        """All that match, oldest first: what matches later is not among them, so acting on them comes to an end."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                sa.select(table.c.partition, table.c.letter_offset)
                .where(table.c.epoch == await self.epoch(), chosen.where())
                .order_by(table.c.at, table.c.partition, table.c.letter_offset)
            )
            return [LetterId(*row) for row in rows]

    async def discard(self, letters: Sequence[LetterId], who: str, *, undo: bool = False) -> int:
        """Mark open letters as discarded, or discarded ones as open again; returns how many. Harmless twice."""
        async with self._engine.begin() as connection:
            done = await connection.execute(
                sa.update(table)
                .where(
                    among(letters),
                    table.c.epoch == await self.epoch(),
                    table.c.discarded_at.is_not(None) if undo else IS_OPEN,
                )
                .values(discarded_at=None if undo else sa.func.now(), handled_by=who)
            )
            return done.rowcount

    async def lock(
        self, connection: AsyncConnection, letters: Sequence[LetterId], *, again: bool = False
    ) -> list[LetterId]:
        """Those of `letters` that are open (with `again`: not discarded) and that nobody else is redriving this moment.

        They are the caller's for the length of its transaction.
        """
        rows = await connection.execute(
            sa.select(table.c.partition, table.c.letter_offset)
            .where(
                among(letters),
                table.c.epoch == await self.epoch(),
                table.c.discarded_at.is_(None) if again else IS_OPEN,
            )
            .order_by(table.c.at, table.c.partition, table.c.letter_offset)
            .with_for_update(skip_locked=True)
        )
        return [LetterId(*row) for row in rows]

    async def redriven(self, connection: AsyncConnection, letters: Sequence[LetterId], who: str) -> None:
        """Note that these were published again."""
        if letters:
            await connection.execute(
                sa.update(table)
                .where(among(letters), table.c.epoch == await self.epoch())
                .values(redriven_at=sa.func.now(), redrives=table.c.redrives + 1, handled_by=who)
            )

    async def letters(
        self, consumer: AIOKafkaConsumer, wanted: Iterable[LetterId]
    ) -> dict[LetterId, Received[DeadLetter]]:
        """The letters themselves, from the topic; those that cannot be read are absent."""
        found: dict[LetterId, Received[DeadLetter]] = {}
        for ranges in _runs(wanted):
            async for page in raw_range(consumer, DEAD_LETTERS.name, ranges):
                opened, _ = await self._codec.open(DEAD_LETTERS, page)
                found.update({LetterId(each.partition, each.offset): each for each in opened})
        return found

    async def _entries(self, where: sa.ColumnElement[bool], limit: int) -> list[Entry]:
        columns = [
            table.c[name]
            for name in (
                "at", "tenant", "account", "object", "record_id", "stage", "cause", "detail", "attempt", "original_topic",
                "redriven_at", "redrives", "discarded_at", "handled_by",
            )
        ]  # fmt: skip
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                sa.select(table.c.partition, table.c.letter_offset, *columns)
                .where(table.c.epoch == await self.epoch(), where)
                .order_by(table.c.at.desc(), table.c.partition, table.c.letter_offset.desc())
                .limit(limit)
            )
            return [Entry(LetterId(*row[:2]), *row[2:]) for row in rows]

    async def _settle(self, there: Mapping[int, range], here: int) -> dict[int, int]:
        """Drop rows of letters that are gone; returns by partition the first offset that is not indexed."""
        async with self._engine.begin() as connection:
            rows = await connection.execute(
                sa.select(table.c.partition, sa.func.max(table.c.letter_offset))
                .where(table.c.epoch == here)
                .group_by(table.c.partition)
            )
            last = {partition: int(offset) for partition, offset in rows}
            known = {}
            for partition, span in there.items():
                # An index that is ahead of its topic speaks of one that was deleted and made anew.
                gone = last.get(partition, -1) >= span.stop
                known[partition] = span.start if gone else max(span.start, last.get(partition, -1) + 1)
                await connection.execute(
                    sa.delete(table).where(
                        table.c.epoch == here,
                        table.c.partition == partition,
                        sa.true() if gone else table.c.letter_offset < span.start,
                    )
                )
        return known

    async def _add(self, page: Sequence[Raw], here: int) -> None:
        opened, unreadable = await self._codec.open(DEAD_LETTERS, page)
        rows = [_row(each, here) for each in opened]
        rows += [_unreadable_row(raw, cause, detail, here) for raw, cause, detail in unreadable]
        if rows:
            async with self._engine.begin() as connection:
                await connection.execute(insert(table).on_conflict_do_nothing(), rows)


def among(letters: Sequence[LetterId]) -> sa.ColumnElement[bool]:
    """A condition on the index: these letters."""
    wanted = (
        sa.func.unnest(
            sa.cast([letter.partition for letter in letters], sa.ARRAY(sa.Integer)),
            sa.cast([letter.offset for letter in letters], sa.ARRAY(sa.BigInteger)),
        )
        .table_valued("p", "o", name="wanted")
        .render_derived()
    )
    return sa.tuple_(table.c.partition, table.c.letter_offset).in_(sa.select(wanted.c.p, wanted.c.o))


def _row(received: Received[DeadLetter], here: int) -> dict[str, Any]:
    letter = received.payload
    return {
        "epoch": here,
        "partition": received.partition,
        "letter_offset": received.offset,
        "at": letter.at,
        "tenant": letter.tenant,
        "account": letter.account or "",
        "object": letter.object or "",
        "record_id": letter.record_id or "",
        "stage": letter.stage,
        "cause": letter.cause.value,
        "detail": letter.detail[:_DETAIL].replace("\0", ""),
        "attempt": letter.attempt,
        "original_topic": letter.original_topic,
        "original_partition": letter.original_partition,
        "original_offset": letter.original_offset,
    }


def _unreadable_row(raw: Raw, cause: Cause, detail: str, here: int) -> dict[str, Any]:
    tenant, account, object_, record = (part.replace("\0", "") for part in owner(raw))
    return {
        "epoch": here,
        "partition": raw.partition,
        "letter_offset": raw.offset,
        "at": datetime.fromtimestamp(raw.timestamp / 1000, UTC),
        "tenant": tenant,
        "account": account,
        "object": object_,
        "record_id": record,
        "stage": "dead-letters",
        "cause": cause.value,
        "detail": f"the letter itself cannot be read: {detail}"[:_DETAIL],
        "attempt": 1,
        "original_topic": "",
        "original_partition": 0,
        "original_offset": 0,
    }


def _runs(wanted: Iterable[LetterId]) -> Iterable[dict[int, range]]:
    """Offsets that lie near one another as ranges, at most one a partition in each round."""
    runs: defaultdict[int, list[range]] = defaultdict(list)
    for letter in sorted(set(wanted)):
        mine = runs[letter.partition]
        if mine and letter.offset - mine[-1].stop < NEAR:
            mine[-1] = range(mine[-1].start, letter.offset + 1)
        else:
            mine.append(range(letter.offset, letter.offset + 1))
    for number in range(max((len(mine) for mine in runs.values()), default=0)):
        yield {partition: mine[number] for partition, mine in runs.items() if number < len(mine)}


async def of_tenant(settings: Settings, keyring: Keyring, tenant: str) -> list[DeadLetter]:
    """All dead letters of a tenant that lie on the topic, oldest first per partition, whatever was done about them."""
    return [
        message.payload
        async for message in read(settings, Codec(keyring, "hookline/console"), DEAD_LETTERS)
        if isinstance(message, Received) and message.payload.tenant == tenant
    ]
