"""What a replay's commands stand on: the parts, a consumer of the replay's own group, and the work that its topic means.

Law: wires and nothing else. The consumer belongs to the replay's group and is assigned by hand: it joins nothing, and
nobody's offsets but its own move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest

from console.replay.feed import Feed
from console.replay.filter import Filter
from console.replay.index import Decode
from console.replay.redelivery import Redelivery
from console.replay.refresh import Refresh, from_changes, from_deliveries
from console.replay.runner import Work
from console.replay.snapshots import Outside, installed, to_shadow, to_write
from console.replay.store import Replay, Replays
from console.runtime import ConsoleError, local_settings, need
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.connection import options
from infra.plugins import load
from infra.privacy.people import People
from infra.role import Parts
from infra.settings import Settings
from ingress.sources.source import Source
from processors.analyst import AsInstalled
from processors.replay.gateways import Gateways
from processors.replay.promotions import Promotions
from processors.replay.seams import CountingCodec, Tally
from schemas.topics import BY_NAME, CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, RECORDS

SOURCE = "hookline/replay"
REPLAYABLE = (DELIVERIES.name, CHANGES.name, CHANGES_BULK.name, RECORDS.name, INSIGHTS.name)
REFRESHES = frozenset({DELIVERIES.name, CHANGES.name, CHANGES_BULK.name})


@dataclass(slots=True)
class Session:
    """Open for the length of one command."""

    settings: Settings
    parts: Parts
    replays: Replays
    gateways: Gateways
    promotions: Promotions
    closing: AsyncExitStack
    people: People
    consumers: list[AIOKafkaConsumer] = field(default_factory=list)

    async def closing_consumers(self) -> None:
        """Close them before the session ends. Safe to call again."""
        consumers, self.consumers = self.consumers, []
        for each in consumers:
            await each.stop()

    async def consumer(self, group: str | None = None) -> AIOKafkaConsumer:
        """Closed with the session. Raises KafkaError."""
        made = AIOKafkaConsumer(
            **options(self.settings), group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self.consumers.append(made)
        await made.start()
        return made

    async def publisher(self) -> Publisher:
        """Stopped with the session."""
        made = Publisher(self.settings, Codec(self.parts.keyring, SOURCE), client_id="hookline-replay")
        self.closing.push_async_callback(made.stop)
        await made.start()
        return made

    def outside(self, tally: Tally) -> Outside:
        """What an analyst of a replay is wired with."""
        return Outside(self.settings, self.parts, self.gateways, self.promotions, tally)

    def decoder(self, topic: str, tally: Tally) -> Decode | None:
        """How the index learns of records; None: by key."""
        if topic not in REFRESHES:
            return None
        codec = CountingCodec(Codec(self.parts.keyring, SOURCE), tally)
        if topic != DELIVERIES.name:
            return from_changes(codec, BY_NAME[topic])
        sources = load("ingress.sources", Source)  # type: ignore[type-abstract]  # the protocol is only asked for its members
        return from_deliveries(codec, self.parts.directory, sources, tally)

    async def feed(self, topic: str, ranges: Mapping[int, range]) -> Feed:
        """Its messages in order, on a consumer of its own."""
        return Feed(await self.consumer(), topic, ranges)

    async def work(self, replay: Replay, tally: Tally) -> Work:
        """What its topic and mode mean."""
        if replay.topic in REFRESHES:
            return Refresh(self.parts.engine, self.people, await self.publisher(), tally)
        feed = await self.feed(replay.topic, replay.ranges)
        if replay.topic == INSIGHTS.name:
            return Redelivery(feed, await self.publisher(), self.parts.keyring, tally, replay.filter.destination)
        if replay.mode == "shadow":
            return await to_shadow(replay, self.outside(tally), feed)
        return await to_write(replay, self.outside(tally), feed, await self.publisher())

    async def committed(self, consumer: AIOKafkaConsumer, replay: Replay) -> dict[int, int]:
        """Offsets that an earlier run has finished, by partition."""
        found = {}
        for number in replay.ranges:
            offset = await consumer.committed(TopicPartition(replay.topic, number))
            if offset is not None:
                found[number] = int(offset)
        return found

    async def forget_group(self, replay: Replay) -> None:
        """Delete its consumer group: nothing is left on Kafka of a replay that is over. Safe to call again."""
        admin = AIOKafkaAdminClient(**options(self.settings), client_id="hookline-replay")
        try:
            await admin.start()
            # aiokafka 0.14 knows the request and gives its admin no method for it.
            await admin._send_request(DeleteGroupsRequest([replay.group]), await admin.find_coordinator(replay.group))  # noqa: SLF001 -- see above
        except KafkaError:
            # It expires by itself in a week.
            return
        finally:
            await admin.close()


@asynccontextmanager
async def session(given: Settings | None = None) -> AsyncIterator[Session]:
    """Open everything that replays need; raises ConsoleError when settings (given, or this machine's) name no servers."""
    settings = given or local_settings()
    need(settings, "kafka_url", "database_url", "redis_url", "master_keys")
    async with AsyncExitStack() as closing:
        parts = Parts(settings)
        await parts.start()
        closing.push_async_callback(parts.stop)
        gateways = Gateways(settings, parts.redis, parts.engine)
        closing.push_async_callback(gateways.stop)
        promotions = Promotions(parts.engine, AsInstalled(installed(settings), settings.generation), gateways)
        await promotions.refresh()
        people = People(parts.engine, parts.keyring)
        made = Session(settings, parts, Replays(parts.engine), gateways, promotions, closing, people)
        closing.push_async_callback(made.closing_consumers)
        yield made


def check_topic(topic: str, *, shadow: bool) -> None:
    """Raises ConsoleError for what cannot be replayed so."""
    if topic not in REPLAYABLE:
        raise ConsoleError(f"{topic} cannot be replayed: give --topic, one of {', '.join(REPLAYABLE)}")
    if shadow and topic != RECORDS.name:
        raise ConsoleError(f"a shadow is made from stored snapshots: leave --topic out, or give --topic {RECORDS.name}")


def check_filter(topic: str, wanted: Filter) -> None:
    """Raises ConsoleError for a choice that a replay from this topic could not keep to: it would do more than was meant."""
    if wanted.analyses and topic in REFRESHES:
        raise ConsoleError(
            f"--analysis chooses nothing from {topic}: a refresh has records read from the CRM again, and every analysis looks at "
            f"what is new in them. Leave --analysis out, or replay stored snapshots with it: --topic {RECORDS.name}"
        )
    if wanted.destination and topic != INSIGHTS.name:
        raise ConsoleError(
            f"--destination chooses nothing from {topic}: what a replay from there publishes goes to every destination that runs. "
            f"Leave --destination out, or deliver stored insights to {wanted.destination} alone: --topic {INSIGHTS.name}"
        )
