"""Health and metrics of a process over HTTP, on a port of their own.

Law: live says that the event loop turns, and nothing else; ready asks every part that a role uses, each within a bound,
and says what is wrong; what the role goes on without leaves it ready. No secret is in an answer: checks name parts and variables, never values of secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics, refused
from infra.http_server import Server, listen
from infra.settings import Settings, variable

Check = Callable[[], Awaitable[str | None]]
"""None: fine. A text: what is wrong, for people. May raise; may take its time, which is cut at CHECK_SECONDS."""
CHECK_SECONDS = 4.0
MetricsPage = Callable[[], Awaitable[tuple[str, bytes]]]
"""Content type and text of a page of metrics."""

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Dispensable:
    """The check of a part that a role goes on without: what is wrong is told, and is no reason to be unready."""

    check: Check

    async def __call__(self) -> str | None:
        """See `Check`."""
        return await self.check()


class Told(str):
    """What is wrong with such a part."""

    __slots__ = ()


def is_ready(answers: Mapping[str, str | None]) -> bool:
    """Whether nothing is wrong that a role cannot do without."""
    return not any(said and not isinstance(said, Told) for said in answers.values())


async def ask_all(readiness: Mapping[str, Check]) -> dict[str, str | None]:
    """Ask every part at once; what raises or takes too long is wrong."""

    async def ask(check: Check) -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await check()
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS:g} s"
        except Exception as error:  # noqa: BLE001 -- a check that breaks is an answer too
            return type(error).__name__

    answers = await asyncio.gather(*(ask(check) for check in readiness.values()))
    return {
        name: Told(said) if said and isinstance(check, Dispensable) else said
        for (name, check), said in zip(readiness.items(), answers, strict=True)
    }


async def ask_postgres(engine: AsyncEngine) -> str | None:
    """A check; never raises."""
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        generic = f"PostgreSQL does not answer ({type(error).__name__}): check {variable('database_url')}"
        return refused.postgres(error) or generic
    return None


async def ask_redis(redis: Redis) -> str | None:
    """A check; never raises."""
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        generic = f"Redis does not answer ({type(error).__name__}): check {variable('redis_url')}"
        return refused.redis_client(error) or generic
    return None


class _Ops:
    def __init__(self, readiness: Mapping[str, Check], page: MetricsPage | None, *, any_suffices: bool) -> None:
        self._readiness = readiness
        self._page = page
        self._any = any_suffices

    async def __call__(self, scope: _Scope, _receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        status, kind, body = await self._answer(scope["method"], scope["path"])
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", kind.encode()),
                    (b"content-length", str(len(body)).encode()),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in {"GET", "HEAD"}:
            return 405, "text/plain", b"GET only\n"
        if path == "/health/live":
            return 200, "application/json", b'{"live": true}'
        if path == "/health/ready":
            answers = await ask_all(self._readiness)
            ready = not all(answers.values()) if self._any and answers else is_ready(answers)
            text = json.dumps({"ready": ready, "parts": {part: answer or "ok" for part, answer in answers.items()}})
            return (200 if ready else 503), "application/json", text.encode()
        if path == "/metrics":
            if self._page is not None:
                return 200, *(await self._page())
            return 200, CONTENT_TYPE_LATEST, generate_latest(metrics.REGISTRY)
        return 404, "text/plain", b"/health/live, /health/ready or /metrics\n"


class OpsServer:
    """A running server; `port` is the one that it listens on."""

    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], port: int) -> None:
        self._server = server
        self._task = task
        self.port = port

    async def stop(self) -> None:
        """Close it; may be called twice."""
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def serve_ops(
    settings: Settings,
    readiness: Mapping[str, Check],
    *,
    any_suffices: bool = False,
    metrics_page: MetricsPage | None = None,
) -> OpsServer:
    """Serve on `ops_host:ops_port` (0 takes a free one); raises SettingsError when the port is taken.

    `any_suffices`: ready while any of the checks is fine. `metrics_page`: instead of this process's own metrics.
    """
    config = uvicorn.Config(
        _Ops(readiness, metrics_page, any_suffices=any_suffices), host=settings.ops_host, port=settings.ops_port, log_config=None, access_log=False, lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    bound = await loop.run_in_executor(None, listen, settings.ops_host, settings.ops_port, "ops_port")
    server = Server(config)
    return OpsServer(server, await server.begin(bound, "ops"), bound.getsockname()[1])
