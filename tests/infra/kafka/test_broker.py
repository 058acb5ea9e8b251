"""What a publisher does about a broker that says nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from infra.kafka import broker
from infra.kafka.broker import Publisher
from infra.settings import Settings


class Silent:
    """A producer whose connection's other side vanished unsaid."""

    def __init__(self) -> None:
        self.stopped = False
        self.client = SimpleNamespace(fetch_all_metadata=self.ask)

    async def ask(self) -> None:
        await asyncio.sleep(60)

    async def stop(self) -> None:
        self.stopped = True


def publisher() -> tuple[Publisher, Silent]:
    made, producer = Publisher(Settings(kafka_url="127.0.0.1:1", _env_file=None), codec=None), Silent()
    made._producer = producer
    return made, producer


async def test_an_idle_producer_that_hears_nothing_is_started_anew():
    """INVARIANT: readiness comes back by itself. If it breaks, a role that works is called not ready for ever."""
    made, producer = publisher()
    made._used -= broker.IDLE_SECONDS + 1
    assert "does not answer" in await made.ask(0.01)
    assert producer.stopped
    assert made._producer is None


async def test_a_producer_that_somebody_just_used_is_left_alone():
    """Whatever it has under way would be cut off, and it heals itself: a publication without an answer closes its connection."""
    made, producer = publisher()
    assert await made.producer() is producer
    assert "does not answer" in await made.ask(0.01)
    assert not producer.stopped
