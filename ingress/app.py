"""Wires the front door: the role, and the ASGI application inside it.

Law: wires and nothing else. Needs Kafka and PostgreSQL to start; afterwards PostgreSQL may go away for as long as the keys in
memory last (this hour and the next, for endpoints that have been used), and Kafka for as long as senders try again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

from infra import metrics
from infra.http_server import listen
from infra.plugins import load
from infra.role import Parts, Readiness, Role
from infra.settings import Settings, SettingsError, require, variable
from infra.unavailable import Unavailable
from ingress import answers, tls
from ingress.gate import READY_BELOW, Gate
from ingress.identity import RequestIds
from ingress.known import Limits
from ingress.ledger import Ledger, PostgresRefusals, Refused
from ingress.lifeline import follow_parent
from ingress.outlet import Outlet
from ingress.proxies import Proxies
from ingress.rates import Rates
from ingress.receiver import ACK_SECONDS, Receiver
from ingress.server import HttpServer, taken_over, wire_limits
from ingress.sources.source import Source
from schemas.delivery import Refusal
from schemas.topics import DELIVERIES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADROOM_BYTES = 20_000
"""What sealing, the packed head and Kafka's headers add to a body, generously."""
KEYS_EVERY_SECONDS = 5.0
MAX_KEYS_AHEAD = 5_000
"""Endpoints whose keys are made before anybody delivers there; beyond, a key is made with an endpoint's first delivery."""


class Ingress(Role):
    """The front door as a role, and an ASGI application (HTTP and lifespan) for whoever brings a server."""

    def __init__(self, settings: Settings, parts: Parts | None = None, *, serve: bool = True) -> None:
        """With `serve`, `start` binds `ingress_host:ingress_port`, and `port` says which port that is."""
        self._public = settings.public_url
        if settings.public_url is None and (settings.environment == "development" or settings.trusted_proxies):
            # The address is rebuilt: from what trusted proxies say; in development, where a tunnel or the sandbox should work
            # without ceremony, also from Host.
            settings = settings.model_copy(update={"public_url": "http://127.0.0.1"})
        super().__init__(
            settings, "ingress", topics=[DELIVERIES], parts=parts, uses_redis=False, publish_timeout=ACK_SECONDS
        )
        self.gate = Gate(settings.max_in_flight_messages, settings.max_in_flight_bytes)
        self.port = 0
        self._serve = serve
        self._receiver: Receiver | None = None
        self._server: HttpServer | None = None
        self._ledger: Ledger | None = None
        self._ids = RequestIds(0)

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
        settings = self.settings
        if settings.ingress_lifeline is not None:
            follow_parent(settings.ingress_lifeline)
        self._ledger = Ledger(
            PostgresRefusals(self.parts.engine, timedelta(hours=settings.ingress_refused_hours)),
            keeps_requests=settings.ingress_refused_hours > 0,
        )
        await self._ledger.start()
        self.closing(self._ledger.stop)
        outlet = Outlet(
            DELIVERIES.name,
            self.publisher.producer,
            self.publisher.broken,
            seconds=ACK_SECONDS,
            max_message_bytes=settings.kafka_max_message_bytes,
        )
        self.closing(outlet.stop)
        self._receiver = Receiver(
            endpoints=self.parts.directory,
            sources=load("ingress.sources", Source),  # type: ignore[type-abstract]  # the protocol is only asked for its members
            keys=self.parts.keyring,
            publish=outlet.publish,
            offer=outlet.offer,
            ledger=self._ledger,
            gate=self.gate,
            rates=Rates(
                settings.ingress_rate_per_second, settings.ingress_rate_burst, processes=settings.ingress_processes
            ),
            limits=Limits(
                settings.ingress_max_body_bytes,
                settings.ingress_max_split_bytes,
                settings.ingress_body_timeout_seconds,
            ),
            public_url=self._public,
            proxies=Proxies(
                settings.trusted_proxies, settings.trusted_proxy_headers, settings.client_certificate_header
            ),
            trace_ratio=settings.trace_ratio,
        )
        self.background(self._make_keys, "delivery-keys")
        if self._serve:
            await self._listen()

    async def teardown(self) -> None:
        """Take no more requests, and answer those that are inside."""
        if self._server is not None:
            await self._server.stop()
        self._server = self._receiver = None

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
        listening = self._socket()
        self.port = listening.getsockname()[1]
        direct = self._receiver.direct if self._receiver is not None else None
        self._server = HttpServer(
            self, wire_limits(self.settings), self._note_wire, tls.options(self.settings),
            take=direct.take if direct is not None else None,
        )  # fmt: skip
        await self._server.start(listening, self._ended)

    def _socket(self) -> socket.socket:
        if self.settings.ingress_socket is not None:
            # A copy: several roles of one process, or a second start, may be given the same one.
            return taken_over(os.dup(self.settings.ingress_socket))
        return listen(self.settings.ingress_host, self.settings.ingress_port, "ingress_port")

    def _note_wire(self, cause: Refusal, detail: str) -> str:
        """Count and list what never became a request."""
        request_id, _ = self._ids.draw()
        metrics.REQUESTS.labels("none", cause.value).inc()
        if self._ledger is not None:
            self._ledger.note(
                Refused(request_id, datetime.now(UTC), "", "", cause, answers.STATUS[cause], detail, size=0)
            )
        return request_id

    async def _make_keys(self) -> None:
        """See to it that every endpoint has its key of this hour and the next, so that PostgreSQL may be away for the first delivery too."""
        while True:
            now = datetime.now(UTC)
            enabled = [found for found in self.parts.directory.endpoints().values() if found.enabled]
            for endpoint in enabled[:MAX_KEYS_AHEAD]:
                try:
                    await self.parts.keyring.for_delivery(endpoint.tenant, endpoint.id, now)
                except Unavailable:
                    break
            await asyncio.sleep(KEYS_EVERY_SECONDS)

    async def _load(self) -> str | None:
        share = self.gate.fullness()
        if share < READY_BELOW and not self.gate.closed:
            return None
        return (
            f"{self.gate.requests} requests and {self.gate.bytes} bytes in flight, {share:.0%} of the limits: "
            "send elsewhere, or add processes"
        )


def build_app(settings: Settings, parts: Parts | None = None) -> Ingress:
    """The ASGI application, for any ASGI server with lifespan on (production servers run several processes of it)."""
    return Ingress(settings, parts, serve=False)


def build_role(settings: Settings, parts: Parts | None = None) -> Ingress:
    """The same with a server of its own: `start` listens on `ingress_host:ingress_port`."""
    return Ingress(settings, parts, serve=True)
