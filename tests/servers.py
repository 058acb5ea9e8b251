"""The servers that connected tests run on: the embedded stack, or those that KAFKA_URL, DATABASE_URL, REDIS_URL name."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from pydantic import SecretStr

from infra.database.engine import migrate
from infra.kafka.topics import migrate_topics
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import Settings


@pytest.fixture(scope="session")
def addresses(_clean_environment: dict[str, str]) -> Iterator[Addresses]:
    """Real servers, started once for the whole run unless they were given."""
    given = _clean_environment
    with tempfile.TemporaryDirectory(
        prefix="hookline-test-", dir=os.environ.get("HOOKLINE_TEST_DATA"), ignore_cleanup_errors=True
    ) as data:
        Path(data).chmod(0o755)  # as root the servers run as somebody else, who must get in
        stack = EmbeddedStack(
            Path(data),
            kafka_url=given.get("KAFKA_URL"),
            database_url=given.get("DATABASE_URL"),
            redis_url=given.get("REDIS_URL"),
        )
        with stack as found:
            asyncio.run(
                migrate_topics(
                    Settings(kafka_url=found.kafka_url, kafka_partitions=6, kafka_replication=1, _env_file=None)
                )
            )
            yield found


@pytest.fixture(scope="session")
def kafka_url(addresses: Addresses) -> str:
    return addresses.kafka_url


@pytest.fixture(scope="session")
def redis_url(addresses: Addresses) -> str:
    return addresses.redis_url


@contextmanager
def _database(addresses: Addresses, template: str = "template1") -> Iterator[str]:
    """The URL of a new database, made like `template`; dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template "{template}"')
    parts = urlsplit(addresses.database_url)
    yield urlunsplit(parts._replace(path=f"/{name}"))
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def database_url(addresses: Addresses) -> Iterator[str]:
    """A database of the test's own, empty; dropped afterwards."""
    with _database(addresses) as url:
        yield url


@pytest.fixture(scope="session")
def _migrated(addresses: Addresses) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to: copying it is quicker than migrating once a test."""
    with _database(addresses) as url:
        migrate(Settings(database_url=SecretStr(url), _env_file=None))
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def _migrated_url(addresses: Addresses, _migrated: str) -> Iterator[str]:
    with _database(addresses, template=_migrated) as url:
        yield url


@pytest.fixture
def _no_limits_left_over(addresses: Addresses) -> None:
    """Circuits, limits and turns of the gateway are shared by all who use this Redis: a test begins without earlier ones'."""
    with redis.Redis.from_url(addresses.redis_url) as client:
        for key in client.scan_iter("hookline:llm:*", count=1000):
            client.delete(key)


@pytest.fixture
def settings(addresses: Addresses, _migrated_url: str, _no_limits_left_over: None) -> Settings:
    """Settings of a process on these servers, with a migrated database of the test's own."""
    return Settings(
        environment="development",
        kafka_url=addresses.kafka_url,
        kafka_replication=1,
        database_url=SecretStr(_migrated_url),
        redis_url=SecretStr(addresses.redis_url),
        master_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
        ingress_port=0,
        ops_port=0,
        public_url="https://hooks.test",
        trace_ratio=1.0,
        _env_file=None,
    )


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own: topics are shared, names are not."""
    return f"t{secrets.token_hex(5)}"
