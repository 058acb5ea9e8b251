"""Wires the translator. Law: wires and nothing else."""

from __future__ import annotations

import asyncio

from infra.kafka.topics import epoch
from infra.plugins import load
from infra.role import Parts, Role
from infra.settings import Settings
from infra.unavailable import as_unavailable
from ingress.seen import SeenMarks
from ingress.sources.source import Source
from ingress.touches import Touches
from ingress.translator import Translator
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES

GROUP = "hookline.translator"
FORGET_EVERY_SECONDS = 3600.0


class TranslatorRole(Role):
    """One consumer group over `crm.deliveries`."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(settings, "translator", topics=[DELIVERIES, CHANGES, CHANGES_BULK, DEAD_LETTERS], parts=parts)

    async def setup(self) -> None:
        """Wire."""
        touches = Touches(self.parts.registry)
        await touches.start()
        self.closing(touches.stop)
        translator = Translator(
            opener=self.codec,
            out=self.publisher,
            known=self.parts.directory,
            sources=load("ingress.sources", Source),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            marks=SeenMarks(self.parts.redis),
            times=touches,
            epoch=await epoch(self.parts.engine, DELIVERIES),
        )
        self.pump([DELIVERIES], GROUP, translator.handle)
        self.background(self._forget_deliveries, "forget-deliveries")

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
