"""Wires the gateway's server, and serves it: uvicorn (uvloop, httptools) inside a process that has a starter of its own.

Law: wires and nothing else. Needs PostgreSQL and the provider's key to start; Redis away, it goes on within its local share
(`llm_gateway.core`), and Kafka it does not need at all. Leaves in order: no new requests, answers for those that are
inside, their accounts, then the end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from functools import partial

import uvicorn

from infra.database.engine import build_engine
from infra.http_server import BACKLOG, KEEP_ALIVE_SECONDS, Server, listen
from infra.keyring import Keyring
from infra.ops import Check, Dispensable, ask_all, ask_postgres, ask_redis
from infra.redis import build_redis
from infra.settings import Settings, require, variable
from infra.telemetry import log
from llm_gateway.accounting import Ledger
from llm_gateway.core import Core
from llm_gateway.policy import Policies
from llm_gateway.routing import served
from llm_gateway.server.batches import Batches
from llm_gateway.server.chat import Chat
from llm_gateway.server.choosing import Choosing
from llm_gateway.server.door import Door
from llm_gateway.server.keys import KeyView
from llm_gateway.server.meter import Meter
from llm_gateway.server.upstream import Upstream


class GatewayServer:
    """See `infra.role.RoleApp`."""

    name = "gateway"

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError with everything that is missing. No traffic yet."""
        require(settings, "gateway")
        assert settings.master_keys is not None
        self.settings = settings
        self.engine = build_engine(settings)
        self.keyring = Keyring(self.engine, settings.master_keys)
        self._redis = build_redis(settings)
        self.port = 0
        """That it listens on, once started."""
        self._upstream = Upstream.of(settings)
        self._served = served(settings, self._upstream, lambda key, url, name: Upstream(
            key, url, settings.gateway_timeout_seconds, name, f"[providers.{name}] of {variable('routes')}"))  # fmt: skip
        self._ledger = Ledger(self.engine)
        self._policies = Policies(settings, self.engine)
        self.core = Core(settings, self._redis, self._policies, self._ledger.counted)
        self._ledger.confirm_with(self.core.catch_up)
        self._keys = KeyView(self.engine)
        self._chat = Chat(self.core, self._ledger, spans_hold_content=settings.gateway_content_in_spans)
        places = {self._upstream.name: self._upstream}
        for route in self._served.routing.everywhere if self._served is not None else ():
            assert isinstance(route.provider, Upstream)
            places[route.provider.name] = route.provider
        self._meters = {
            name: Meter(self.core, self._ledger, place, settings.cache_ttl_seconds) for name, place in places.items()
        }
        self._choosing = Choosing(self._served, self.core, self._policies, self._chat, self._meters)
        self._batches = Batches(self.engine, self.core, self._upstream)
        self._server: Server | None = None
        self._began = False

    async def start(self) -> None:
        """See RoleApp. Raises SettingsError, Unavailable."""
        listening = listen(self.settings.gateway_host, self.settings.gateway_port, "gateway_port")
        self._began = True
        try:
            await self.keyring.start()
            self._ledger.start()
            await self._policies.start()
            await self._keys.start()
            await self.core.connect()
            self._batches.start()
            door = Door(
                self.settings, self._keys, self.keyring, self._chat, self._meters[self._upstream.name], self._choosing,
                self._batches, self._ready,
            )  # fmt: skip
            await self._serve(door, listening)
        except BaseException:
            listening.close()
            await self.drain(1.0)
            raise
        self.port = listening.getsockname()[1]
        log("llm_gateway").info("gateway_listens", host=self.settings.gateway_host, port=self.port)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 -- bounds several waits, not one
        """See RoleApp."""
        if self._server is not None and self._server.task is not None:
            self._server.config.timeout_graceful_shutdown = max(1, int(timeout) - 3)
            self._server.should_exit = True
            await asyncio.wait([self._server.task], timeout=timeout)
        if not self._began:
            return
        self._began = False
        await self._chat.close()
        await self._batches.stop()
        await self._keys.stop()
        await self._policies.stop()
        await self._ledger.stop()
        await self.core.close()
        for meter in self._meters.values():
            await meter.upstream.close()
        await self.keyring.stop()
        await self._redis.aclose()
        await self.engine.dispose()

    async def wait(self) -> None:
        """See RoleApp."""
        if self._server is None or self._server.task is None:
            raise RuntimeError("gateway: start() first")
        await asyncio.wait([self._server.task])
        if not self._server.task.cancelled():
            self._server.task.result()

    def readiness(self) -> Mapping[str, Check]:
        """See RoleApp. Redis away is told, and makes it unready only where quotas are closed then."""
        redis: Check = partial(ask_redis, self._redis)
        if self.settings.quotas_without_redis == "open":
            redis = Dispensable(redis)
        return {"postgres": partial(ask_postgres, self.engine), "redis": redis}

    async def _ready(self) -> dict[str, str | None]:
        return await ask_all(self.readiness())

    async def _serve(self, door: Door, listening: socket.socket) -> None:
        config = uvicorn.Config(
            door,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = Server(config)
        await self._server.begin(listening, "gateway-http")
