"""Fetching the very messages that an index names, in its order.

Law: reads forward only, one partition after another; what compaction or retention took meanwhile is absent, not an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer

from console.reading import raw_range
from console.replay.index import Item
from infra.kafka.raw import Raw


class Feed:
    """One pass over the items of an index, in order."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, ranges: Mapping[int, range]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._ranges = ranges
        self._partition: int | None = None
        self._pages: AsyncIterator[list[Raw]] | None = None
        self._held: dict[int, Raw] = {}

    async def fetch(self, items: Sequence[Item]) -> list[tuple[Item, Raw]]:
        """Each item with its message, in order. Raises KafkaError; it is safe to call it again then, and only then."""
        found = []
        try:
            for item in items:
                raw = await self._one(item)
                if raw is not None:
                    found.append((item, raw))
        except BaseException:
            self._pages = None
            raise
        return found

    async def _one(self, item: Item) -> Raw | None:
        if item.partition != self._partition or self._pages is None:
            span = range(item.offset, self._ranges[item.partition].stop)
            self._partition, self._held = item.partition, {}
            self._pages = raw_range(self._consumer, self._topic, {item.partition: span})
        while True:
            for offset in [offset for offset in self._held if offset < item.offset]:
                del self._held[offset]
            if item.offset in self._held:
                return self._held[item.offset]
            if self._held:
                return None
            page = await anext(self._pages, None)
            if page is None:
                return None
            self._held = {raw.offset: raw for raw in page}
