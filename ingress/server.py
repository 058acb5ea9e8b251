"""The HTTP server of the front door: uvicorn (uvloop, httptools) inside a process that has a starter of its own.

Law: binds or takes over one listening socket, serves one ASGI application on it, and leaves in order: no new requests, answers
for all that are inside, then the end. Why this server: docs/adr/0010.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn

from infra.http_server import BACKLOG, KEEP_ALIVE_SECONDS, Server
from infra.settings import Settings, SettingsError, variable
from ingress.wire import Guard, Noted, Take, WireLimits

LEAVE_SECONDS = 15


def taken_over(descriptor: int) -> socket.socket:
    """The listening socket that was handed down; raises SettingsError when it is none."""
    try:
        found = socket.socket(fileno=descriptor)
        listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SettingsError(
            f"{variable('ingress_socket')} is no open socket ({error.strerror}): unset it; `hookline serve ingress --workers` sets it"
        ) from error
    if not listening:
        raise SettingsError(f"{variable('ingress_socket')} does not listen: unset it")
    found.setblocking(False)
    return found


def wire_limits(settings: Settings) -> WireLimits:
    """As the settings have them."""
    return WireLimits(
        settings.ingress_max_headers,
        settings.ingress_max_header_bytes,
        settings.ingress_header_timeout_seconds,
        settings.ingress_max_connections,
        KEEP_ALIVE_SECONDS,
    )


class HttpServer:
    """One listening socket served."""

    def __init__(
        self,
        app: Any,
        limits: WireLimits,
        noted: Noted,
        tls: Mapping[str, Any] | None = None,
        *,
        take: Take | None = None,
    ) -> None:
        """`tls`: uvicorn's own options for it, from `ingress/tls.py`. `take`: the short way, asked before `app` (`ingress/direct.py`)."""
        self._guard = Guard(limits, noted, take)
        config = uvicorn.Config(
            app,
            http=self._guard.protocol(),  # type: ignore[arg-type]  # uvicorn only ever calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would log addresses, and those of Salesforce endpoints are secrets
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=LEAVE_SECONDS,
            **(tls or {}),
        )
        self._server = Server(config)

    async def start(
        self, listening: socket.socket, ended: Callable[[asyncio.Task[None]], object] | None = None
    ) -> None:
        """Serve; `ended` is told when it ends, also by itself."""
        self._guard.start()
        task = await self._server.begin(listening, "ingress-http")
        if ended is not None:
            task.add_done_callback(ended)

    async def stop(self) -> None:
        """Take no more requests, and answer those that are inside. May be called twice."""
        if self._server.task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._server.task], timeout=LEAVE_SECONDS + 5)
        await self._guard.stop()
