"""Wires the translator. Law: wires and nothing else."""

from __future__ import annotations

import asyncio

from infra.kafka.giving_way import GivingWay
from infra.kafka.pump import Pump
from infra.kafka.topics import epoch
from infra.plugins import load
from infra.redis_wire import Wire
from infra.role import Parts, Role
from infra.settings import Settings
from infra.unavailable import as_unavailable
from ingress import lanes, seen
from ingress.allowances import Allowances
from ingress.hot import HotSpots
from ingress.lanes import LocalBuckets, SharedBuckets, Slower
from ingress.pubsub.frame import SOURCE
from ingress.pubsub.store import SchemaStore, StreamStore
from ingress.seen import SeenMarks
from ingress.sources.source import Source
from ingress.touches import Touches
from ingress.translator import Translator
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES

GROUP = "hookline.translator"
FORGET_EVERY_SECONDS = 3600.0
MOST_BYTES = 256 * 1024
"""Of one call: some 700 events, which keep the event loop for tens of milliseconds and not for seconds."""
LEAST_SHARE = 0.2
"""Of the time, for who is over its rate, however busy the machine: an event costs little here, and what waits here is on no lane yet."""


class TranslatorRole(Role):
    """One consumer group over `crm.deliveries`."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(settings, "translator", topics=[DELIVERIES, CHANGES, CHANGES_BULK, DEAD_LETTERS], parts=parts)

        self._consuming: Pump | None = None

    async def setup(self) -> None:
        """Wire."""
        touches = Touches(self.parts.registry)
        await touches.start()
        self.closing(touches.stop)
        wire = Wire(self.parts.redis, [seen.SET, lanes.TAKE])
        self.closing(wire.close)
        allowances = Allowances(self.parts.engine, self.settings)
        await allowances.refresh()
        self.background(allowances.follow, "allowances")
        hot = HotSpots(self.parts.redis)
        self.background(hot.run, "hot-spots")
        way = GivingWay(least=LEAST_SHARE)
        self.background(way.run, "giving-way")
        rates = Slower(SharedBuckets(wire, allowances, LocalBuckets(allowances, self._share)), way)
        translator = Translator(
            opener=self.codec,
            out=self.publisher,
            known=self.parts.directory,
            sources=load("ingress.sources", Source),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            marks=SeenMarks(wire),
            rates=rates,
            hot=hot,
            times=touches,
            epoch=await epoch(self.parts.engine, DELIVERIES),
            demands=StreamStore(self.parts.engine),
            prepare={SOURCE: SchemaStore(self.parts.engine).prepare},
        )
        self._consuming = self.pump([DELIVERIES], GROUP, rates.slowed(translator.handle), max_batch_bytes=MOST_BYTES)
        self.background(self._forget_deliveries, "forget-deliveries")

    def _share(self) -> float:
        """This replica's part of what is to be shared: as much as it has of the topic's partitions."""
        owned = self._consuming.assigned if self._consuming else None
        return min(1.0, len(owned or ()) / self.settings.kafka_partitions)

    async def _forget_deliveries(self) -> None:
        """Deliveries become unreadable with their retention, wherever a copy of the topic may lie: their keys go."""
        while True:
            try:
                gone = await self.parts.keyring.destroy_expired()
            except Exception as error:
                if as_unavailable(error) is None:
                    raise
            else:
                if gone:
                    self.log.info("delivery_keys_destroyed", count=gone)
            await asyncio.sleep(FORGET_EVERY_SECONDS)


def build_app(settings: Settings, parts: Parts | None = None) -> TranslatorRole:
    """The role."""
    return TranslatorRole(settings, parts)
