"""The Redis client: timeouts on everything, TLS and passwords by URL.

Law: Redis is a cache, a limiter and a ledger; nothing here or above may keep the only copy of anything in it.
"""

from __future__ import annotations

from redis.asyncio import Redis
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
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        health_check_interval=15,
        # One quick second try covers a connection that the server closed while it idled; longer waits are the caller's pause.
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
