"""Wires the front door: the role, and the ASGI application inside it.

Law: wires and nothing else. Needs Kafka and PostgreSQL to start; afterwards PostgreSQL may go away for as long as the keys in
memory last (this hour and the next, for endpoints that have been used), and Kafka for as long as senders try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

from infra.plugins import load
from infra.role import Parts, Readiness, Role
from infra.settings import Settings, SettingsError, require, variable
from ingress.gate import Gate
from ingress.ledger import Ledger, PostgresRefusals
from ingress.receiver import ACK_SECONDS, Receiver
from ingress.sources.source import Source
from schemas.topics import DELIVERIES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADROOM_BYTES = 20_000
"""What sealing, the packed head and Kafka's headers add to a body, generously."""
_BACKLOG = 2_048
_KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s that load balancers keep an idle connection, so that none sends on one that we are closing."""
_LEAVE_SECONDS = 15


class _Server(uvicorn.Server):
    """uvicorn inside a process that has a starter of its own."""

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


class Ingress(Role):
    """The front door as a role, and an ASGI application (HTTP and lifespan) for whoever brings a server."""

    def __init__(self, settings: Settings, parts: Parts | None = None, *, serve: bool = True) -> None:
        """With `serve`, `start` binds `ingress_host:ingress_port`, and `port` says which port that is."""
        self._public = settings.public_url
        if settings.environment == "development" and settings.public_url is None:
            # In development the address is rebuilt from Host, so that a tunnel or the sandbox works without ceremony.
            settings = settings.model_copy(update={"public_url": "http://127.0.0.1"})
        super().__init__(
            settings, "ingress", topics=[DELIVERIES], parts=parts, uses_redis=False, publish_timeout=ACK_SECONDS
        )
        self.gate = Gate(settings.max_in_flight_messages, settings.max_in_flight_bytes)
        self.port = 0
        self._serve = serve
        self._receiver: Receiver | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start whole or raise (SettingsError, Unavailable)."""
        require(self.settings, "ingress")
        room = self.settings.kafka_max_message_bytes - HEADROOM_BYTES
        if self.settings.ingress_max_body_bytes > room:
            raise SettingsError(
                f"ingress cannot start:\n  - {variable('ingress_max_body_bytes')} is {self.settings.ingress_max_body_bytes}, and one "
                f"message takes a body of {room} bytes at most: lower it, or raise {variable('kafka_max_message_bytes')} "
                "(and the broker's limit)"
            )
        await super().start()

    async def setup(self) -> None:
        """Wire the receiver, and serve."""
        ledger = Ledger(PostgresRefusals(self.parts.engine))
        await ledger.start()
        self.closing(ledger.stop)
        self._receiver = Receiver(
            endpoints=self.parts.directory,
            sources=load("ingress.sources", Source),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            keys=self.parts.keyring,
            codec=self.codec,
            publish=lambda outgoing: self.publisher.publish_sealed(DELIVERIES, outgoing),
            ledger=ledger,
            gate=self.gate,
            max_body_bytes=self.settings.ingress_max_body_bytes,
            body_seconds=self.settings.ingress_body_timeout_seconds,
            public_url=self._public,
        )
        if self._serve:
            await self._listen()

    async def teardown(self) -> None:
        """Take no more requests, and answer those that are inside."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving], timeout=_LEAVE_SECONDS + 5)
        self._server = self._serving = self._receiver = None

    def readiness(self) -> Readiness:
        """What every role has; PostgreSQL is left out, for the door goes on without it as long as its view is fresh."""
        checks = {name: check for name, check in super().readiness().items() if name != "postgres"}
        return {**checks, "load": self._load}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            if self._receiver is None:
                raise RuntimeError("start() first, or serve with lifespan on")
            await self._receiver(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:  # noqa: BLE001 - the server prints the message and ends the process
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        await send({"type": "lifespan.shutdown.complete"})

    async def _listen(self) -> None:
        host, port = self.settings.ingress_host, self.settings.ingress_port
        try:
            # Bound here: uvicorn would end the process when the port is taken.
            listening = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
            )
        except OSError as error:
            raise SettingsError(
                f"{host}:{port} cannot be bound ({error.strerror}): set {variable('ingress_port')} to another port, or to 0"
            ) from error
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would log addresses, and those of Salesforce endpoints are secrets
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
        self._server = server = _Server(config)
        self._serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]), name="ingress-http")
        self._serving.add_done_callback(self._ended)
        ready = asyncio.get_running_loop().create_task(server.ready.wait())
        await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def _load(self) -> str | None:
        if not self.gate.closed:
            return None
        return f"{self.gate.requests} requests and {self.gate.bytes} bytes in flight: refusing until it is below 90 % of the limits"


def build_app(settings: Settings, parts: Parts | None = None) -> Ingress:
    """The ASGI application, for any ASGI server with lifespan on (production servers run several processes of it)."""
    return Ingress(settings, parts, serve=False)


def build_role(settings: Settings, parts: Parts | None = None) -> Ingress:
    """The same with a server of its own: `start` listens on `ingress_host:ingress_port`."""
    return Ingress(settings, parts, serve=True)
