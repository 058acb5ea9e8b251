"""What every sub-command stands on: settings as this machine has them, and short-lived access to the registry.

Law: a command talks to the servers that settings name; where they name none, to the embedded stack of this folder if it
is up. It starts nothing by itself.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiokafka.errors import KafkaError
from pydantic import SecretStr, ValidationError
from rich.console import Console
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import Registry, RegistryError
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.settings import Settings, SettingsError, problems, variable
from infra.unavailable import as_unavailable

T = TypeVar("T")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class ConsoleError(RuntimeError):
    """A message for the person at the terminal: what is wrong and what to do next."""


def read_settings() -> Settings:
    """Settings from the environment and `.env`; raises ConsoleError naming each bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            name = variable(field) if field in Settings.model_fields else field
            lines.append(f"  - {name}: {problem['msg']}")
        raise ConsoleError(
            "these settings cannot be read:\n" + "\n".join(lines) + "\nSee `hookline config` for every setting."
        ) from None


def local_settings() -> Settings:
    """Settings of a command beside running roles: those given, completed by this folder's embedded stack if it is up."""
    settings = read_settings()
    if settings.kafka_url and settings.database_url and settings.redis_url:
        return settings
    from infra.local.stack import running

    found = running(settings.data_dir)
    if found is None:
        return settings
    return settings.model_copy(
        update={
            "environment": "development",
            "kafka_url": settings.kafka_url or found.kafka_url,
            "database_url": settings.database_url or SecretStr(found.database_url),
            "redis_url": settings.redis_url or SecretStr(found.redis_url),
            "master_keys": settings.master_keys or development_master_key(settings.data_dir),
            "kafka_replication": 1,
            "sandbox_url": settings.sandbox_url or read_note(settings.data_dir, "sandbox-url"),
        }
    )


def development_master_key(data: Path) -> SecretStr:
    """The master key of this folder's embedded data, made at first use and readable by its owner alone."""
    path = data / "master.key"
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(new_master_key())
    return SecretStr(path.read_text().strip())


def new_master_key() -> str:
    """32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def write_note(data: Path, name: str, value: str) -> None:
    """Leave a value for commands in other terminals."""
    folder = data / "run"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value)


def read_note(data: Path, name: str) -> str | None:
    """What `write_note` left, if anything."""
    path = data / "run" / name
    return path.read_text().strip() or None if path.exists() else None


def need(settings: Settings, *names: str) -> None:
    """Raise ConsoleError with everything that is missing for this command."""
    found = problems(settings, names)
    if found:
        raise ConsoleError(
            "this command needs running servers:\n"
            + "\n".join(f"  - {line}" for line in found)
            + "\nOn a laptop: `hookline up` in another terminal, from this folder."
        )


@asynccontextmanager
async def registry() -> AsyncIterator[tuple[Registry, Settings, AsyncEngine, Keyring]]:
    """The registry of tenants, endpoints and accounts, for the length of one command."""
    settings = local_settings()
    need(settings, "database_url", "master_keys")
    engine = build_engine(settings)
    assert settings.master_keys is not None
    keyring = Keyring(engine, settings.master_keys)
    try:
        yield Registry(engine, keyring), settings, engine, keyring
    finally:
        await engine.dispose()


def run(command: Callable[[], Awaitable[T]]) -> T:
    """Run one asynchronous command; turns what a person can mend into ConsoleError."""

    async def guarded() -> T:
        return await command()

    try:
        return asyncio.run(guarded())
    except Exception as error:
        told = explained(error)
        if told is None:
            raise
        raise told from error


def explained(error: Exception) -> ConsoleError | None:
    """What a person can do about it; None for a bug of ours. Server's own words are left out: they repeat passwords."""
    if isinstance(error, ConsoleError):
        return error
    if isinstance(error, RegistryError | SettingsError):
        return ConsoleError(str(error))
    if isinstance(error, ProgrammingError) and "does not exist" in str(error.orig):
        return ConsoleError("the database has no tables of ours yet: run `hookline migrate` first")
    away = as_unavailable(error)
    if away is not None and away.part in _ADDRESSES:
        name, field = _ADDRESSES[away.part]
        return ConsoleError(
            away.remedy or f"{name} cannot be reached: check {variable(field)} and that the server is up"
        )
    if isinstance(error, KafkaError):
        return ConsoleError(
            f"Kafka does not do this ({type(error).__name__}): check {variable('kafka_url')}, "
            f"{variable('kafka_security')} and this user's rights there"
        )
    return None


_ADDRESSES = {
    "postgres": ("PostgreSQL", "database_url"),
    "kafka": ("Kafka", "kafka_url"),
    "redis": ("Redis", "redis_url"),
}
