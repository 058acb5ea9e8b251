"""`hookline serve`, `hookline up`, `hookline migrate`: starting what runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
from console.workers import serve_workers
from infra.database.engine import migrate as migrate_tables
from infra.kafka.topics import migrate_topics
from infra.local.engine import StackError
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import ROLES, Role, Settings, require, variable

EVERY: tuple[Role, ...] = (*ROLES, "salesforce-events", "reconciler", "api")
"""The stages of the journey, who fetches Salesforce's events, who looks after what was not told, and the HTTP API beside them."""
GATEWAY: Role = "gateway"
"""Stands alone: it needs a provider's key and no Kafka."""
LOOK_EVERY_SECONDS = 1.0
LET_GO_SECONDS = 20.0
"""For roles to drain as far as they can without the server that has ended."""


def serve(
    role: Annotated[
        str, typer.Argument(help=f"One of: {', '.join((*EVERY, GATEWAY))}, or `all` (without the gateway).")
    ],
    workers: Annotated[
        int, typer.Option(min=1, help="ingress alone: so many processes behind one port, restarted when they die.")
    ] = 1,
) -> None:
    """Run one role until SIGTERM, as in production: every server is given by URL."""
    names = _roles(role)
    settings = local_settings()
    if workers > 1:
        if names != ("ingress",):
            raise ConsoleError("--workers is for `hookline serve ingress`: run other roles as several replicas")
        uvloop.run(serve_workers(settings, workers))
        return
    if names == (GATEWAY,):
        _become_gateway(settings)
    uvloop.run(serve_roles(settings, names))


def _become_gateway(settings: Settings) -> NoReturn:
    """This process goes on as the gateway's server, without the memory of all that the console has imported."""
    require(settings, GATEWAY)
    secret = {name: getattr(settings, name) for name in ("database_url", "redis_url", "master_keys")}
    found = {variable(name): value.get_secret_value() for name, value in secret.items() if value is not None}
    if settings.environment == "development":
        found[variable("environment")] = settings.environment
    os.execve(  # noqa: S606 -- our own module, no shell
        sys.executable, [sys.executable, "-m", "llm_gateway.server"], {**os.environ, **found}
    )


def _roles(role: str) -> tuple[Role, ...]:
    if role == "all":
        return EVERY
    for known in (*EVERY, GATEWAY):
        if role == known:
            return (known,)
    raise ConsoleError(f"there is no role {role!r}: choose one of {', '.join((*EVERY, GATEWAY))}, or `all`")


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
        stack = stack_of(settings)
        with stack as addresses:
            complete = embedded_settings(settings, addresses, settings.data_dir)
            for line in bring_up_to_date(complete):
                err.print(f"[dim]{line}[/]")
            write_note(settings.data_dir, "sandbox-url", complete.sandbox_url or "")
            out.print(f"front door  http://{complete.ingress_host}:{complete.ingress_port}/hooks/…")
            out.print(
                f"HTTP API    http://{complete.api_host}:{complete.api_port}/api/openapi.json (`hookline key create`)"
            )
            out.print(f"health      http://{complete.ops_host}:{complete.ops_port}/health/ready")
            out.print(
                "Next, in another terminal: `hookline tenant add`, `hookline endpoint add`, `hookline account add`."
            )
            uvloop.run(while_servers_run(serve_roles(complete, EVERY), stack.ended, settings.data_dir / "logs"))
    except StackError as error:
        raise ConsoleError(str(error)) from error


async def while_servers_run(
    work: Coroutine[Any, Any, None],
    ended: Callable[[], Mapping[str, int]],
    logs: Path,
    *,
    every: float = LOOK_EVERY_SECONDS,
) -> None:
    """Do `work`, and end it when `ended` names a server of ours with its exit code: nobody would start that one again, and
    roles wait patiently for a server that is away. Raises StackError then, after the roles have let go.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=every))[0]:
            if codes := ended():
                text = ", ".join(
                    f"{name} (" + (f"signal {-code}" if code < 0 else f"exit code {code}") + ")"
                    for name, code in sorted(codes.items())
                )
                err.print(f"{text} has ended by itself: stopping")
                raise StackError(
                    f"{text} of the embedded stack has ended by itself. What to do: read its log in {logs} (a full disk and too"
                    " little memory are the usual reasons), then start `hookline up` again: nothing that was accepted is lost."
                )
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=LET_GO_SECONDS)
