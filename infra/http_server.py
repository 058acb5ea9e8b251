"""uvicorn inside a process that has a starter of its own: one listening socket served, and signals left alone.

Law: the socket is bound here, for uvicorn would end the process when the port is taken. Who starts the process owns its signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Iterator

import uvicorn

from infra.settings import SettingsError, variable

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s that load balancers keep an idle connection, so that none sends on one that we are closing."""


class Server(uvicorn.Server):
    """Begun once; `should_exit` ends it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.task: asyncio.Task[None] | None = None
        """That serves, once begun; ends with what ended it."""
        self._ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the starter of the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        self._ready.set()

    async def begin(self, listening: socket.socket, name: str) -> asyncio.Task[None]:
        """Serve; returns the task that does, called `name`, once it accepts requests or has ended by itself."""
        self.task = asyncio.create_task(self.serve(sockets=[listening]), name=name)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, self.task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        return self.task


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises SettingsError that names `setting` when it cannot be bound."""
    try:
        found = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} cannot be bound ({error.strerror}): set {variable(setting)} to another port, or to 0"
        ) from error
    found.setblocking(False)
    return found


def settle_memory(*, in_small_steps: bool = False) -> None:
    """Leave what is there for good out of every collection, and collect seldom: requests and messages go by counting references,
    and what is remembered is no garbage. To be called when all of a process stands.

    Everything stands still while a collection looks at what is new: 15 ms for 50,000 objects. `in_small_steps` it is 10,000 and 3 ms;
    not where batches hold so many at a time, which would be looked at in vain.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*((10_000, 100, 100) if in_small_steps else (50_000, 20, 100)))
