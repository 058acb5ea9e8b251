"""Wires the hydrator and the analyst. Law: wires and nothing else."""

from __future__ import annotations

from infra.crm.vendors import connect
from infra.kafka.downstream import Downstream, Reader
from infra.kafka.giving_way import GivingWay
from infra.kafka.pump import DOWNSTREAM
from infra.kafka.topics import epoch
from infra.plugins import load
from infra.privacy.eraser import Eraser
from infra.privacy.people import People
from infra.privacy.runner import Runner, TranslatorBacklog
from infra.role import Parts, Role
from infra.set_aside import SetAside
from infra.settings import Settings
from llm_gateway.routing import chosen
from processors.analyses.analysis import Analysis
from processors.analyst import Analyst, AsInstalled
from processors.batched import Batched
from processors.hydrator import Hydrator
from processors.match_store import MatchStore
from processors.missed import PostgresMissed
from processors.redriven import PostgresRedriven
from processors.replay.gateways import Gateways
from processors.replay.promotions import Promotions
from processors.set_aside_emitter import Emitter
from processors.state import PostgresAnalystState, PostgresHydratorState
from schemas.record import MAX_SNAPSHOT_BYTES
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, INSIGHTS, RECORDS

HYDRATOR_GROUP = "hookline.hydrator"
HYDRATOR_BULK_GROUP = "hookline.hydrator.bulk"
ANALYST_GROUP = "hookline.analyst"
SINK_GROUP = "hookline.sink.{}"
"""By the destination's name; `sinks.app` says so, and a test holds the two together."""
MOST_CHANGES = 500
"""Messages of one call: five batch reads of HubSpot, three of Salesforce; smaller ones would not fill them by kind of record."""
MOST_BULK_CHANGES = 200
"""Of a bulk call: what it publishes comes to the analyst at one go, where others wait behind it."""
BULK_CALLS = 4
"""Of those at once, three of one tenant's: what their records hang on is little for a batch read, and goes in one where several wait."""
ENVELOPE_BYTES = 4_096
"""What sealing and headers add to a message, and room."""
MOST_SNAPSHOTS = 25
"""Messages of one call: a snapshot may weigh 256 KB, and what one call does at one go keeps everybody else's waiting."""


class HydratorRole(Role):
    """Two consumer groups, so that an import never stands before live traffic, the emitter of what was set aside, and the eraser."""

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
        way = GivingWay()
        self.background(way.run, "giving-way")
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
            people=People(self.parts.engine, self.parts.keyring),
            missed=PostgresMissed(self.parts.engine),
            redriven=PostgresRedriven(self.parts.engine),
            way=way,
        )
        window = self.settings.coalesce_window_seconds
        self.pump([CHANGES], HYDRATOR_GROUP, hydrator.on(CHANGES), max_batch=MOST_CHANGES, cooldown=window)
        bulk = self.pump(
            [CHANGES_BULK],
            HYDRATOR_BULK_GROUP,
            hydrator.on(CHANGES_BULK),
            max_batch=MOST_BULK_CHANGES,
            cooldown=window,
            concurrency=BULK_CALLS,
        )
        readers = [
            Reader(ANALYST_GROUP, RECORDS.name, vital=True),
            *(Reader(SINK_GROUP.format(name), INSIGHTS.name) for name in self.settings.destinations),
        ]
        downstream = Downstream(
            self.settings,
            readers,
            pause=lambda: bulk.pause(DOWNSTREAM),
            resume=lambda: bulk.resume(DOWNSTREAM),
            stands=lambda: (bulk.taken_in, bulk.held),
        )
        self.background(downstream.run, "downstream")
        self.background(Emitter(set_aside, self.publisher).run, "set-aside")
        eraser = Eraser(
            self.parts.engine,
            self.parts.keyring,
            self.publisher,
            accounts=self.parts.directory,
            clients=clients,
            backlog=TranslatorBacklog(self.settings),
            settle_seconds=self.settings.privacy_settle_seconds,
        )
        self.background(Runner(eraser).run, "privacy")


class AnalystRole(Role):
    """One consumer group over `crm.records`."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(settings, "analyst", topics=[RECORDS, INSIGHTS, CHANGES, DEAD_LETTERS], parts=parts)

    async def setup(self) -> None:
        """Wire."""
        gateways = Gateways(self.settings, self.parts.redis, self.parts.engine)
        self.closing(gateways.stop)
        keyring = self.parts.keyring
        installed = load("processors.analyses", Analysis, self.settings.analyses)  # type: ignore[type-abstract]  # the protocol is only asked for its members
        promotions = Promotions(self.parts.engine, AsInstalled(installed, self.settings.generation), gateways)
        await promotions.refresh()
        way = GivingWay()
        self.background(way.run, "giving-way")
        gateway = await gateways.open()
        batched = Batched(self.settings, self.parts.engine, self.parts.redis, keyring, gateway)
        if gateway.batch_providers():
            self.background(batched.collector.run, "batches")
        analyst = Analyst(
            codec=self.codec,
            publisher=self.publisher,
            state=PostgresAnalystState(self.parts.engine),
            keys=keyring.for_records,
            fingerprint=keyring.fingerprint,
            gateway=gateway,
            analyses=installed,
            rulebook=promotions.current,
            lookalikes=MatchStore(self.parts.engine, keyring),
            set_aside=SetAside(self.parts.engine),
            epoch=await epoch(self.parts.engine, RECORDS),
            generation=self.settings.generation,
            way=way,
            withdraw=batched.withdraw if self.settings.model_batch else None,
            rest_seconds=rest_seconds(self.settings),
        )
        self.background(promotions.run, "promotions")
        self.pump([RECORDS], ANALYST_GROUP, analyst.handle, max_batch=MOST_SNAPSHOTS)


def rest_seconds(settings: Settings) -> float:
    """How long the analyst's questions about somebody's change may rest."""
    # The offline rules cost nothing: what they say need not wait.
    return 0.0 if chosen(settings) == "offline" else settings.question_rest_seconds


def build_hydrator(settings: Settings, parts: Parts | None = None) -> HydratorRole:
    """The hydrator's role."""
    return HydratorRole(settings, parts)


def build_analyst(settings: Settings, parts: Parts | None = None) -> AnalystRole:
    """The analyst's role."""
    return AnalystRole(settings, parts)
