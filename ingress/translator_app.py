"""Wires the translator. Law: wires and nothing else."""

from __future__ import annotations

from infra.kafka.topics import epoch
from infra.plugins import load
from infra.role import Parts, Role
from infra.settings import Settings
from ingress.seen import SeenMarks
from ingress.sources.source import Source
from ingress.touches import Touches
from ingress.translator import Translator
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES

GROUP = "hookline.translator"


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


def build_app(settings: Settings, parts: Parts | None = None) -> TranslatorRole:
    """The role."""
    return TranslatorRole(settings, parts)
