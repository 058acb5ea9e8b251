"""The Redis client: timeouts on everything, TLS and passwords by URL.

Law: Redis is a cache, a limiter and a ledger; nothing here or above may keep the only copy of anything in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.settings import Settings, SettingsError, variable

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 3.0


def build_redis(settings: Settings) -> Redis:
    """A client with a pool; connects at first use. Raises SettingsError without an address. Close it with `aclose()`."""
    if settings.redis_url is None:
        raise SettingsError(
            f"{variable('redis_url')} is not set: redis://user:password@host:6379/0, or rediss:// for TLS"
        )
    client: Redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        health_check_interval=15,
        # One quick second try covers a connection that the server closed while it idled; longer waits are the caller's pause.
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    pool = client.connection_pool
    pool.connection_class = _TlsConnection if issubclass(pool.connection_class, SSLConnection) else _Connection
    return client


class _LostMeansLost(Connection):
    """A write on a transport that closed this moment is a lost connection, whichever loop says it.

    uvloop says it by RuntimeError, which redis-py hands on as it is: to the pump that is a bug, and a good message would
    become a dead letter because a server was restarted.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """See redis-py; raises its ConnectionError."""
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise RedisConnectionError("the connection was closed while writing") from error


class _Connection(_LostMeansLost):
    pass


class _TlsConnection(_LostMeansLost, SSLConnection):
    pass
