"""Which of a range's messages a replay handles: the newest of each record that is meant.

Law: reads keys, and payloads only where a delivery hides its records in one. The same range gives the same items in the
same order, whoever reads it and when, as long as the topic still holds them: a replay that was killed goes on by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer

from console.reading import owner, ranges_of, raw_range
from console.replay.filter import Filter
from infra.kafka.raw import Raw
from schemas.change import Change
from schemas.record import RecordRef
from schemas.topics import DELIVERIES, INSIGHTS

PAGE = 100
"""Records of one call, and of one batch read of HubSpot."""
WINDOW = 2_000
"""Records that are put in order by account and kind, so that a page is one batch read; a crash repeats at most so many."""


@dataclass(frozen=True, slots=True)
class Item:
    """One message, and the record for which it is handled."""

    partition: int
    offset: int
    ref: RecordRef
    change: Change | None = None
    """For a refresh: what is to be published."""


@dataclass(frozen=True, slots=True)
class Index:
    """What a range comes to."""

    messages: int
    """That are meant, before coalescing."""
    records: int
    items: tuple[Item, ...]
    """In the order in which they are handled. More than `records` where a record's insights are several."""

    def after(self, committed: Mapping[int, int]) -> tuple[Item, ...]:
        """What is left when offsets below these were handled."""
        return tuple(item for item in self.items if item.offset >= committed.get(item.partition, 0))


Decode = Callable[[Sequence[Raw]], Awaitable[Sequence[tuple[Raw, Change]]]]
"""Changes that come of a page of messages; see `console.replay.refresh`."""


async def resolve(consumer: AIOKafkaConsumer, topic: str, wanted: Filter) -> dict[int, range]:
    """The offsets that exist now and are meant. Raises KafkaError."""
    return await ranges_of(
        consumer,
        topic,
        partitions=None if wanted.partition is None else [wanted.partition],
        start=wanted.start,
        stop=wanted.stop,
        since=wanted.since,
        until=wanted.until,
    )


async def build(
    consumer: AIOKafkaConsumer,
    topic: str,
    ranges: Mapping[int, range],
    wanted: Filter,
    decode: Decode | None = None,
    *,
    only: frozenset[RecordRef] | None = None,
) -> Index:
    """Read a range once. `only`: no other records, where keys tell them. Raises KafkaError, and what `decode` raises."""
    newest: dict[tuple[RecordRef, str], Item] = {}
    messages = 0
    hidden = topic == DELIVERIES.name
    selection = wanted.selection(by_key=not hidden)
    async for page in raw_range(consumer, topic, ranges, selection=selection):
        live = [raw for raw in page if raw.value is not None]
        if decode is not None:
            named = [(raw, change) for raw, change in await decode(live) if wanted.takes(change.ref)]
            for raw, change in named:
                _keep(newest, Item(raw.partition, raw.offset, change.ref, change))
            # Keys of changes have told already who is meant; a delivery's tells the tenant alone.
            messages += len({(raw.partition, raw.offset) for raw, _ in named}) if hidden else len(live)
            continue
        for raw in live:
            tenant, account, object_, record = owner(raw)
            analysis = (raw.key or b"").decode().rpartition("/")[2] if topic == INSIGHTS.name else ""
            ref = RecordRef(tenant, account, object_, record)
            meant = not analysis or not wanted.analyses or analysis in wanted.analyses
            if record and meant and (only is None or ref in only):
                messages += 1
                _keep(newest, Item(raw.partition, raw.offset, ref), analysis)
    items = sorted(newest.values(), key=lambda item: (item.partition, item.offset))
    return Index(messages, len({item.ref for item in items}), tuple(items))


def _keep(newest: dict[tuple[RecordRef, str], Item], item: Item, analysis: str = "") -> None:
    there = newest.get((item.ref, analysis))
    newest[item.ref, analysis] = item if there is None else _stronger(there, item)


def _stronger(there: Item, item: Item) -> Item:
    """The later place; of two changes the later one, but nothing undoes an erasure."""
    late = max(there, item, key=lambda each: (each.partition, each.offset))
    if late.change is None or there.change is None or item.change is None:
        return late
    change = max(there.change, item.change, key=lambda each: (each.kind == "erased", each.occurred_at))
    return Item(late.partition, late.offset, late.ref, change)


def windows(
    items: Sequence[Item], *, grouped: bool, size: Callable[[], int] = lambda: PAGE
) -> Iterator[tuple[list[list[Item]], Sequence[Item]]]:
    """Pages to handle, and what is finished with them. Grouped: a page is of one account and kind of record, up to PAGE;
    otherwise as many as `size()` says when its turn comes.
    """
    start = 0
    while not grouped and start < len(items):
        page = list(items[start : start + size()])
        start += len(page)
        yield [page], page
    for start in range(0, len(items) if grouped else 0, WINDOW):
        window = items[start : start + WINDOW]
        groups: dict[tuple[str, str], list[Item]] = {}
        for item in window:
            groups.setdefault((item.ref.account, item.ref.object), []).append(item)
        pages = [group[at : at + PAGE] for group in groups.values() for at in range(0, len(group), PAGE)]
        yield pages, window
