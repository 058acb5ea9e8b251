"""The role `sinks`: one pump and one dispatcher per enabled destination.

Law: wires, nothing else. A destination for one CRM's insights reads on while no account of that CRM is known, for what lies there
must not wait in front of the first one's; but seldom, for none of it is its own.
"""

from __future__ import annotations

import asyncio

from infra.kafka.pump import Pump
from infra.plugins import load
from infra.role import Parts, Role
from infra.set_aside import SetAside
from infra.settings import Settings
from schemas.topics import DEAD_LETTERS, INSIGHTS, INSIGHTS_REDRIVEN
from sinks.destinations.destination import DestinationPlugin, Needs
from sinks.dispatcher import Dispatcher, record_of

LOOK_SECONDS = 1.0
"""How often it is asked whether a CRM has accounts, which the directory knows within a second itself."""
MAX_BATCH = 500
CONCURRENCY = 4
CRM_CONCURRENCY = 8
"""Calls to a CRM's destination at once: rows of one that waits for the account's limit go with those of the others."""


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
        self._of_crm: list[tuple[str, Pump]] = []

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
            pump = self.pump(
                [INSIGHTS, INSIGHTS_REDRIVEN],
                group_of(name),
                dispatcher.handle,
                key_of=record_of,
                stage=dispatcher.stage,
                max_batch=MAX_BATCH,
                concurrency=CRM_CONCURRENCY if destination.crm else CONCURRENCY,
            )
            self.sinks.append(pump)
            if destination.crm is not None:
                self._of_crm.append((destination.crm, pump))
        self.look_for_accounts()
        self.background(self._follow_accounts, "accounts-of-destinations")

    def look_for_accounts(self) -> None:
        """Have the pumps hurry whose CRM has an account, and no other."""
        known = {account.crm for account in self.parts.directory.accounts().values()}
        for crm, pump in self._of_crm:
            pump.be_patient(crm not in known)

    async def _follow_accounts(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look_for_accounts()


def build_app(settings: Settings, parts: Parts | None = None) -> Sinks:
    """The role, ready to start; `parts` are shared with other roles of the process where given."""
    return Sinks(settings, parts)
