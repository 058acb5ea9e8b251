"""The wires: what they do to bytes, with and without a fault."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.wire import KafkaAddresses, Wires


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says everything again."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    servers: list[asyncio.Server] = []
    transports: list[asyncio.Transport] = []

    class Again(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport
            transports.append(transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def close() -> None:
        servers[0].close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0.01)  # they close in the loop's next turns

    async def serve() -> None:
        server = await loop.create_server(Again, "127.0.0.1", 0)
        servers.append(server)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True)
    thread.start()
    ready.wait()
    yield ports[0]
    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def said(port: int, timeout: float = 2.0) -> socket.socket:
    """A connection that has been used once."""
    found = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    try:
        found.sendall(b"hello")
        assert found.recv(100) == b"hello"
    except BaseException:
        found.close()
        raise
    return found


def test_without_a_fault_bytes_pass_and_new_connections_lead_anew(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", 9), ("127.0.0.1", echo))
        said(port).close()
        wires.lead("server", ("127.0.0.1", echo))
        said(port).close()
        assert wires.struck("") == {}


def test_latency_counts_what_it_holds(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        wires.delay("server", 0.05)
        began = time.monotonic()
        said(port).close()
        assert time.monotonic() - began >= 0.1
        assert wires.struck("server")["chunks held"] == 2


def test_a_cut_connection_is_reset_and_a_refused_one_never_opens(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        open_one = said(port)
        wires.refuse("server", refused=True)
        with pytest.raises(ConnectionResetError):
            open_one.recv(100)
        # Reset before, or after, the first word.
        with pytest.raises((ConnectionError, AssertionError)):
            said(port)
        struck = wires.struck("server")
        assert (struck["connections reset"], struck["connections refused"]) == (1, 1)
        wires.refuse("server", refused=False)
        said(port).close()
        open_one.close()


def test_a_half_open_connection_hears_nothing_and_a_new_one_works(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        left = said(port, timeout=0.2)
        assert wires.half_open("server") == 1
        left.sendall(b"anybody?")
        with pytest.raises(TimeoutError):
            left.recv(100)
        said(port).close()
        assert wires.struck("server")["bytes unanswered"] == len(b"anybody?")
        left.close()


def test_kafkas_addresses_lead_through_the_wires_whatever_the_chunks():
    def frame(body: bytes) -> bytes:
        return struct.pack(">i", len(body)) + body

    def named(port: int) -> bytes:
        return b"\x00\x09127.0.0.1" + port.to_bytes(4, "big")

    rewrite = KafkaAddresses({9092: 20001, 9093: 20002}).stream()
    given = frame(b"one" + named(9092) + named(9093)) + frame(b"two" + named(9094))
    found = b"".join(rewrite(given[place : place + 5]) for place in range(0, len(given), 5))
    assert found == frame(b"one" + named(20001) + named(20002)) + frame(b"two" + named(9094))
