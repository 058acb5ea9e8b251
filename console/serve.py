"""`hookline serve`, `hookline up`, `hookline migrate`: starting what runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from console.roles import serve as serve_roles
from console.runtime import (
    ConsoleError,
    development_master_key,
    err,
    local_settings,
    need,
    out,
    read_settings,
    write_note,
)
from infra.database.engine import migrate as migrate_tables
from infra.kafka.topics import migrate_topics
from infra.local.engine import StackError
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import ROLES, Role, Settings


def serve(
    role: Annotated[str, typer.Argument(help=f"One of: {', '.join(ROLES)}, or `all`.")],
) -> None:
    """Run one role until SIGTERM, as in production: every server is given by URL."""
    names = _roles(role)
    settings = local_settings()
    uvloop.run(serve_roles(settings, names))


def _roles(role: str) -> tuple[Role, ...]:
    if role == "all":
        return ROLES
    for known in ROLES:
        if role == known:
            return (known,)
    raise ConsoleError(f"there is no role {role!r}: choose one of {', '.join(ROLES)}, or `all`")


def migrate() -> None:
    """Bring the database's tables and Kafka's topics up to date. Safe to repeat; nothing is ever dropped."""
    settings = local_settings()
    need(settings, "database_url", "kafka_url")
    for line in bring_up_to_date(settings):
        out.print(line)


def bring_up_to_date(settings: Settings) -> list[str]:
    """Tables, then topics; returns what was done, in words."""
    revisions = migrate_tables(settings)
    topics = asyncio.run(migrate_topics(settings))
    return [
        f"database: {', '.join(revisions)} applied" if revisions else "database: up to date",
        f"topics: {', '.join(topics)} created" if topics else "topics: up to date",
    ]


def embedded_settings(given: Settings, addresses: Addresses, data: Path) -> Settings:
    """Settings for roles on the embedded stack of this folder."""
    from pydantic import SecretStr

    return given.model_copy(
        update={
            "environment": "development",
            "kafka_url": addresses.kafka_url,
            "kafka_replication": 1 if given.kafka_url is None else given.kafka_replication,
            "database_url": SecretStr(addresses.database_url),
            "redis_url": SecretStr(addresses.redis_url),
            "master_keys": given.master_keys or development_master_key(data),
            "public_url": given.public_url or f"http://{given.ingress_host}:{given.ingress_port}",
        }
    )


def stack_of(settings: Settings) -> EmbeddedStack:
    """The embedded stack, for whatever part settings give no URL."""
    return EmbeddedStack(
        settings.data_dir,
        kafka_url=settings.kafka_url,
        database_url=settings.database_url.get_secret_value() if settings.database_url else None,
        redis_url=settings.redis_url.get_secret_value() if settings.redis_url else None,
        on_progress=lambda line: err.print(f"[dim]{line}[/]"),
    )


def up() -> None:
    """All roles in one process, on the embedded stack where no server is given, until Ctrl-C."""
    settings = read_settings()
    try:
        with stack_of(settings) as addresses:
            complete = embedded_settings(settings, addresses, settings.data_dir)
            for line in bring_up_to_date(complete):
                err.print(f"[dim]{line}[/]")
            write_note(settings.data_dir, "sandbox-url", complete.sandbox_url or "")
            out.print(f"front door  http://{complete.ingress_host}:{complete.ingress_port}/hooks/…")
            out.print(f"health      http://{complete.ops_host}:{complete.ops_port}/health/ready")
            out.print(
                "Next, in another terminal: `hookline tenant add`, `hookline endpoint add`, `hookline account add`."
            )
            uvloop.run(serve_roles(complete, ROLES))
    except StackError as error:
        raise ConsoleError(str(error)) from error
