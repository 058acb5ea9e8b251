"""What every role is made of: its parts, started in order and stopped in reverse, inside FastStream's lifecycle.

Law: wires and supervises; handles no message. A role starts whole or not at all, and stops by draining: fetch nothing,
finish what is in work, commit, leave.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from faststream import FastStream
from faststream.specification import AsyncAPI
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import telemetry
from infra.accounts import Directory, Registry
from infra.database.engine import build_engine
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.connection import build_broker
from infra.kafka.pump import Handler, Pump
from infra.kafka.raw import Raw
from infra.kafka.topics import check_topics
from infra.keyring import Keyring
from infra.ops import Check, ask_postgres, ask_redis
from infra.redis import build_redis
from infra.settings import Role as RoleName
from infra.settings import Settings, SettingsError, require, variable
from schemas.dead_letter import Cause
from schemas.envelope import Envelope, EnvelopeError
from schemas.topics import Topic

Readiness = Mapping[str, Check]

_SYSTEMIC = frozenset({Cause.UNPARSABLE, Cause.UNKNOWN_VERSION})
"""What our own codec refuses: many messages in a row have these causes only when we are wrong. HANDLER_BUG is counted by the pump
itself; destroyed keys are nobody's fault, a master key that is missing raises SettingsError, and a sender's body is the sender's."""


class RoleApp(Protocol):
    """A role, as the console starts and stops it."""

    name: str

    async def start(self) -> None:
        """Start whole or raise (SettingsError, Unavailable), leaving nothing behind. Called once."""
        ...

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 -- bounds several waits, not one
        """Stop within about `timeout` seconds, losing nothing. May be called twice, and after a failed start."""
        ...

    async def wait(self) -> None:
        """Block until something stops the role: returns after `drain`, raises what broke otherwise."""
        ...

    def readiness(self) -> Readiness:
        """Every part that it needs, to be asked: None, or what is wrong."""
        ...


class Parts:
    """What roles of one process share, each built at first use and started once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._users = 0
        self._lock = asyncio.Lock()

    @cached_property
    def engine(self) -> AsyncEngine:
        """PostgreSQL."""
        return build_engine(self.settings)

    @cached_property
    def redis(self) -> Redis:
        """Redis or Valkey."""
        return build_redis(self.settings)

    @cached_property
    def keyring(self) -> Keyring:
        """The keyring; raises SettingsError without a master key."""
        if self.settings.master_keys is None:
            raise SettingsError(f"{variable('master_keys')} is not set; make one with `hookline config new-master-key`")
        return Keyring(self.engine, self.settings.master_keys)

    @cached_property
    def registry(self) -> Registry:
        """Tenants, endpoints and accounts, to be changed."""
        return Registry(self.engine, self.keyring)

    @cached_property
    def directory(self) -> Directory:
        """Endpoints and accounts, to be read from memory."""
        return Directory(self.registry)

    async def start(self) -> None:
        """Called by every role that uses them; the first call starts."""
        async with self._lock:
            if self._users == 0:
                await self.keyring.start()
                await self.directory.start()
            self._users += 1

    async def stop(self) -> None:
        """Called by every role that uses them; the last call stops."""
        async with self._lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users == 0:
                await self._close()

    async def _close(self) -> None:
        if "directory" in self.__dict__:
            await self.directory.stop()
        if "keyring" in self.__dict__:
            await self.keyring.stop()
        if "redis" in self.__dict__:
            await self.redis.aclose()
        if "engine" in self.__dict__:
            await self.engine.dispose()
        for name in ("directory", "registry", "keyring", "redis", "engine"):
            self.__dict__.pop(name, None)

    async def ask_postgres(self) -> str | None:
        """For readiness."""
        return await ask_postgres(self.engine)

    async def ask_redis(self) -> str | None:
        """For readiness."""
        return await ask_redis(self.redis)


class Role:
    """Base of the roles: `build_app` makes one, overrides or passes `setup`, and adds pumps and background work there."""

    def __init__(
        self,
        settings: Settings,
        name: RoleName,
        *,
        topics: Sequence[Topic[Any]],
        parts: Parts | None = None,
        uses_redis: bool = True,
        publish_timeout: float = 30.0,
    ) -> None:
        """`topics`: all that the role reads or writes; it refuses to start when one is missing or differs."""
        self.settings = settings
        self.name: str = name
        self.parts = parts or Parts(settings)
        self.topics = tuple(topics)
        self.log = telemetry.log(name)
        self._role: RoleName = name
        self._uses_redis = uses_redis
        self._publish_timeout = publish_timeout
        self._pumps: list[Pump] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Future[None] | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._using_parts = False
        self.app = FastStream(
            build_broker(settings, client_id=f"hookline-{name}")
            if settings.kafka_url
            else build_broker(_unset(settings)),
            specification=AsyncAPI(title=f"Hookline {name}"),
            on_startup=[self._start],
            on_shutdown=[self._stop],
            logger=None,
        )
        self._drain_seconds = 30.0

    @cached_property
    def codec(self) -> Codec:
        """Seals as this role, opens what others sealed."""
        return Codec(self.parts.keyring, f"hookline/{self.name}")

    @cached_property
    def publisher(self) -> Publisher:
        """This role's own producer."""
        return Publisher(self.settings, self.codec, client_id=f"hookline-{self.name}", timeout=self._publish_timeout)

    # -- for subclasses ------------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Wire: called once after parts and publisher have started, before any pump does."""

    async def teardown(self) -> None:
        """Undo `setup`: called once after the pumps have drained, before the publisher and the parts stop."""

    def pump(
        self,
        topics: Sequence[Topic[Any]],
        group: str,
        handler: Handler,
        **more: Any,
    ) -> Pump:
        """A pump of this role, started after `setup` and drained with it; poison becomes a dead letter HANDLER_BUG of `stage`
        (the role itself by default).
        """
        stage = more.pop("stage", self.name)

        async def lay_aside(raw: Raw, error: Exception) -> None:
            await self._lay_aside(stage, raw, error)

        more.setdefault("on_poison", lay_aside)
        pump = Pump(self.settings, topics=[topic.name for topic in topics], group=group, handler=handler, **more)

        def count(raw: Raw, cause: Cause) -> None:
            if cause in _SYSTEMIC:
                pump.laid_aside(raw, cause.value)

        self.publisher.watch(count)
        self._pumps.append(pump)
        return pump

    def background(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `work()` beside the pumps from now on; cancelled at drain; the role stops when it raises."""
        task = asyncio.get_running_loop().create_task(_await(work), name=f"{self.name}-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def closing(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close()` awaited at the end, last registered first, whatever else fails."""
        self._closers.append(close)

    # -- RoleApp -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See RoleApp."""
        require(self.settings, self._role)
        try:
            await self.app.start()
        except BaseException:
            await self._stop()
            raise

    async def drain(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109 -- bounds several waits, not one
        """See RoleApp."""
        self._drain_seconds = timeout
        await self.app.stop()

    async def wait(self) -> None:
        """See RoleApp."""
        if self._stopped is None:
            raise RuntimeError(f"{self.name}: start() first")
        waits = [asyncio.ensure_future(pump.wait()) for pump in self._pumps]
        try:
            done, _ = await asyncio.wait([self._stopped, *waits], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                await each
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def readiness(self) -> Readiness:
        """See RoleApp."""
        checks: dict[str, Check] = {
            "kafka": self.publisher.ask,
            "postgres": self.parts.ask_postgres,
            "directory": self.parts.directory.readiness,
        }
        if self._uses_redis:
            checks["redis"] = self.parts.ask_redis
        for pump in self._pumps:
            checks[f"group {pump.group}"] = pump.ask
        return checks

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._stopped = asyncio.get_running_loop().create_future()
        await check_topics(self.settings, self.topics)
        await self.parts.start()
        self._using_parts = True
        await self.publisher.start()
        await self.setup()
        await asyncio.gather(*(pump.start() for pump in self._pumps))
        self.log.info("role_started", groups=[pump.group for pump in self._pumps])

    async def _stop(self) -> None:
        await asyncio.gather(*(pump.drain(self._drain_seconds) for pump in self._pumps))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._using_parts:
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self.parts.stop)
                stack.push_async_callback(self.publisher.stop)
                for close in self._closers:
                    stack.push_async_callback(close)
                stack.push_async_callback(self.teardown)
            self._using_parts = False
            self._closers.clear()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
            self.log.info("role_stopped")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception())
            and self._stopped is not None
            and not self._stopped.done()
        ):
            self._stopped.set_exception(error)
            self._stopped.exception()

    async def _lay_aside(self, stage: str, raw: Raw, error: Exception) -> None:
        try:
            envelope = Envelope.from_headers(raw.headers)
            tenant, account = envelope.tenant, envelope.account or None
        except EnvelopeError:
            tenant, account = "unknown", None
        await self.publisher.dead_letter(
            raw, stage=stage, cause=Cause.HANDLER_BUG, detail=type(error).__name__, tenant=tenant, account=account
        )


async def _await(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _unset(settings: Settings) -> Settings:
    # `start` refuses with everything that is missing at once; building must not refuse first with one of them.
    return settings.model_copy(update={"kafka_url": "127.0.0.1:9092", "kafka_security": "PLAINTEXT"})
