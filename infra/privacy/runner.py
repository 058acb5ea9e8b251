"""Erasures go on by themselves beside the hydrator: those that the CRM asks for, and those whose operator went away.

Law: looks for what is due and hands it to the eraser; decides nothing. While Postgres or Kafka is away it waits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.kafka.connection import options
from infra.privacy.eraser import Eraser
from infra.settings import Settings
from infra.telemetry import log
from infra.unavailable import Unavailable, as_unavailable
from schemas.topics import DELIVERIES

POLL_SECONDS = 2.0
FAILED_SECONDS = 60.0
TRANSLATOR_GROUP = "hookline.translator"
"""As `ingress.translator_app` says it; a test holds the two together."""

_log = log("privacy")


class Runner:
    """Runs in every hydrator; the eraser's lock lets one work on an erasure."""

    def __init__(self, eraser: Eraser, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._eraser = eraser
        self._sleep = sleep

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                for erasure_id in await self._eraser.erasures.due():
                    await self._go_on(erasure_id)
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                _log.warning("erasures_wait", part=away.part)
            await self._sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 -- spreads replicas, guards nothing

    async def _go_on(self, erasure_id: str) -> None:
        try:
            await self._eraser.run(erasure_id)
        except Exception as error:
            if as_unavailable(error) is not None:
                raise
            # One that fails keeps neither the others nor the hydrator from going on, and says so in the list of erasures.
            _log.error("erasure_failed", erasure=erasure_id, error=type(error).__name__)
            erasure = await self._eraser.erasures.load(erasure_id)
            if erasure is not None:
                why = f"after {type(error).__name__}, a bug of ours or a missing master key: see `erasure_failed` in the hydrator's log"
                await self._eraser.erasures.wait(erasure, why, FAILED_SECONDS)


class TranslatorBacklog:
    """`infra.privacy.eraser.Backlog` on Kafka. Raises Unavailable when it does not answer."""

    def __init__(self, settings: Settings, group: str = TRANSLATOR_GROUP) -> None:
        self._settings = settings
        self._group = group

    async def __call__(self, ends: Mapping[str, int] | None) -> tuple[dict[str, int], int]:
        """See Backlog. A partition of which nothing was ever read waits as a whole."""
        try:
            async with AsyncExitStack() as stack:
                admin = AIOKafkaAdminClient(**options(self._settings))
                stack.push_async_callback(admin.close)
                await admin.start()
                consumer = AIOKafkaConsumer(
                    DELIVERIES.name, **options(self._settings), group_id=None, enable_auto_commit=False
                )
                stack.push_async_callback(consumer.stop)
                await consumer.start()
                partitions = [
                    TopicPartition(DELIVERIES.name, each)
                    for each in sorted(consumer.partitions_for_topic(DELIVERIES.name) or ())
                ]
                begins = await consumer.beginning_offsets(partitions)
                now = {str(each.partition): end for each, end in (await consumer.end_offsets(partitions)).items()}
                found = dict(ends) if ends is not None else now
                committed = await admin.list_consumer_group_offsets(self._group)
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", why=type(error).__name__) from error
        waiting = 0
        for each in partitions:
            at = committed[each].offset if each in committed else -1
            waiting += max(0, found.get(str(each.partition), 0) - max(at, begins[each]))
        return found, waiting
