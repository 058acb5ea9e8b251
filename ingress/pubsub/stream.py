"""One org's events: taken off the bus, published as they came, and only then remembered as heard.

Law: order of effects: schema kept → deliveries acknowledged by Kafka → place kept, under the fence. A crash anywhere between repeats
events, which the translator's marks drop, and never loses one. At most MOST_EVENTS are asked for and not acknowledged by Kafka. A place
that the bus no longer has means that all objects are read again since the last time of which nothing is missing. One org's
trouble is its own.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

from infra import metrics
from infra.accounts import Account, Endpoint
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.kafka.broker import MessageTooLarge
from infra.pubsub_api import pubsub_api_pb2 as api
from infra.telemetry import log
from infra.unavailable import as_unavailable
from ingress.dialects.salesforce_pubsub import BEFORE, committed_at
from ingress.identity import RequestIds
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.calls import MOST_EVENTS, Bus, BusError, Caller
from ingress.pubsub.frame import CONTENT_TYPE, SOURCE, Frame
from ingress.pubsub.store import Fenced, Owned, SchemaStore, StreamStore
from ingress.reconcile.since import OBJECTS
from ingress.sources.source import Resync
from schemas.delivery import Delivery

T = TypeVar("T")

SILENT_SECONDS: Final = 300.0
"""Without a sign of life: Salesforce sends an empty answer within 270 s, so the connection is dead."""
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 60.0
"""Until who was refused for good asks again: a person may have mended it."""
SPENT_SECONDS: Final = 600.0
TIP_MARGIN: Final = timedelta(minutes=5)
"""An empty answer says that all was heard, by the bus; what was committed a moment ago may not be on it yet."""
UNKNOWN_SINCE: Final = timedelta(days=7)
"""How far back is read where nobody knows since when events are missing."""


class Tokens(Protocol):
    """Where access tokens come from; see `infra.crm.salesforce_org.Orgs`."""

    async def access(self, account: Account, refused: str = "") -> tuple[str, str]:
        """Token and instance URL. Raises AccountUnavailable and CrmUnavailable."""
        ...


class Users(Protocol):
    """The CRM client's side that is needed here."""

    async def integration_user(self, account: Account) -> str | None:
        """See CrmClient."""
        ...


Publish = Callable[[Sequence[Delivery], Sequence[str]], Awaitable[Any]]
"""Deliveries and their traceparents; returns after Kafka's acknowledgement, raises Unavailable and MessageTooLarge."""
Disconnect = Callable[[str, str], Awaitable[bool]]
"""(account, reason): see `Registry.disconnect`."""


class Reader:
    """Reads one stream that is ours. `read` is called once per owning."""

    def __init__(
        self,
        endpoint: Endpoint,
        owned: Owned,
        *,
        account: Callable[[], Account | None],
        bus: Bus,
        tokens: Tokens,
        users: Users,
        store: StreamStore,
        schemas: SchemaStore,
        publish: Publish,
        disconnect: Disconnect,
        ids: RequestIds,
        stopping: asyncio.Event,
        lease_seconds: float,
        silent_seconds: float = SILENT_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`account` is asked each time: it may be disconnected, or connected anew, at any moment. `stopping` ends reading between two
        answers.
        """
        self.state = "connecting"
        """What holds now: streaming, or why not."""
        self.heard_until = owned.heard_until
        self._endpoint = endpoint
        self._owned = owned
        self._place = owned.replay_id
        self._account = account
        self._bus = bus
        self._tokens = tokens
        self._users = users
        self._store = store
        self._schemas = schemas
        self._publish = publish
        self._disconnect = disconnect
        self._ids = ids
        self._stopping = stopping
        self._lease_seconds = lease_seconds
        self._silent_seconds = silent_seconds
        self._sleep = sleep
        self._attempt = 0
        self._latest_token = ""
        self._refused_token = ""
        self._told = ""
        self._log = log("salesforce-events")

    async def read(self) -> None:
        """Until `stopping`, over every end of the stream; raises Fenced once another owns it."""
        while not self._stopping.is_set():
            account = self._account()
            if account is None or account.state == "disconnected":
                detail = "not registered" if account is None else account.state_reason
                await self._wait("disconnected", detail, 1.0)
                continue
            try:
                await self._session(account)
            except Fenced:
                self._ended("FENCED")
                raise
            except BusError as error:
                await self._after_bus(account, error)
            except AccountUnavailable as error:
                await self._after_account(account, error)
            except CrmUnavailable as error:
                self._ended("ACCOUNT")
                await self._wait("waiting", f"no access token: {error.detail}", self._delay())
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                self._ended(away.part.upper())
                await self._wait("waiting", f"{away.part} is away", away.retry_after or self._delay())

    # ---------------------------------------------------------------- one connection

    async def _session(self, account: Account) -> None:
        token, instance = await self._tokens.access(account, self._refused_token)
        if self._refused_token and token == self._refused_token:
            raise BusError("TOKEN", "refused again")
        caller = Caller(token, instance, account.id.partition(":")[2])
        user = await self._users.integration_user(account) or ""
        self._latest_token = token
        async with self._bus.subscribe(caller, str(self._endpoint.config.get("channel") or ""), self._place) as flow:
            await self._note("connecting")
            while not self._stopping.is_set():
                answer = await self._unless_stopped(flow.next(), self._silent_seconds)
                if answer is None:
                    return
                self._attempt = 0
                self._refused_token = ""
                await self._take(account, caller, user, answer)
                await self._note("streaming")
                # As many as were taken: what an answer says of the rest may be older than our last request. Only an empty one is not.
                wanted = len(answer.events) or MOST_EVENTS - answer.pending_num_requested
                if wanted > 0:
                    await flow.more(wanted)

    async def _take(self, account: Account, caller: Caller, user: str, answer: api.FetchResponse) -> None:
        if not answer.events:
            if answer.latest_replay_id:
                await self._checkpoint(answer.latest_replay_id, 0, None, all_but=TIP_MARGIN)
            return
        for schema_id in dict.fromkeys(each.event.schema_id for each in answer.events):
            await self._know(caller, schema_id)
        frames = [
            Frame(account.id, each.event.id, each.event.schema_id, each.replay_id, user, each.event.payload)
            for each in answer.events
        ]
        await self._publish_all(account, frames)
        last = frames[-1]
        await self._checkpoint(last.replay_id, len(frames), self._committed(last))
        metrics.EVENTS.inc(len(frames))

    async def _publish_all(self, account: Account, frames: Sequence[Frame]) -> None:
        deliveries = [self._delivery(account, frame) for frame in frames]
        try:
            await self._publish(deliveries, [self._ids.traceparent(each.request_id) for each in deliveries])
        except MessageTooLarge:
            if len(frames) > 1:
                for frame in frames:
                    await self._publish_all(account, [frame])
                return
            # What cannot be told to Kafka is read from the CRM.
            since = (self._committed(frames[0]) or self.heard_until or datetime.now(UTC) - UNKNOWN_SINCE) - BEFORE
            demands = [Resync(account.id, each, since, frames[0].key, "TOO_LARGE") for each in OBJECTS]  # type: ignore[arg-type]  # they are object types
            now = datetime.now(UTC)
            await self._store.ask([(self._endpoint.id, each, now) for each in demands])
            self._log.warning("event_too_large", account=account.id, bytes=len(frames[0].payload))

    def _delivery(self, account: Account, frame: Frame) -> Delivery:
        request_id, _ = self._ids.draw()
        return Delivery(
            request_id=request_id,
            tenant=account.tenant,
            endpoint=self._endpoint.id,
            source=SOURCE,
            received_at=datetime.now(UTC),
            content_type=CONTENT_TYPE,
            body=frame.pack(),
        )

    async def _know(self, caller: Caller, schema_id: str) -> None:
        """Have the schema kept where every translator finds it, before an event of it can reach one."""
        await self._schemas.load([(self._endpoint.id, schema_id)])
        if KNOWN.get(self._endpoint.id, schema_id) is not None:
            return
        text = await self._bus.schema(caller, schema_id)
        try:
            KNOWN.put(self._endpoint.id, schema_id, text)
        except ValueError:
            raise BusError("REFUSED", "SCHEMA_UNREADABLE") from None
        await self._schemas.keep(self._endpoint.id, schema_id, text)

    def _committed(self, frame: Frame) -> datetime | None:
        schema = KNOWN.get(self._endpoint.id, frame.schema_id)
        try:
            return committed_at(schema.decode(frame.payload)) if schema is not None else None
        except ValueError:
            return None  # the translator says what is wrong with it

    async def _checkpoint(
        self, replay_id: bytes, events: int, heard_until: datetime | None, all_but: timedelta | None = None
    ) -> None:
        try:
            self.heard_until = await self._store.checkpoint(
                self._owned,
                replay_id,
                events=events,
                heard_until=heard_until,
                all_but=all_but,
                seconds=self._lease_seconds,
            )
        except Fenced:
            metrics.EVENT_CHECKPOINTS.labels("fenced").inc()
            raise
        metrics.EVENT_CHECKPOINTS.labels("ok").inc()
        self._place = replay_id

    # ---------------------------------------------------------------- when it ends

    async def _after_bus(self, account: Account, error: BusError) -> None:
        self._ended(error.code)
        if error.why == "REPLAY_ID" and self._place is not None:
            await self._start_over(account)
            return
        if error.why == "TOKEN":
            if not self._refused_token:
                # At once, and with another: tokens end when sessions do.
                self._refused_token = self._latest_token
                return
            self._refused_token = ""
            await self._wait(
                "refused",
                f"{error.code}: Salesforce refuses fresh tokens; does the integration user have the permission to it?",
                REFUSED_SECONDS,
            )
        elif error.why == "SPENT":
            await self._wait("waiting", f"{error.code}: the org's events of 24 hours are spent", SPENT_SECONDS)
        elif error.why in {"REFUSED", "REPLAY_ID"}:
            channel = str(self._endpoint.config.get("channel") or "")
            detail = f"{error.code}: is there a channel {channel}, and may the integration user see its objects?"
            await self._wait("refused", detail, REFUSED_SECONDS)
        else:
            await self._wait("waiting", f"Salesforce's event bus: {error.code}", self._delay())

    async def _after_account(self, account: Account, error: AccountUnavailable) -> None:
        self._ended("ACCOUNT")
        if error.cause == "TOKEN_REVOKED":
            await self._disconnect(account.id, error.detail or "Salesforce refuses our access: connect it again")
            self._refused_token = ""
            self._log.warning("account_unavailable", account=account.id, cause=error.cause)
        await self._wait("disconnected", f"{error.cause}: {error.detail}", error.retry_after or self._delay())

    async def _start_over(self, account: Account) -> None:
        now = datetime.now(UTC)
        since = (self.heard_until or now - UNKNOWN_SINCE) - BEFORE
        await self._store.start_over(self._owned, account.id, OBJECTS, since=since, until=now)
        self._place = None
        self._log.warning("replay_id_expired", account=account.id, since=since.isoformat())

    def _ended(self, why: str) -> None:
        metrics.EVENT_STREAM_ENDS.labels(why.rpartition(".grpc.")[2][:80]).inc()
        if why != "ENDED":
            self._log.info("stream_ended", endpoint=self._endpoint.id, why=why)

    def _delay(self) -> float:
        """Twice as long each time, with jitter: a thousand streams must not come back in the same second."""
        longest = min(LONGEST_DELAY_SECONDS, math.ldexp(FIRST_DELAY_SECONDS, self._attempt))
        self._attempt = min(self._attempt + 1, 20)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    async def _wait(self, state: str, detail: str, seconds: float) -> None:
        try:
            await self._note(state, detail)
        except Exception as error:
            if as_unavailable(error) is None:
                raise
        if state == "disconnected":
            seconds = min(seconds, 5.0)  # the directory says within seconds that it is connected again
        await self._unless_stopped(self._sleep(seconds))

    async def _unless_stopped(self, coming: Awaitable[T], seconds: float | None = None) -> T | None:
        """What comes; None once this role stops. Raises what `coming` raises, and BusError where nothing comes for so long."""
        answer = asyncio.ensure_future(coming)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({answer, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                return answer.result()
            if stop in done:
                return None
            raise BusError("AWAY", "SILENT")
        finally:
            for each in (answer, stop):
                each.cancel()
            await asyncio.gather(answer, stop, return_exceptions=True)

    async def _note(self, state: str, detail: str = "") -> None:
        told = f"{state} {detail}"
        if told == self._told:
            return
        self.state = state
        await self._store.note(self._owned, state, detail)
        self._told = told
