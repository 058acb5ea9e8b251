"""Wires the hydrator and the analyst. Law: wires and nothing else."""

from __future__ import annotations

from infra.crm.vendors import connect
from infra.kafka.topics import epoch
from infra.plugins import load
from infra.role import Parts, Role
from infra.set_aside import SetAside
from infra.settings import Settings
from llm_gateway.gateway import Gateway
from processors.analyses.analysis import Analysis
from processors.analyst import Analyst
from processors.hydrator import Hydrator
from processors.match_store import MatchStore
from processors.set_aside_emitter import Emitter
from processors.state import PostgresAnalystState, PostgresHydratorState
from schemas.record import MAX_SNAPSHOT_BYTES
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, INSIGHTS, RECORDS

HYDRATOR_GROUP = "hookline.hydrator"
HYDRATOR_BULK_GROUP = "hookline.hydrator.bulk"
ANALYST_GROUP = "hookline.analyst"
MOST_CHANGES = 200
"""Messages of one call: two batch reads of HubSpot, one of Salesforce."""
ENVELOPE_BYTES = 4_096
"""What sealing and headers add to a message, and room."""
MOST_SNAPSHOTS = 100
"""Messages of one call: a snapshot may weigh 256 KB, and costs a model's time."""


class HydratorRole(Role):
    """Two consumer groups, so that an import never stands before live traffic, and the emitter of what was set aside."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(
            settings, "hydrator", topics=[CHANGES, CHANGES_BULK, RECORDS, DEAD_LETTERS], parts=parts, uses_redis=False
        )

    async def setup(self) -> None:
        """Wire."""
        clients = connect(self.settings)
        for client in clients.values():
            self.closing(client.close)
        registry = self.parts.registry
        set_aside = SetAside(self.parts.engine)
        hydrator = Hydrator(
            codec=self.codec,
            publisher=self.publisher,
            state=PostgresHydratorState(self.parts.engine),
            clients=clients,
            accounts=self.parts.directory,
            set_aside=set_aside,
            fingerprint=self.parts.keyring.fingerprint,
            # A broker that takes less than our cap still takes every snapshot.
            max_snapshot_bytes=min(MAX_SNAPSHOT_BYTES, self.settings.kafka_max_message_bytes - ENVELOPE_BYTES),
            disconnect=registry.disconnect,
        )
        window = self.settings.coalesce_window_seconds
        self.pump([CHANGES], HYDRATOR_GROUP, hydrator.on(CHANGES), max_batch=MOST_CHANGES, cooldown=window)
        self.pump(
            [CHANGES_BULK],
            HYDRATOR_BULK_GROUP,
            hydrator.on(CHANGES_BULK),
            max_batch=MOST_CHANGES,
            cooldown=window,
            concurrency=2,
        )
        self.background(Emitter(set_aside, self.publisher).run, "set-aside")


class AnalystRole(Role):
    """One consumer group over `crm.records`."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(settings, "analyst", topics=[RECORDS, INSIGHTS, CHANGES, DEAD_LETTERS], parts=parts)

    async def setup(self) -> None:
        """Wire."""
        gateway = Gateway(self.settings, self.parts.redis, self.parts.engine)
        await gateway.start()
        self.closing(gateway.stop)
        keyring = self.parts.keyring
        analyst = Analyst(
            codec=self.codec,
            publisher=self.publisher,
            state=PostgresAnalystState(self.parts.engine),
            keys=keyring.for_records,
            fingerprint=keyring.fingerprint,
            gateway=gateway,
            analyses=load("processors.analyses", Analysis, self.settings.analyses),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            lookalikes=MatchStore(self.parts.engine, keyring),
            set_aside=SetAside(self.parts.engine),
            epoch=await epoch(self.parts.engine, RECORDS),
            generation=self.settings.generation,
        )
        self.pump([RECORDS], ANALYST_GROUP, analyst.handle, max_batch=MOST_SNAPSHOTS)


def build_hydrator(settings: Settings, parts: Parts | None = None) -> HydratorRole:
    """The hydrator's role."""
    return HydratorRole(settings, parts)


def build_analyst(settings: Settings, parts: Parts | None = None) -> AnalystRole:
    """The analyst's role."""
    return AnalystRole(settings, parts)
