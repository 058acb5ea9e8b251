"""Wires the role `salesforce-events`: a task per stream, one owner among all replicas.

Law: wires and supervises. A stream exists while an enabled endpoint of the source asks for it, so a process without one costs a look
into memory a second and opens no connection. One stream's trouble, even a bug, holds no other up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from infra import metrics
from infra.accounts import Account, Endpoint
from infra.crm.salesforce import SalesforceClient
from infra.crm.salesforce_org import Orgs
from infra.role import Parts, Readiness, Role
from infra.settings import Settings, SettingsError
from infra.unavailable import as_unavailable
from ingress.identity import RequestIds
from ingress.pubsub.frame import SOURCE
from ingress.pubsub.resync import Resyncs
from ingress.pubsub.store import Fenced, Owned, SchemaStore, StreamStore
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.topics import CHANGES_BULK, DELIVERIES

if TYPE_CHECKING:
    from ingress.pubsub.calls import Bus
    from ingress.pubsub.stream import Reader

LOOK_EVERY_SECONDS: Final = 1.0
AFTER_BUG_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
"""For streams to finish the answer in hand."""
NOT_READY_AFTER: Final = timedelta(seconds=90)


class SalesforceEvents(Role):
    """See the module."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        super().__init__(
            settings, "salesforce-events", topics=[DELIVERIES, CHANGES_BULK], parts=parts, uses_redis=False
        )
        self._owner = f"{os.uname().nodename}/{os.getpid()}/{os.urandom(4).hex()}"
        self._running: dict[str, tuple[Endpoint, asyncio.Task[None], asyncio.Event]] = {}
        self._readers: dict[str, tuple[Reader, datetime]] = {}
        self._bus: Bus | None = None
        self._orgs: Orgs | None = None
        self._client: SalesforceClient | None = None

    async def setup(self) -> None:
        """Wire; the database's and Kafka's parts alone. What gRPC needs is made with the first stream."""
        self._store = StreamStore(self.parts.engine)
        self._schemas = SchemaStore(self.parts.engine)
        self._ids = RequestIds(0)
        self.background(self._supervise, "streams")

    async def teardown(self) -> None:
        """Let each stream finish the answer in hand, and let others have it."""
        for _, _, stopping in self._running.values():
            stopping.set()
        tasks = [task for _, task, _ in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        if self._bus is not None:
            await self._bus.close()
        if self._client is not None:
            await self._client.close()

    def readiness(self) -> Readiness:
        """What every role has, and whether the event bus answers anybody."""
        return {**super().readiness(), "event bus": self._ask_bus}

    async def _ask_bus(self) -> str | None:
        """An org's own trouble is told with its account. That nobody's stream flows is ours, or Salesforce's."""
        waiting = [since for reader, since in self._readers.values() if reader.state in {"waiting", "connecting"}]
        flowing = any(reader.state == "streaming" for reader, _ in self._readers.values())
        if not waiting or flowing or datetime.now(UTC) - min(waiting) < NOT_READY_AFTER:
            return None
        return f"none of {len(waiting)} event streams flows: can {self.settings.salesforce_events_url} be reached?"

    # ---------------------------------------------------------------- which streams there are

    async def _supervise(self) -> None:
        while True:
            wanted = {
                each.id: each
                for each in self.parts.directory.endpoints().values()
                if each.source == SOURCE and each.enabled
            }
            for name, (endpoint, task, stopping) in list(self._running.items()):
                now = wanted.get(name)
                if task.done():
                    del self._running[name]
                elif now is None or _differs(now, endpoint):
                    stopping.set()
            for name, endpoint in wanted.items():
                if name not in self._running:
                    self._begin(endpoint)
            self._measure()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _begin(self, endpoint: Endpoint) -> None:
        stopping = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._run(endpoint, stopping), name=f"stream-{endpoint.name}")
        self._running[endpoint.id] = endpoint, task, stopping

    def _measure(self) -> None:
        metrics.EVENT_STREAMS.clear()
        for state, number in Counter(reader.state for reader, _ in self._readers.values()).items():
            metrics.EVENT_STREAMS.labels(state).set(number)
        heard = [reader.heard_until for reader, _ in self._readers.values() if reader.heard_until is not None]
        metrics.EVENT_BEHIND_SECONDS.set((datetime.now(UTC) - min(heard)).total_seconds() if heard else 0)

    # ---------------------------------------------------------------- one stream

    async def _run(self, endpoint: Endpoint, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            wait = self.settings.salesforce_events_lease_seconds / 3
            try:
                owned = await self._store.take(endpoint.id, self._owner, self.settings.salesforce_events_lease_seconds)
                if owned is not None:
                    await self._own(endpoint, owned, stopping)
                    wait = 0.0
            except SettingsError:
                wait = AFTER_BUG_SECONDS
            except Exception as error:
                if as_unavailable(error) is None:
                    self.log.exception("stream_failed", endpoint=endpoint.id)
                    wait = AFTER_BUG_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stopping.wait()

    async def _own(self, endpoint: Endpoint, owned: Owned, stopping: asyncio.Event) -> None:
        """Until `stopping`, or until another owns it; raises what is a bug."""
        try:
            reader = self._reader(endpoint, owned, stopping)
        except SettingsError as error:
            await self._store.note(owned, "refused", str(error))
            await self._store.let_go(owned)
            raise
        resyncs = Resyncs(
            owned,
            account=partial(self._account, endpoint),
            client=self._crm(),
            store=self._store,
            publish=self._publish_changes,
        )
        self._readers[endpoint.id] = reader, datetime.now(UTC)
        reading = asyncio.ensure_future(reader.read())
        beside = [asyncio.ensure_future(self._hold(owned)), asyncio.ensure_future(resyncs.run())]
        try:
            await asyncio.wait({reading, *beside}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._readers[endpoint.id]
            for task in (reading, *beside):
                task.cancel()
            results = await asyncio.gather(reading, *beside, return_exceptions=True)
        fenced = any(isinstance(each, Fenced) for each in results)
        if fenced:
            self.log.warning("stream_taken_over", endpoint=endpoint.id)
        else:
            await self._store.let_go(owned)
        for each in results:
            if isinstance(each, Exception) and not isinstance(each, Fenced):
                raise each

    async def _hold(self, owned: Owned) -> None:
        """Keep owning it; raises Fenced. While PostgreSQL is away nobody else can take it either."""
        seconds = self.settings.salesforce_events_lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                await self._store.hold(owned, seconds)
            except Exception as error:
                if as_unavailable(error) is None:
                    raise

    def _reader(self, endpoint: Endpoint, owned: Owned, stopping: asyncio.Event) -> Reader:
        from ingress.pubsub.calls import Bus  # noqa: PLC0415 - gRPC costs memory, and most installations have no stream
        from ingress.pubsub.stream import Reader  # noqa: PLC0415 - as above

        if self._bus is None:
            self._bus = Bus(self.settings)
        client = self._crm()
        assert self._orgs is not None
        return Reader(
            endpoint,
            owned,
            account=partial(self._account, endpoint),
            bus=self._bus,
            tokens=self._orgs,
            users=client,
            store=self._store,
            schemas=self._schemas,
            publish=self._publish_deliveries,
            disconnect=self.parts.registry.disconnect,
            ids=self._ids,
            stopping=stopping,
            lease_seconds=self.settings.salesforce_events_lease_seconds,
        )

    def _crm(self) -> SalesforceClient:
        if self._client is None:
            self._orgs = Orgs(self.settings)
            self._client = SalesforceClient(self.settings, orgs=self._orgs)
        return self._client

    def _account(self, endpoint: Endpoint) -> Account | None:
        """The one that the stream is of."""
        known = self.parts.directory.endpoint(endpoint.id)
        names = sorted(known.accounts if known is not None else endpoint.accounts)
        return self.parts.directory.account(names[0]) if names else None

    async def _publish_deliveries(self, deliveries: Sequence[Delivery], traceparents: Sequence[str]) -> Any:
        return await self.publisher.publish(DELIVERIES, deliveries, traceparents=traceparents)

    async def _publish_changes(self, changes: Sequence[Change]) -> Any:
        return await self.publisher.publish(CHANGES_BULK, changes)


def _differs(one: Endpoint, other: Endpoint) -> bool:
    return one.config != other.config or one.accounts != other.accounts


def build_app(settings: Settings, parts: Parts | None = None) -> SalesforceEvents:
    """The role."""
    return SalesforceEvents(settings, parts)
