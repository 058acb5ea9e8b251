"""The wires between roles and servers: TCP proxies of the harness, on which a network fault is a setting.

Law: all traffic of a role passes here, both ways, untouched as long as no fault is set (Kafka's answers apart, whose
addresses are made to lead here again). Every fault counts what it struck. Runs on an event loop of its own.

Faults: `delay` (seconds, each way, order kept), `refuse` (new connections are reset), `cut` (all connections are reset
now), `half_open` (the server's side of every connection is gone, and ours is told nothing), `freeze` (bytes are held).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")
Address = tuple[str, int]
Rewrite = Callable[[bytes], bytes]

_HIGH_WATER = 1024 * 1024
_LARGEST_REWRITTEN = 256 * 1024
"""Kafka's answers with addresses in them are small; large ones are records."""


class _End(asyncio.Protocol):
    """One end of a connection."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.transport: Any = None
        self.other: _End | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.deaf = False
        self.last = False
        """The other side has ended: close when all of it has arrived."""
        self.rewrite: Rewrite | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.wire.struck["bytes unanswered"] += len(data)
            return
        if self.rewrite is not None:
            data = self.rewrite(data)
        if data and self.other is not None:
            self.other.send(data)

    def send(self, data: bytes) -> None:
        """Write now, or as late as the wire says."""
        if self.wire.delay <= 0 and not self.wire.frozen and not self.waiting:
            self._write(data)
            return
        loop = asyncio.get_running_loop()
        self.wire.struck["chunks held"] += 1
        self.waiting.append((loop.time() + self.wire.delay, data))
        self._wait()

    def _wait(self) -> None:
        if self.timer is None and self.waiting and not self.wire.frozen:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_at(max(loop.time(), self.waiting[0][0]), self._due)

    def _due(self) -> None:
        self.timer = None
        now = asyncio.get_running_loop().time()
        while self.waiting and self.waiting[0][0] <= now and not self.wire.frozen:
            self._write(self.waiting.popleft()[1])
        if self.last and not self.waiting:
            self.transport.close()
        self._wait()

    def end(self) -> None:
        """Close once what is under way has arrived: what a process sent before it died is not unsent."""
        self.last = True
        if not self.waiting:
            self.transport.close()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._wait()

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            if not other.deaf and other.transport is not None:
                other.end()
        self.wire.ends.discard(self)

    def reset(self) -> None:
        """Close with RST, as a router does."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and not self.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class Wire:
    """One listening port and the server behind it. Belongs to the loop of `Wires`; use it through that."""

    def __init__(self, name: str, upstreams: Sequence[Address]) -> None:
        self.name = name
        self.upstreams = list(upstreams)
        self.delay = 0.0
        self.frozen = False
        self.refused = False
        self.rewrite_for: Callable[[], Rewrite] | None = None
        self.ends: set[_End] = set()
        self.struck: Counter[str] = Counter()
        self.port = 0
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Front(self), "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    def connect(self, front: _Front) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(front))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, front: _Front) -> None:
        loop = asyncio.get_running_loop()
        first = next(self._turn)
        for place in range(len(self.upstreams)):
            host, port = self.upstreams[(first + place) % len(self.upstreams)]
            try:
                await loop.create_connection(lambda: _Back(self, front), host, port)
            except OSError:
                continue
            return
        front.reset()

    # faults

    def cut(self) -> int:
        """Reset every connection; how many."""
        fronts = [end for end in self.ends if isinstance(end, _Front)]
        for end in list(self.ends):
            end.reset()
        self.struck["connections reset"] += len(fronts)
        return len(fronts)

    def half_open(self) -> int:
        """Take the server's side of every connection away; the client is told nothing, now or later."""
        fronts = [end for end in self.ends if isinstance(end, _Front) and not end.deaf]
        for front in fronts:
            front.deaf = True
            back, front.other = front.other, None
            if back is not None:
                back.other = None
                back.reset()
        self.struck["connections left half-open"] += len(fronts)
        return len(fronts)

    def thaw(self) -> None:
        for end in list(self.ends):
            end.thaw()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for end in list(self.ends):
            end.reset()


class _Front(_End):
    """The client's end."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.early = bytearray()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.wire.refused:
            self.wire.struck["connections refused"] += 1
            self.reset()
            return
        self.wire.connect(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None and not self.deaf:
            # The way to the server is not there yet.
            self.early += data
        else:
            super().data_received(data)


class _Back(_End):
    """The server's end."""

    def __init__(self, wire: Wire, front: _Front) -> None:
        super().__init__(wire)
        self._front = front

    def connection_made(self, transport: Any) -> None:
        """Joined here and not by who awaits the connection: a server that speaks first (gRPC's does) would not be heard."""
        super().connection_made(transport)
        front, wire = self._front, self.wire
        if wire.rewrite_for is not None:
            self.rewrite = wire.rewrite_for()
        early = bytes(front.early)
        front.early.clear()
        if not front.transport.is_closing():
            front.other, self.other = self, front
            wire.ends |= {front, self}
        if early:
            self.send(early)
        if self.other is None:
            # It came, said something and left before there was a way.
            self.end()


class KafkaAddresses:
    """Makes a broker's answers name our ports: the host and the port of each broker stand there one after the other."""

    def __init__(self, ports: dict[int, int]) -> None:
        """`ports`: the broker's → ours."""
        self._pairs = [(_endpoint(real), _endpoint(ours)) for real, ours in ports.items()]

    def stream(self) -> Rewrite:
        """For one connection: takes bytes as they come, returns whole answers."""
        held = bytearray()

        def rewrite(data: bytes) -> bytes:
            held.extend(data)
            done = bytearray()
            while len(held) >= 4:
                (size,) = struct.unpack_from(">i", held)
                if len(held) < 4 + size:
                    break
                frame = bytes(held[: 4 + size])
                del held[: 4 + size]
                if size <= _LARGEST_REWRITTEN:
                    for real, ours in self._pairs:
                        frame = frame.replace(real, ours)
                done += frame
            return bytes(done)

        return rewrite


def _endpoint(port: int) -> bytes:
    return b"127.0.0.1" + port.to_bytes(4, "big")


class Wires:
    """All of them, on a thread of their own. Use as a context manager; methods may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._wires: dict[str, Wire] = {}

    def __enter__(self) -> Self:
        ready = threading.Event()

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._over = asyncio.Event()
            ready.set()
            await self._over.wait()
            for wire in self._wires.values():
                await wire.close()
            await asyncio.sleep(0)

        self._thread = threading.Thread(target=lambda: uvloop.run(run()), name="wires", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(10)

    def add(self, name: str, *upstreams: Address) -> int:
        """A wire to one server (or to any of several); returns our port."""
        wire = self._wires[name] = Wire(name, upstreams)
        self._run(wire.listen)
        return wire.port

    def add_kafka(self, bootstrap: str) -> str:
        """A wire to each broker; returns the bootstrap addresses that lead through them."""
        ports = [int(each.rpartition(":")[2]) for each in bootstrap.split(",")]
        ours = {port: self.add(f"kafka-{number}", ("127.0.0.1", port)) for number, port in enumerate(ports, start=1)}
        addresses = KafkaAddresses(ours)
        for number in range(1, len(ports) + 1):
            self._wires[f"kafka-{number}"].rewrite_for = addresses.stream
        return ",".join(f"127.0.0.1:{port}" for port in ours.values())

    def names(self, prefix: str) -> list[str]:
        """Wires by the beginning of their names."""
        return [name for name in self._wires if name.startswith(prefix)]

    def lead(self, name: str, *upstreams: Address) -> None:
        """Lead new connections elsewhere."""
        self._call(lambda: setattr(self._wires[name], "upstreams", list(upstreams)))

    def delay(self, prefix: str, seconds: float) -> None:
        """Every byte, either way, comes so much later."""
        for name in self.names(prefix):
            self._call(lambda name=name: setattr(self._wires[name], "delay", seconds))

    def refuse(self, prefix: str, refused: bool) -> None:
        """Reset all connections, and each new one; or let them in again."""
        for name in self.names(prefix):

            def act(wire: Wire = self._wires[name]) -> None:
                wire.refused = refused
                if refused:
                    wire.cut()

            self._call(act)

    def freeze(self, prefix: str, frozen: bool) -> None:
        """Hold every byte, or let them go."""
        for name in self.names(prefix):

            def act(wire: Wire = self._wires[name]) -> None:
                wire.frozen = frozen
                if not frozen:
                    wire.thaw()

            self._call(act)

    def cut(self, prefix: str) -> int:
        """Reset every connection; how many."""
        return sum(self._call(self._wires[name].cut) for name in self.names(prefix))

    def half_open(self, prefix: str) -> int:
        """See the module; how many connections."""
        return sum(self._call(self._wires[name].half_open) for name in self.names(prefix))

    def struck(self, prefix: str) -> Counter[str]:
        """What faults struck since this was last asked."""
        found: Counter[str] = Counter()
        for name in self.names(prefix):

            def take(wire: Wire = self._wires[name]) -> Counter[str]:
                taken = Counter(wire.struck)
                wire.struck.clear()
                return taken

            found += self._call(take)
        return found

    def clear(self) -> None:
        """Take every fault back."""
        for name, wire in self._wires.items():
            self.delay(name, 0.0)
            self.freeze(name, frozen=False)
            with contextlib.suppress(KeyError):
                self._call(lambda wire=wire: setattr(wire, "refused", False))

    def _call(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return self._run(run)

    def _run(self, work: Callable[[], Any]) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)
