"""The orgs' event bus over gRPC: Salesforce's Pub/Sub API as its own .proto describes it, as far as a subscriber needs it.

Law: answers in the vendor's shapes alone, errors with the code in the trailer `error-code`; binds loopback. A token that is refused by
the REST API is refused here. `Publish`, `PublishStream` and `ManagedSubscribe` are not stood in for (UNIMPLEMENTED).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from infra.local.sandbox.change_events import ChangeEvents, OrgBus, UnknownReplayIdError
from infra.pubsub_api import pubsub_api_pb2 as api
from infra.pubsub_api import pubsub_api_pb2_grpc as stubs

MOST: Final = 100
_CODE: Final = "sfdc.platform.eventbus.grpc."
_REFUSALS: Final = {
    "service.unavailable": grpc.StatusCode.UNAVAILABLE,
    "subscription.limit.exceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class EventBus(stubs.PubSubServicer):  # type: ignore[misc]  # generated without types
    """The service. `keepalive_s`: an idle stream hears so often that it is alive; Salesforce's is 270."""

    def __init__(self, events: ChangeEvents, *, keepalive_s: float = 270.0) -> None:
        self.events = events
        self.keepalive_s = keepalive_s
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int = 0) -> str:
        """Serve on `host` (loopback); returns host:port."""
        self._server = grpc.aio.server()
        stubs.add_PubSubServicer_to_server(self, self._server)
        found = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        self.address = f"{host}:{found}"
        return self.address

    async def stop(self) -> None:
        """End all streams at once; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    # ---------------------------------------------------------------- the service

    async def GetTopic(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        """Whether there is such a channel."""
        org = await self._org(context)
        if org.objects(request.topic_name) is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, "topic.not.found")
        number = org.account.number
        return api.TopicInfo(topic_name=request.topic_name, tenant_guid=number, can_subscribe=True, rpc_id=_rpc_id())

    async def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        """A schema by its id."""
        org = await self._org(context)
        text = org.schemas.get(request.schema_id)
        if text is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, "schema.not.found")
        return api.SchemaInfo(schema_json=text, schema_id=request.schema_id, rpc_id=_rpc_id())

    async def Subscribe(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the service's name
        """Events of a channel, as many as were asked for."""
        org = await self._org(context)
        first = await anext(request_iterator, None)
        if first is None:
            return
        objects = org.objects(first.topic_name)
        if objects is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, "topic.not.found")
        place = await self._start(org, first, context)
        org.subscriptions += 1
        org.subscribed += 1
        wanted = _Wanted(request_iterator, first, org)
        try:
            async for each in self._flow(org, objects, place, wanted, context):
                yield each
        finally:
            wanted.stop()
            org.subscriptions -= 1

    # ---------------------------------------------------------------- inside

    async def _flow(self, org: OrgBus, objects: Any, place: int, wanted: _Wanted, context: Any) -> AsyncIterator[Any]:
        while not wanted.ended:
            changed = org.changed
            # A token that ends while a stream is open ends the stream.
            await self._org(context)
            if org.refusal:
                await _refuse(context, _REFUSALS.get(org.refusal, grpc.StatusCode.INTERNAL), org.refusal)
            if wanted.wrong:
                await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, wanted.wrong)
            found = org.after(place, objects, min(MOST, wanted.number)) if wanted.number else []
            if found:
                place = found[-1].number
                wanted.number -= len(found)
                yield self._answer(org, found, place, wanted.number)
                continue
            try:
                async with asyncio.timeout(self.keepalive_s):
                    await changed.wait()
            except TimeoutError:
                tip = place if org.after(place, objects, 1) else org.tip()
                place = tip
                yield self._answer(org, [], tip, wanted.number)

    @staticmethod
    def _answer(org: OrgBus, found: list[Any], place: int, pending: int) -> Any:
        return api.FetchResponse(
            events=[
                api.ConsumerEvent(
                    event=api.ProducerEvent(id=each.id, schema_id=each.schema_id, payload=each.payload),
                    replay_id=org.replay_id(each.number),
                )
                for each in found
            ],
            latest_replay_id=org.replay_id(place),
            rpc_id=_rpc_id(),
            pending_num_requested=pending,
        )

    @staticmethod
    async def _start(org: OrgBus, first: Any, context: Any) -> int:
        if not 0 < first.num_requested <= MOST:
            code = "subscription.fetch.requested.events.invalid"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, code)
        if first.replay_preset == api.EARLIEST:
            return 0
        if first.replay_preset == api.LATEST:
            return org.tip()
        if not first.replay_id:
            code = "subscription.fetch.replayid.validation.failed"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, code)
        try:
            return org.place(first.replay_id)
        except UnknownReplayIdError:
            code = "subscription.fetch.replayid.corrupted"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, code)
        raise AssertionError  # the call was aborted above

    async def _org(self, context: Any) -> OrgBus:
        given = dict(context.invocation_metadata())
        world = self.events.world
        token = world.tokens.get(str(given.get("accesstoken", "")))
        if (
            token is None
            or token.revoked
            or (token.expires is not None and token.expires <= world.clock())
            or not given.get("instanceurl")
            or token.account != f"salesforce:{given.get('tenantid', '')}"
        ):
            await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, "service.auth.error")
        assert token is not None
        return self.events.org(token.account)


class _Wanted:
    """How many events a subscriber may still be sent; grows with each of its requests."""

    def __init__(self, requests: AsyncIterator[Any], first: Any, org: OrgBus) -> None:
        self.number = int(first.num_requested)
        self.ended = False
        self.wrong = ""
        self._topic = first.topic_name
        self._org = org
        self._task = asyncio.ensure_future(self._read(requests))

    def stop(self) -> None:
        self._task.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        async for each in requests:
            if each.topic_name and each.topic_name != self._topic:
                self.wrong = "subscription.fetch.topic.mismatch"
            elif not 0 < each.num_requested <= MOST or self.number + each.num_requested > MOST:
                self.wrong = "subscription.fetch.requested.events.invalid"
            else:
                self.number += each.num_requested
            self._org.wake()
        self.ended = True
        self._org.wake()


async def _refuse(context: Any, status: grpc.StatusCode, code: str) -> None:
    rpc_id = _rpc_id()
    trailers = (("error-code", f"{_CODE}{code}"), ("rpc-id", rpc_id))
    await context.abort(status, f"{_CODE}{code} rpcId: {rpc_id}", trailers)


def _rpc_id() -> str:
    return secrets.token_hex(16)
