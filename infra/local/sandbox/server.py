"""The stand-in's server: one address on loopback for both vendors' APIs, the controls and the pages.

Law: binds loopback or refuses. It runs an event loop of its own in a thread of its own, so that a test or a console may
call it with synchronous libraries; `python -m infra.local.sandbox` gives it a process of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import uvicorn
import uvloop

from infra.local.sandbox.change_events import ChangeEvents
from infra.local.sandbox.control_api import ControlApi, methods
from infra.local.sandbox.controls import Controls
from infra.local.sandbox.hubspot_api import HubSpotApi
from infra.local.sandbox.limits import Faults
from infra.local.sandbox.pages import Pages
from infra.local.sandbox.people import People
from infra.local.sandbox.salesforce_api import SalesforceApi
from infra.local.sandbox.state import World
from infra.local.sandbox.web import Receive, Request, Response, Scope, Send, answer, read_body

if TYPE_CHECKING:
    from infra.local.sandbox.event_bus import EventBus

FLUSH_S = 0.2
"""Answers of deliveries and API writes reach the journal's file at least this often."""


class NotLoopbackError(ValueError):
    """The sandbox was asked to listen where others could reach it."""


def require_loopback(host: str) -> str:
    """The address to bind; raises NotLoopbackError for any that is not loopback."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
            return "127.0.0.1" if host == "localhost" else host
    raise NotLoopbackError(
        f"the sandbox holds no real protection and listens on loopback alone: use 127.0.0.1 instead of {host}"
    )


class Application:
    """The ASGI application."""

    def __init__(self, world: World, people: People, base: str, time_scale: float, *, events: bool = False) -> None:
        faults = Faults()
        self.world = world
        self.hubspot = HubSpotApi(world, faults)
        self.salesforce = SalesforceApi(world, faults, base)
        self.events = ChangeEvents(world) if events else None
        self.controls = Controls(world, self.hubspot, self.salesforce, people, time_scale)
        self.controls._use(self.events)  # noqa: SLF001 - not a control call, so not public
        self.control_api = ControlApi(world, self.controls)
        self.pages = Pages(world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        if body is None:
            await answer({"error": "the body is too large or was cut off"}, 413).send(send)
            return
        response = await self._route(Request(scope, body))
        await response.send(send)

    async def _route(self, request: Request) -> Response:
        path = request.path
        if path.startswith(("/crm/", "/oauth/", "/account-info/")):
            return await self.hubspot.handle(request)
        if path.startswith("/services/"):
            return await self.salesforce.handle(request)
        if path.startswith("/sandbox/"):
            return await self.control_api.handle(request)
        return self.pages.handle(request)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class Sandbox:
    """Both CRMs on one address. `start` and `stop` once each, or `async with`; `controls` from any thread."""

    def __init__(
        self,
        data: Path,
        *,
        port: int = 0,
        seed: int = 1,
        time_scale: float = 1.0,
        host: str = "127.0.0.1",
        events: bool = False,
        keepalive_s: float = 270.0,
    ) -> None:
        """`data`: folder of the journal; `port` 0: any free one; `time_scale` stretches all delays of deliveries; `events`: Salesforce's
        event bus, too, over gRPC at `events_url`, whose idle streams hear every `keepalive_s` that they are alive.
        """
        self.events = events
        self.events_url = ""
        self.keepalive_s = keepalive_s
        self.data = data
        self.host = require_loopback(host)
        self.port = port
        self.seed = seed
        self.time_scale = time_scale
        self.base = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None
        self._app: Application | None = None
        self._people: People | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> str:
        """Bind and serve; returns the base URL. Raises OSError when the port is taken."""
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self.base = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="sandbox", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(ready)
        return self.base

    async def stop(self) -> None:
        """Stop people, deliveries and server, and close the journal; may be called twice."""
        if self._thread is None or self._server is None:
            return
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    @property
    def controls(self) -> Controls:
        """The controls, callable from any thread (a call blocks until the sandbox's own loop has made it)."""
        if self._app is None:
            raise RuntimeError("the sandbox is not started: `await sandbox.start()` first")
        return cast("Controls", _Proxy(self))

    # ---------------------------------------------------------------- inside its thread

    def _run(self, listener: socket.socket, ready: concurrent.futures.Future[None]) -> None:
        uvloop.run(self._serve(listener, ready))

    async def _serve(self, listener: socket.socket, ready: concurrent.futures.Future[None]) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            world = World(self.data, self.seed)
            self._people = People(world, self.seed)
            self._app = Application(world, self._people, self.base, self.time_scale, events=self.events)
            config = uvicorn.Config(
                self._app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, server_header=False,
                timeout_keep_alive=30, timeout_graceful_shutdown=2,
            )  # fmt: skip
            self._server = _Server(config)
            bus = await self._event_bus(self._app.events)
        except BaseException as error:
            listener.close()
            ready.set_exception(error)
            raise
        async with self._flushing(world):
            serving = asyncio.ensure_future(self._server.serve(sockets=[listener]))
            await self._server.up.wait()
            ready.set_result(None)
            await serving
            if bus is not None:
                await bus.stop()
            self._people.stop()
            await self._app.controls._close()  # noqa: SLF001 - not a control call, so not public
        world.journal.close()

    async def _event_bus(self, events: ChangeEvents | None) -> EventBus | None:
        if events is None:
            return None
        from infra.local.sandbox.event_bus import EventBus  # noqa: PLC0415 - gRPC starts threads of its own

        bus = EventBus(events, keepalive_s=self.keepalive_s)
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.events_url = f"http://{await bus.start(host)}"
        return bus

    @contextlib.asynccontextmanager
    async def _flushing(self, world: World) -> AsyncIterator[None]:
        async def flush() -> None:
            while True:
                await asyncio.sleep(FLUSH_S)
                world.journal.flush()

        task = asyncio.ensure_future(flush())
        try:
            yield
        finally:
            task.cancel()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the sandbox's loop and wait for its result; raises what it raises."""
        assert self._loop is not None
        if threading.current_thread() is self._thread:
            return function()

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


class _Proxy:
    """Controls, called on the right thread."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __getattr__(self, name: str) -> Any:
        if name not in methods():
            raise AttributeError(f"no control {name!r}; there are: {', '.join(methods())}")
        app = self._sandbox._app  # noqa: SLF001 - one class in two parts
        method = getattr(app.controls, name) if app else None

        def call(*args: Any, **kwargs: Any) -> Any:
            assert method is not None
            return self._sandbox.call(lambda: method(*args, **kwargs))

        return call
