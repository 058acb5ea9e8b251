"""The wires: what they do to bytes, with and without a fault."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.wire import KafkaAddresses, Wires


class Again(socketserver.BaseRequestHandler):
    """Says everything again."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(100):
                self.request.sendall(data)


class First(socketserver.BaseRequestHandler):
    """Speaks as soon as somebody comes."""

    def handle(self) -> None:
        self.request.sendall(b"welcome")
        self.request.recv(100)


class Echo(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything again."""
    with Echo(("127.0.0.1", 0), Again) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def said(port: int, timeout: float = 2.0) -> Iterator[socket.socket]:
    """A connection that has been used once."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as found:
        found.sendall(b"hello")
        assert found.recv(100) == b"hello"
        yield found


def test_without_a_fault_bytes_pass_and_new_connections_lead_anew(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", 9), ("127.0.0.1", echo))
        with said(port):
            wires.lead("server", ("127.0.0.1", echo))
        with said(port):
            assert wires.struck("") == {}


def test_a_server_that_speaks_first_is_heard():
    with Echo(("127.0.0.1", 0), First) as server, Wires() as wires:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        port = wires.add("server", ("127.0.0.1", server.server_address[1]))
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), timeout=2.0) as found:
                assert found.recv(100) == b"welcome"
        server.shutdown()


def test_latency_counts_what_it_holds(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        wires.delay("server", 0.05)
        began = time.monotonic()
        with said(port):
            assert time.monotonic() - began >= 0.1
        assert wires.struck("server")["chunks held"] == 2


def test_what_was_sent_before_the_sender_died_still_arrives():
    arrived = threading.Event()

    class Once(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(100) == b"the last words":
                arrived.set()

    with socketserver.TCPServer(("127.0.0.1", 0), Once) as server, Wires() as wires:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        port = wires.add("server", server.server_address)
        wires.delay("server", 0.05)
        with socket.create_connection(("127.0.0.1", port)) as dying:
            dying.sendall(b"the last words")
        assert arrived.wait(2.0)
        thread.join()


def test_a_cut_connection_is_reset_and_a_refused_one_never_opens(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        with said(port) as open_one:
            wires.refuse("server", refused=True)
            with pytest.raises(ConnectionResetError):
                open_one.recv(100)
        # Reset before, or after, the first word.
        with pytest.raises((ConnectionError, AssertionError)), said(port):
            pass
        struck = wires.struck("server")
        assert (struck["connections reset"], struck["connections refused"]) == (1, 1)
        wires.refuse("server", refused=False)
        with said(port):
            pass


def test_a_half_open_connection_hears_nothing_and_a_new_one_works(echo):
    with Wires() as wires:
        port = wires.add("server", ("127.0.0.1", echo))
        with said(port, timeout=0.2) as left:
            assert wires.half_open("server") == 1
            left.sendall(b"anybody?")
            with pytest.raises(TimeoutError):
                left.recv(100)
            with said(port):
                pass
            assert wires.struck("server")["bytes unanswered"] == len(b"anybody?")


def test_kafkas_addresses_lead_through_the_wires_whatever_the_chunks():
    def frame(body: bytes) -> bytes:
        return struct.pack(">i", len(body)) + body

    def named(port: int) -> bytes:
        return b"\x00\x09127.0.0.1" + port.to_bytes(4, "big")

    rewrite = KafkaAddresses({9092: 20001, 9093: 20002}).stream()
    given = frame(b"one" + named(9092) + named(9093)) + frame(b"two" + named(9094))
    found = b"".join(rewrite(given[place : place + 5]) for place in range(0, len(given), 5))
    assert found == frame(b"one" + named(20001) + named(20002)) + frame(b"two" + named(9094))
