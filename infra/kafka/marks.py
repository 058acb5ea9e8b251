"""That a group stopped for poison is written beside its offsets of the partitions that failed, for whoever has them next.

Law: a mark is a commit's metadata, so it is as safe as the offset and needs no place of its own. Reading it never fails: where
Kafka does not answer, or aiokafka is not the one that is known here (0.14), nothing is marked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from aiokafka import TopicPartition

from infra import telemetry
from infra.kafka.schedule import Partition

STOPPED = "stopped for poison"


def commit_of(offset: int, *, stopped: bool) -> int | tuple[int, str]:
    """As aiokafka's `commit` takes it."""
    return (offset, STOPPED) if stopped else offset


async def read_marks(consumer: Any, partitions: Collection[Partition], seconds: float) -> frozenset[Partition]:
    """Those of `partitions` where the group stopped and has handled nothing since."""
    # `committed` is public and tells the offset alone; its own source of it tells both.
    fetch = getattr(getattr(consumer, "_coordinator", None), "fetch_committed_offsets", None)
    if fetch is None or not partitions:
        return frozenset()
    try:
        async with asyncio.timeout(seconds):
            found = await fetch([TopicPartition(*partition) for partition in partitions])
    except Exception as error:  # noqa: BLE001 -- whatever it is: a member that does not begin is worse than one without marks
        telemetry.log("pump").warning("marks_unread", error=type(error).__name__)
        return frozenset()
    return frozenset(
        (place.topic, place.partition) for place, at in found.items() if getattr(at, "metadata", "") == STOPPED
    )
