"""The connection to PostgreSQL, and bringing its tables up to date.

Law: the URL in settings is what an operator knows from elsewhere (`postgresql://…?sslmode=verify-full`); the driver is
our business. Nothing here makes a table outside of a migration.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from infra.database.tables import metadata
from infra.settings import Settings, SettingsError, variable

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30.0
"""A server that says nothing for this long is away, however open the connection to it looks."""
RECYCLE_SECONDS = 1_800
"""After this long a connection is replaced, so that nothing in between forgets it unsaid."""
# Any number: all of our processes take the same lock before they migrate.
MIGRATION_LOCK = 7_246_011_946_201_337
DRIVER = "postgresql+psycopg"
_ACCEPTED = frozenset({"postgresql", "postgres", DRIVER})


def database_url(settings: Settings) -> URL:
    """The URL with our driver in it; every query parameter (TLS, `application_name`, ...) is kept for libpq.

    Raises:
        SettingsError: it is missing, not a URL, or not PostgreSQL's. The text never repeats it: it holds a password.
    """
    name = variable("database_url")
    if settings.database_url is None:
        raise SettingsError(f"{name} is not set: give it as postgresql://user:password@host:5432/name")
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):
        raise SettingsError(f"{name} is not a URL: give it as postgresql://user:password@host:5432/name") from None
    if url.drivername not in _ACCEPTED:
        raise SettingsError(f"{name} speaks to {url.drivername}: only postgresql:// is supported")
    return url.set(drivername=DRIVER)


def build_engine(settings: Settings) -> AsyncEngine:
    """An engine whose pool holds at most `database_pool` connections; connects only when used.

    A connection that the server closed meanwhile is replaced unseen. JSON goes through orjson.
    """
    url = database_url(settings)
    engine = create_async_engine(
        url,
        pool_size=settings.database_pool,
        max_overflow=0,
        pool_timeout=30,
        pool_recycle=RECYCLE_SECONDS,
        # Few connections do most of the work, and have its statements prepared.
        pool_use_lifo=True,
        connect_args={**_connect_args(url), "async_creator_fn": _Connection.connect},
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        # A statement's parameters are customers' data: they stay out of exceptions' texts.
        hide_parameters=True,
    )
    sa.event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    return engine


class _Connection(psycopg.AsyncConnection[Any]):
    """Waits for an answer as long as `ANSWER_SECONDS`: of a connection whose other side vanished unsaid nothing else tells."""

    async def wait(self, *given: Any, **more: Any) -> Any:
        """See psycopg; every wait for the server goes through here. Raises psycopg.OperationalError when the time is over."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await super().wait(*given, **more)
        except TimeoutError as error:
            raise psycopg.OperationalError(f"no answer within {ANSWER_SECONDS:g} s") from error


def _replace_if_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Instead of SQLAlchemy's ping, which costs a round trip each time: a server that hangs up says so on the socket."""
    if hung_up(connection.driver_connection):
        raise DisconnectionError


def hung_up(driver: Any) -> bool:
    """Whether the server has closed this idle connection (psycopg's own), as far as its socket knows. No round trip."""
    if driver.closed:
        return True
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    # An idle connection has nothing to read but a farewell or its end.
    return bool(poll.poll(0))


def _connect_args(url: URL) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "connect_timeout" not in url.query:
        given["connect_timeout"] = CONNECT_SECONDS
    if "application_name" not in url.query:
        given["application_name"] = "hookline"
    return given


def migrate(settings: Settings, revision: str = "head") -> list[str]:
    """Bring the tables to `revision`; blocking. Safe to call from several processes at once, and again.

    Returns:
        The revisions that were applied, oldest first; empty when there was nothing to do.

    Raises:
        SettingsError: the URL is missing or wrong.
        sqlalchemy.exc.OperationalError: the server cannot be reached.
    """
    with _migrating(settings) as (config, connection):
        before = set(_applied(connection))
        command.upgrade(config, revision)
        return [found for found in _applied(connection) if found not in before]


def rollback(settings: Settings, revision: str) -> None:
    """Take the tables back to `revision` (`base`: none of ours); blocking. What those tables held is gone."""
    with _migrating(settings) as (config, _):
        command.downgrade(config, revision)


def differences(settings: Settings) -> list[str]:
    """What alembic would generate to make the tables what `tables.py` says; empty when the two agree. Blocking."""
    with _migrating(settings) as (_, connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return [repr(found) for found in compare_metadata(context, metadata)]


@contextmanager
def _migrating(settings: Settings) -> Iterator[tuple[Config, sa.Connection]]:
    """One connection that holds the migration lock; all that is done on it is one transaction."""
    url = database_url(settings)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=_connect_args(url), hide_parameters=True)
    try:
        with engine.begin() as connection:
            # Of the transaction: whoever comes second waits until the first one's tables are there, then finds nothing to do.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            config = _config()
            config.attributes["connection"] = connection
            yield config, connection
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("infra.database") / "migrations"))
    return config


def _applied(connection: sa.Connection) -> list[str]:
    """Every revision up to where the database stands, oldest first."""
    heads = MigrationContext.configure(connection).get_current_heads()
    if not heads:
        return []
    script = ScriptDirectory.from_config(_config())
    return [found.revision for found in reversed(list(script.iterate_revisions(heads, "base")))]
