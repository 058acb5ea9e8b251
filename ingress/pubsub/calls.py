"""The calls of Salesforce's Pub/Sub API that we make, and what its refusals mean.

Law: one channel for all orgs of a process (Salesforce allows a thousand streams on one); who calls is said with each call. Errors carry
the vendor's codes and no more: their texts are not repeated, and a token never is. Opens nothing before the first call.
Sources: `infra/pubsub_api/pubsub_api.proto`; "Handle Errors" and "Retry Long-Lived RPC Calls" of Salesforce's Pub/Sub API guide: the code
of an error is the trailer `error-code`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import grpc
import grpc.aio

from infra.pubsub_api import pubsub_api_pb2 as api
from infra.pubsub_api import pubsub_api_pb2_grpc as stubs
from infra.settings import Settings, SettingsError, variable

MOST_EVENTS: Final = 100
"""Of one request; Salesforce gives no more."""
MOST_BYTES: Final = 16 * 1024 * 1024
CALL_SECONDS: Final = 30.0
"""For calls that have an end."""

Why = Literal["AWAY", "TOKEN", "REPLAY_ID", "REFUSED", "SPENT"]
_REPLAY: Final = ".subscription.fetch.replayid."
_SPENT: Final = ".limit.exceeded"
_LATER: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


class BusError(Exception):
    """The bus did not do as asked. `why`: AWAY (try later), TOKEN (get another), REPLAY_ID (it no longer has that place),
    SPENT (the org's events of 24 hours), REFUSED (until a person changes something).
    """

    def __init__(self, why: Why, code: str) -> None:
        """`code`: the vendor's, or gRPC's where there is none."""
        super().__init__(f"{why}: {code}")
        self.why = why
        self.code = code


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; what the metadata of every call say."""

    token: str = field(repr=False)
    instance_url: str
    tenant_id: str
    """The org's id of 18 characters."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As gRPC takes it."""
        return (("accesstoken", self.token), ("instanceurl", self.instance_url), ("tenantid", self.tenant_id))


class Flow:
    """One subscription. For one task."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def more(self, number: int) -> None:
        """Ask for so many more events; at most MOST_EVENTS are outstanding. Raises BusError."""
        await self.ask(api.FetchRequest(num_requested=min(number, MOST_EVENTS)))

    async def ask(self, request: api.FetchRequest) -> None:
        """Send a request, the first or a further one. Raises BusError."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from None

    async def next(self) -> api.FetchResponse:
        """The next answer, however long it takes; an empty one is a sign of life. Raises BusError, also when the bus ends the stream."""
        try:
            found = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise understood(error) from None
        if found is grpc.aio.EOF:
            raise BusError("AWAY", "ENDED")
        answer: api.FetchResponse = found
        return answer

    async def _ended(self, error: Exception) -> BusError:
        if isinstance(error, grpc.aio.AioRpcError):
            return understood(error)
        # A stream that ended takes no more requests; why it ended is told by who reads.
        try:
            await self._call.read()
        except grpc.aio.AioRpcError as ended:
            return understood(ended)
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            return BusError("AWAY", "ENDED")
        return BusError("AWAY", "ENDED")


class Bus:
    """Belongs to one event loop; safe for any number of its tasks."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError for an address that cannot be one, or that this environment must not use."""
        self._target, self._tls = target(settings)
        self._channel: grpc.aio.Channel | None = None

    @asynccontextmanager
    async def subscribe(self, caller: Caller, topic: str, replay_id: bytes | None) -> AsyncIterator[Flow]:
        """The events of a channel behind `replay_id`, or from the earliest that the bus has; the call ends with the block.

        Asks for MOST_EVENTS. Raises BusError.
        """
        first = api.FetchRequest(topic_name=topic, num_requested=MOST_EVENTS)
        if replay_id is None:
            first.replay_preset = api.EARLIEST
        else:
            first.replay_preset = api.CUSTOM
            first.replay_id = replay_id
        call = self._stub().Subscribe(metadata=caller.metadata())
        try:
            flow = Flow(call)
            await flow.ask(first)
            yield flow
        finally:
            call.cancel()

    async def schema(self, caller: Caller, schema_id: str) -> str:
        """A schema's JSON by its fingerprint. Raises BusError."""
        try:
            found = await self._stub().GetSchema(
                api.SchemaRequest(schema_id=schema_id), metadata=caller.metadata(), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise understood(error) from None
        return str(found.schema_json)

    async def may_subscribe(self, caller: Caller, topic: str) -> bool:
        """Whether there is such a channel and we may hear it. Raises BusError, REFUSED where there is none."""
        try:
            found = await self._stub().GetTopic(
                api.TopicRequest(topic_name=topic), metadata=caller.metadata(), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise understood(error) from None
        return bool(found.can_subscribe)

    async def close(self) -> None:
        """End all calls and the connection; may be called twice."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _stub(self) -> Any:
        if self._channel is None:
            options = [("grpc.max_receive_message_length", MOST_BYTES), ("grpc.enable_retries", 0)]
            self._channel = (
                grpc.aio.secure_channel(self._target, grpc.ssl_channel_credentials(), options)
                if self._tls
                else grpc.aio.insecure_channel(self._target, options)
            )
        return stubs.PubSubStub(self._channel)


def target(settings: Settings) -> tuple[str, bool]:
    """Host and port, and whether by TLS; raises SettingsError."""
    url = urlsplit(settings.salesforce_events_url)
    name = variable("salesforce_events_url")
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/"):
        raise SettingsError(f"{name} is no address: write https://api.pubsub.salesforce.com:7443")
    if url.scheme == "http" and settings.environment == "production":
        raise SettingsError(f"{name} is without TLS, which production refuses: use https://")
    default = Settings.model_fields["salesforce_events_url"].default
    if settings.sandbox_url and settings.salesforce_events_url == default:
        raise SettingsError(
            f"{name} is Salesforce's own, and the accounts are the sandbox's: start the sandbox with --events and give its address"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{url.port or (7443 if url.scheme == 'https' else 80)}", url.scheme == "https"


def understood(error: grpc.aio.AioRpcError) -> BusError:
    """What a refusal means for us."""
    trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
    given = trailers.get("error-code")
    code = given.decode("ascii", "replace") if isinstance(given, bytes) else str(given or "")
    # A proxy may drop trailers; the vendor's text repeats the code.
    told = code or (error.details() or "")
    shown = code[:120] or error.code().name
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT and _REPLAY in told:
        return BusError("REPLAY_ID", shown)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return BusError("TOKEN", shown)
    if _SPENT in told:
        return BusError("SPENT", shown)
    return BusError("AWAY" if error.code() in _LATER else "REFUSED", shown)
