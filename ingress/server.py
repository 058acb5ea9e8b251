"""The HTTP server of the front door: uvicorn (uvloop, httptools) inside a process that has a starter of its own.

Law: binds or takes over one listening socket, serves one ASGI application on it, and leaves in order: no new requests, answers
for all that are inside, then the end. Why this server: docs/adr/0010.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn

from infra.settings import Settings, SettingsError, variable
from ingress.wire import Guard, Noted, Take, WireLimits

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s that load balancers keep an idle connection, so that none sends on one that we are closing."""
LEAVE_SECONDS = 15


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the starter of the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        self.ready.set()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, in a class of its own for errors: uvicorn would end the process when the port is taken."""
    try:
        found = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} cannot be bound ({error.strerror}): set {variable('ingress_port')} to another port, or to 0"
        ) from error
    found.setblocking(False)
    return found


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


def settle_memory() -> None:
    """Leave what is there for good out of every collection, and collect seldom: a request makes no cycles worth a search."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


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
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(
        self, listening: socket.socket, ended: Callable[[asyncio.Task[None]], object] | None = None
    ) -> None:
        """Serve; `ended` is told when it ends, also by itself."""
        self._guard.start()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve(sockets=[listening]), name="ingress-http")
        if ended is not None:
            self._task.add_done_callback(ended)
        ready = loop.create_task(self._server.ready.wait())
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def stop(self) -> None:
        """Take no more requests, and answer those that are inside. May be called twice."""
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=LEAVE_SECONDS + 5)
            self._task = None
        await self._guard.stop()
