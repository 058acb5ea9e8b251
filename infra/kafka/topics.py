"""Topics on the broker: made by `hookline migrate`, checked by every role, never altered behind anyone's back.

Law: creates what is missing and changes nothing that is there: another partition count would move records between
partitions, and with them the order that versions rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import topic_epochs
from infra.kafka.connection import options, refusal
from infra.settings import Settings, SettingsError
from infra.unavailable import BrokerUnavailable
from schemas.topics import ALL, Topic


async def migrate_topics(settings: Settings, topics: Sequence[Topic[Any]] = ALL) -> list[str]:
    """Create what is missing; returns the names. May be called twice, and by several at once. Raises SettingsError."""
    async with _Admin(settings) as admin:
        there = set(await admin.list_topics())
        missing = [topic for topic in topics if topic.name not in there]
        if not missing:
            return []
        replication = (
            min(settings.kafka_replication, await _brokers(admin))
            if settings.environment == "development"
            else settings.kafka_replication
        )
        response = await admin.create_topics(
            [
                NewTopic(topic.name, settings.kafka_partitions, replication, topic_configs=topic.config())
                for topic in missing
            ]
        )
        created: list[str] = []
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is not TopicAlreadyExistsError:
                raise SettingsError(
                    f"topic {name} cannot be created: {error.__name__} {' '.join(filter(None, message))}".rstrip()
                )
        return created


async def check_topics(settings: Settings, topics: Sequence[Topic[Any]]) -> None:
    """Raises SettingsError, naming everything at once, when a topic is missing or its settings differ from ours."""
    async with _Admin(settings) as admin:
        there = set(await admin.list_topics())
        missing = sorted(topic.name for topic in topics if topic.name not in there)
        if missing:
            raise SettingsError(f"topics are missing: {', '.join(missing)}; create them with `hookline migrate`")
        responses = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
        )
        actual: dict[str, dict[str, str]] = {}
        for response in responses:
            for _, _, _, name, entries in response.resources:
                actual[name] = {entry[0]: entry[1] for entry in entries}
    wrong = [
        f"{topic.name}: {setting} is {actual.get(topic.name, {}).get(setting)!r}, expected {value!r}"
        for topic in topics
        for setting, value in topic.config().items()
        if actual.get(topic.name, {}).get(setting) != value
    ]
    if wrong:
        raise SettingsError(
            "topics differ from what this release expects; change them with kafka-configs, or make a new topic with "
            "`hookline migrate`:\n" + "\n".join(f"  - {line}" for line in wrong)
        )


async def epoch(engine: AsyncEngine, topic: Topic[Any]) -> int:
    """The epoch of a topic (1 at first): raised when it is made anew, so that older offsets compare as older."""
    async with engine.begin() as connection:
        await connection.execute(insert(topic_epochs).values(topic=topic.name).on_conflict_do_nothing())
        found = await connection.scalar(select(topic_epochs.c.epoch).where(topic_epochs.c.topic == topic.name))
    return int(found or 1)


async def _brokers(admin: AIOKafkaAdminClient) -> int:
    found = await admin.describe_cluster()
    return len(found["brokers"])


class _Admin:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = AIOKafkaAdminClient(**options(settings), client_id="hookline-admin", request_timeout_ms=15_000)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        try:
            await self._client.start()
        except (KafkaError, OSError) as error:
            await self._client.close()
            raise BrokerUnavailable(
                f"no broker at {self._settings.kafka_url} answers ({type(error).__name__})",
                remedy=await refusal(self._settings),
            ) from error
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
