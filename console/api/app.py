"""The role `api`: wires the HTTP API, and runs backfills in the background.

Law: binds loopback unless a setting says otherwise in so many words. A backfill that somebody else runs is left to them; one
whose runner died is gone on with.
"""

from __future__ import annotations

import asyncio
import ipaddress

import uvicorn
from starlette.applications import Starlette

from console.api.operations import OPERATIONS
from console.api.routes import Desk
from console.api.serving import build
from console.backfill.runner import Runner
from console.backfill.store import Backfill, Backfills
from console.cards.app import routes as card_routes
from console.cards.shelf import CrmShelf
from console.connect import public_base
from infra.crm.vendors import connect, connected
from infra.http_server import Server, listen
from infra.role import Parts, Role
from infra.settings import Settings, SettingsError, variable
from infra.unavailable import as_unavailable
from schemas.topics import ALL, CHANGES_BULK

LOOK_EVERY_SECONDS = 2.0
QUIET_SECONDS = 20.0
"""A runner gives a sign of life every second: one that is quiet for so long is dead, or cannot reach the database."""


class Api(Role):
    """The HTTP API as a role; `port` says where it listens."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(settings, "api", topics=ALL, parts=parts)
        self.port = 0
        self.http: Starlette | None = None
        self._server: Server | None = None
        self._stop_backfills = asyncio.Event()
        self._backfills: dict[str, asyncio.Task[None]] = {}

    async def setup(self) -> None:
        """Bind and serve."""
        _check_address(self.settings)
        listening = listen(self.settings.api_host, self.settings.api_port, "api_port")
        try:
            self.port = listening.getsockname()[1]
            # A redirect address names the port that there is.
            self.settings = self.settings.model_copy(update={"api_port": self.port})
            hubspot = connect(self.settings, ["hubspot"])["hubspot"]
            self.closing(hubspot.close)
            cards = card_routes(
                self.parts.directory, CrmShelf(self.parts.engine, hubspot), lambda: public_base(self.settings)
            )
            self.http = build(Desk(self.settings, self.parts, self.publisher), OPERATIONS, cards)
            config = uvicorn.Config(
                self.http, log_config=None, access_log=False, lifespan="off", server_header=False, ws="none",
                timeout_keep_alive=30, timeout_graceful_shutdown=10, limit_concurrency=200,
            )  # fmt: skip
            self._server = Server(config)
            (await self._server.begin(listening, "api-http")).add_done_callback(self._ended)
        except BaseException:
            listening.close()
            raise
        self.background(self._run_backfills, "backfills")

    async def teardown(self) -> None:
        """Answer what is inside, stop backfills after their page, and leave."""
        self._stop_backfills.set()
        if self._server is not None and self._server.task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._server.task, return_exceptions=True)
        tasks = list(self._backfills.values())
        if tasks:
            await asyncio.wait(tasks, timeout=10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_backfills(self) -> None:
        store = Backfills(self.parts.engine)
        while True:
            try:
                for one in await store.orphans(QUIET_SECONDS):
                    if one.id not in self._backfills:
                        self._backfills[one.id] = asyncio.create_task(self._run(store, one), name=f"backfill-{one.id}")
            except Exception as error:
                if as_unavailable(error) is None:
                    raise
            self._backfills = {name: task for name, task in self._backfills.items() if not task.done()}
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _run(self, store: Backfills, one: Backfill) -> None:
        try:
            async with connected(self.settings, one.account.partition(":")[0]) as client, store.running(one.id) as held:
                if not held:
                    return
                now = await store.get(one.id)
                ended = await Runner(
                    now, store, client, self.parts.registry,
                    lambda changes: self.publisher.publish(CHANGES_BULK, changes), stop=self._stop_backfills,
                ).run()  # fmt: skip
                if ended.state == "paused":
                    # Nobody asked for that: this process ends, and another goes on.
                    await store.update(one.id, only_from=("paused",), state="queued")
        except Exception as error:  # noqa: BLE001 -- the row says what happened; the API goes on
            self.log.warning("backfill_ended", backfill=one.id, error=type(error).__name__)


def build_app(settings: Settings, parts: Parts | None = None) -> Api:
    """The role."""
    return Api(settings, parts)


def _check_address(settings: Settings) -> None:
    host = settings.api_host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.api_allow_remote:
        raise SettingsError(
            f"api cannot start:\n  - {variable('api_host')} is {host}, which others can reach: keep 127.0.0.1 behind a proxy that speaks "
            f"TLS, or set {variable('api_allow_remote')}=true"
        )
