from __future__ import annotations

import socket
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra import redis as module
from infra.redis import build_redis
from infra.settings import Settings, SettingsError
from infra.unavailable import as_unavailable


def test_without_an_address_it_says_which_variable_to_set() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        build_redis(Settings(_env_file=None))


async def test_nobody_there_is_said_as_unavailable() -> None:
    client = build_redis(Settings(redis_url="redis://127.0.0.1:1/0", _env_file=None))
    with pytest.raises(RedisConnectionError) as caught:
        await client.ping()
    assert as_unavailable(caught.value).part == "redis"
    await client.aclose()


async def test_a_server_that_never_answers_does_not_hang_us(monkeypatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    # The kernel accepts for a listener that never looks.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = build_redis(Settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", _env_file=None))
        started = time.monotonic()
        with pytest.raises((RedisTimeoutError, RedisConnectionError)):
            await client.ping()
        assert time.monotonic() - started < 3
        await client.aclose()


def test_its_password_is_in_no_repr() -> None:
    settings = Settings(redis_url="redis://user:hunter2@127.0.0.1:1/0", _env_file=None)
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_write_on_a_connection_that_closed_this_moment_is_an_outage_and_no_bug(scheme: str) -> None:
    """INVARIANT: a restart of Redis pauses. If it breaks, it turns good messages into dead letters."""

    class Closed:
        """As uvloop's transport is, once the other side has gone."""

        def writelines(self, _chunks: object) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

        def close(self) -> None:
            pass

    client = build_redis(Settings(redis_url=f"{scheme}://127.0.0.1:1/0", _env_file=None))
    connection = client.connection_pool.make_connection()
    connection._reader = connection._writer = Closed()
    with pytest.raises(RedisConnectionError) as caught:
        await connection.send_packed_command([b"PING"], check_health=False)
    assert as_unavailable(caught.value).part == "redis"
    await client.aclose()
