"""The role `sinks`: one pump and one dispatcher per enabled destination.

Law: wires, nothing else.
"""

from __future__ import annotations

from infra.kafka.pump import Pump
from infra.plugins import load
from infra.role import Parts, Role
from infra.set_aside import SetAside
from infra.settings import Settings
from schemas.topics import DEAD_LETTERS, INSIGHTS, INSIGHTS_REDRIVEN
from sinks.destinations.destination import DestinationPlugin, Needs
from sinks.dispatcher import Dispatcher, record_of

MAX_BATCH = 500
CONCURRENCY = 4


def group_of(destination: str) -> str:
    """The consumer group of a destination."""
    return f"hookline.sink.{destination}"


class Sinks(Role):
    """See RoleApp."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(
            settings, "sinks", topics=[INSIGHTS, INSIGHTS_REDRIVEN, DEAD_LETTERS], parts=parts, uses_redis=False
        )
        self._plugins = load("sinks.destinations", DestinationPlugin, settings.destinations)  # type: ignore[type-abstract]  # the protocol is only asked for its members
        self.sinks: list[Pump] = []

    async def setup(self) -> None:
        """See Role."""
        parts = self.parts

        needs = Needs(
            settings=self.settings,
            engine=parts.engine,
            accounts=parts.directory,
            fingerprint=parts.keyring.fingerprint,
            touch=parts.registry.touch,
            disconnect=parts.registry.disconnect,
        )
        for name, plugin in self._plugins.items():
            destination = plugin.build(needs)
            self.closing(destination.close)
            dispatcher = Dispatcher(destination, self.codec, self.publisher, SetAside(parts.engine))
            self.sinks.append(
                self.pump(
                    [INSIGHTS, INSIGHTS_REDRIVEN],
                    group_of(name),
                    dispatcher.handle,
                    key_of=record_of,
                    stage=dispatcher.stage,
                    max_batch=MAX_BATCH,
                    concurrency=CONCURRENCY,
                )
            )


def build_app(settings: Settings, parts: Parts | None = None) -> Sinks:
    """The role, ready to start; `parts` are shared with other roles of the process where given."""
    return Sinks(settings, parts)
