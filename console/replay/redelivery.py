"""A replay from `crm.insights`: the newest insight of each record once more to the destinations.

Law: insights go as they are, sealed as they were, onto the topic of redriven insights: on the compacted one a newer insight
could be lost behind them. A destination writes what it lacks and finds everything else stale. No model and no CRM is asked
by it, but for what a destination writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from console.replay.feed import Feed
from console.replay.index import Item
from console.replay.snapshots import Fetched
from infra.kafka.broker import Publisher
from infra.kafka.codec import Outgoing
from infra.kafka.letters import DESTINATION
from infra.keyring import Keyring, Undecryptable, key_id_of
from processors.replay.seams import Tally
from schemas.topics import INSIGHTS_REDRIVEN


class Redelivery:
    """See `console.replay.runner.Work`."""

    grouped = False
    wrote = False

    def __init__(self, feed: Feed, publisher: Publisher, keyring: Keyring, tally: Tally, destination: str) -> None:
        self._feed = feed
        self._publisher = publisher
        self._keyring = keyring
        self._tally = tally
        self._destination = destination

    async def fetch(self, items: Sequence[Item]) -> Fetched:
        """See Work."""
        return await self._feed.fetch(items)

    async def handle(self, fetched: Fetched) -> None:
        """See Work."""
        given = [(item, raw) for item, raw in fetched if raw is not None and raw.value]
        keys = await self._keyring.by_id({_key_id(raw.value) for _, raw in given if raw.value})
        outgoing = []
        for item, raw in given:
            if raw.value is None or _key_id(raw.value) not in keys:
                continue
            headers = [(name, value) for name, value in raw.headers if name != DESTINATION]
            if self._destination:
                headers.append((DESTINATION, self._destination.encode()))
            outgoing.append(Outgoing(raw.key or b"", raw.value, headers, str(item.ref).encode()))
        await self._publisher.publish_sealed(INSIGHTS_REDRIVEN, outgoing)
        self._tally("erased", len(given) - len(outgoing))
        self._tally("redelivered", len(outgoing))

    async def settle(self) -> None:
        """See Work: nothing is left."""


def _key_id(value: bytes) -> str:
    try:
        return key_id_of(value)
    except Undecryptable:
        return ""
