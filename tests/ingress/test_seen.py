"""Seen-marks while Redis misbehaves; that they work is shown on a real one in tests/connected."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from infra.redis_wire import Wire
from infra.unavailable import Unavailable
from ingress.seen import SET, SeenMarks


def nowhere() -> Redis:
    """A client of a port that nobody listens on."""
    return Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0))


async def test_looking_up_without_redis_pauses_the_translator():
    wire = Wire(nowhere(), [SET])
    with pytest.raises(Unavailable) as caught:
        await SeenMarks(wire).look_up(["a"])
    assert caught.value.part == "redis"
    await wire.close()


async def test_setting_without_redis_never_undoes_what_is_published():
    wire = Wire(nowhere(), [SET])
    await SeenMarks(wire).set({"a": "1/0/1"})
    await wire.close()
