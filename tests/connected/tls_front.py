"""TLS in front of a real server whose build has none: ends TLS with a certificate and hands every byte on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

SSL_REQUEST = struct.pack(">ii", 8, 80877103)
"""What a client of PostgreSQL says before anything else: https://www.postgresql.org/docs/current/protocol-flow.html"""


class _Front:
    def __init__(self, port: int, context: ssl.SSLContext, *, asks_first: bool) -> None:
        self._port = port
        self._context = context
        self._asks_first = asks_first
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, told: list[int], up: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=None if self._asks_first else self._context
        )
        told.append(server.sockets[0].getsockname()[1])
        up.set()
        async with server:
            await stop.wait()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = None
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self._asks_first:
                    if await reader.readexactly(8) != SSL_REQUEST:
                        return  # whoever does not ask for TLS is let nowhere
                    writer.write(b"S")
                    await writer.start_tls(self._context)
                there, behind = await asyncio.open_connection("127.0.0.1", self._port)
                async with _both(_copy(reader, behind), _copy(there, writer)):
                    pass
        finally:
            for each in (writer, behind):
                if each is not None:
                    each.close()
                    with contextlib.suppress(OSError):
                        await each.wait_closed()


@contextlib.asynccontextmanager
async def _both(*ways: Coroutine[Any, Any, None]):
    """Until one of them ends."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(65536):
        writer.write(block)
        await writer.drain()


@contextlib.contextmanager
def tls_front(port: int, certificate: Path, key: Path, *, asks_first: bool = False) -> Iterator[int]:
    """The port on loopback that speaks TLS for the server at `port`. `asks_first`: the client sends an SSLRequest, as
    PostgreSQL's do. In a thread of its own, so that it serves the loops of all tests.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    told: list[int] = []
    up, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    # What a client that refuses us leaves behind is its test's claim, and no news here.
    loop.set_exception_handler(lambda _loop, _told: None)
    front = _Front(port, context, asks_first=asks_first)
    thread = threading.Thread(target=lambda: loop.run_until_complete(front.serve(told, up, stop)), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield told[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
