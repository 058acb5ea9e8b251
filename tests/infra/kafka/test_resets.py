"""A write to a connection that was reset a moment ago, on the event loop of production."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from infra.kafka.connection import options
from infra.settings import Settings


class Request:
    """As much of a request as `send` looks at."""

    def prepare(self, _versions: Any) -> Request:
        return self

    def build_request_header(self, **_: Any) -> Any:
        return SimpleNamespace(encode=lambda: b"header")

    def encode(self) -> bytes:
        return b"body"


async def reset_connection() -> AIOKafkaConnection:
    """Connected, and then closed under aiokafka's hands."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    connection = AIOKafkaConnection(host=host, port=port)
    connection._reader, connection._writer = await asyncio.open_connection(host, port)
    connection._read_task = asyncio.create_task(asyncio.sleep(0))
    connection._writer.transport.abort()
    async with asyncio.timeout(5):
        while connection._writer.transport.get_extra_info("socket").fileno() >= 0:  # noqa: ASYNC110 -- closing sets no event
            await asyncio.sleep(0)
    server.close()
    return connection


def test_a_reset_at_the_wrong_moment_is_a_broken_connection() -> None:
    """INVARIANT: aiokafka's background tasks outlive a reset. If this fails, one of them ends and a consumer is silent for ever."""
    options(Settings(kafka_url="127.0.0.1:1", _env_file=None))

    async def main() -> None:
        connection = await reset_connection()
        with pytest.raises(RuntimeError, match="closed"):
            AIOKafkaConnection.send.__wrapped__(connection, Request())  # what aiokafka itself makes of it
        with pytest.raises(KafkaConnectionError, match="closed before the request"):
            connection.send(Request())
        assert not connection.connected()

    uvloop.run(main())


async def test_another_error_stays_what_it_is() -> None:
    options(Settings(kafka_url="127.0.0.1:1", _env_file=None))

    def write(_: bytes) -> None:
        raise RuntimeError("a bug")

    connection = AIOKafkaConnection(host="127.0.0.1", port=1)
    connection._writer = SimpleNamespace(transport=SimpleNamespace(is_closing=lambda: False), write=write)
    with pytest.raises(RuntimeError, match="a bug"):
        connection.send(Request())
