"""The front door and the translator on real servers: from an HTTP request to changes on their topic."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import io
import json
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra import telemetry
from infra.accounts import Endpoint
from infra.database.tables import accounts, refusals
from infra.kafka.codec import Codec, Received
from infra.kafka.topics import migrate_topics
from infra.local.stack import EmbeddedStack
from infra.role import Parts
from infra.settings import Settings, SettingsError
from ingress import translator_app
from ingress.app import Ingress, build_app, build_role
from ingress.translator_app import TranslatorRole
from schemas.dead_letter import Cause
from schemas.topics import CHANGES, DEAD_LETTERS, DELIVERIES, Topic

pytestmark = pytest.mark.connected

SECRET = b"the-apps-client-secret"
PORTAL = 145883449
SOAP = Path(__file__).parents[1] / "data" / "salesforce" / "outbound_message_two_contacts.xml"


def event(number: int, **changes) -> dict:
    return {
        "eventId": number, "subscriptionId": 2, "portalId": PORTAL, "occurredAt": 1751276050977, "attemptNumber": 0,
        "subscriptionType": "contact.propertyChange", "objectId": number, "propertyName": "jobtitle", "propertyValue": "VP", **changes,
    }  # fmt: skip


def signed(url: str, body: bytes, at: float | None = None, secret: bytes = SECRET) -> dict[str, str]:
    stamp = str(int((at or time.time()) * 1000))
    mac = hmac.new(secret, b"POST" + url.encode() + body + stamp.encode(), hashlib.sha256).digest()
    return {"X-HubSpot-Signature-v3": base64.b64encode(mac).decode(), "X-HubSpot-Request-Timestamp": stamp}


@dataclass
class Place:
    """A tenant of the test's own with one endpoint of each source, and where its topics stood before."""

    settings: Settings
    parts: Parts
    hubspot: Endpoint
    salesforce: Endpoint
    tenant: str
    account: str
    door: Ingress
    http: aiohttp.ClientSession

    async def post(
        self, endpoint: Endpoint, body: bytes, headers: dict[str, str] | None = None, **more
    ) -> aiohttp.ClientResponse:
        response = await self.http.post(
            f"http://127.0.0.1:{self.door.port}/hooks/{endpoint.id}", data=body, headers=headers, **more
        )
        await response.read()
        return response

    async def deliver(self, *events: dict) -> aiohttp.ClientResponse:
        body = json.dumps(events).encode()
        return await self.post(self.hubspot, body, signed(f"https://hooks.test/hooks/{self.hubspot.id}", body))

    async def mine(self, topic: Topic, number: int, *, at_least: bool = False) -> list[Received]:
        """The tenant's messages on a topic, read from its start until there are `number` (and none more lies behind)."""
        codec, found = Codec(self.parts.keyring, "test"), []
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_url, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = [TopicPartition(topic.name, place) for place in consumer.partitions_for_topic(topic.name) or ()]
            places = places or [TopicPartition(topic.name, place) for place in range(6)]
            consumer.assign(places)
            async with asyncio.timeout(40):
                while True:
                    ends = await consumer.end_offsets(places)
                    while any([await consumer.position(place) < ends[place] for place in places]):
                        for raws in (await consumer.getmany(timeout_ms=200)).values():
                            own = [raw for raw in raws if dict(raw.headers).get("hl_tenant") == self.tenant.encode()]
                            opened, refused = await codec.open(topic, own)
                            assert not refused
                            found.extend(opened)
                    if len(found) == number or (at_least and len(found) >= number):
                        return found
                    assert len(found) < number, f"{len(found)} messages on {topic.name}, expected {number}"
        finally:
            await consumer.stop()


@asynccontextmanager
async def open_place(settings: Settings, tenant: str) -> AsyncIterator[Place]:
    parts = Parts(settings)
    await parts.start()
    registry = parts.registry
    await registry.add_tenant(tenant)
    portal, org = f"hubspot:{PORTAL}", "salesforce:00D1I000003qqqEUAQ"
    await registry.add_account(tenant, "hubspot", portal)
    await registry.add_account(tenant, "salesforce", org)
    hubspot = await registry.add_endpoint(tenant, "hubspot", secret=SECRET, accounts=[portal])
    salesforce = await registry.add_endpoint(tenant, "salesforce", accounts=[org])
    await parts.directory.refresh()
    door = build_role(settings, parts)
    await door.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Place(settings, parts, hubspot, salesforce, tenant, portal, door, http)
    finally:
        await door.drain(5)
        await parts.stop()


@pytest.fixture
async def place(settings: Settings, tenant: str) -> AsyncIterator[Place]:
    telemetry.configure(settings, "test")
    async with open_place(settings, tenant) as found:
        yield found


@asynccontextmanager
async def translating(place: Place, monkeypatch: pytest.MonkeyPatch, group: str) -> AsyncIterator[TranslatorRole]:
    monkeypatch.setattr(translator_app, "GROUP", group)
    role = translator_app.build_app(place.settings, place.parts)
    await role.start()
    try:
        yield role
    finally:
        await role.drain(10)


async def test_a_request_ends_as_changes_under_one_trace(place: Place, monkeypatch: pytest.MonkeyPatch):
    async with translating(place, monkeypatch, f"g{secrets.token_hex(4)}"):
        response = await place.deliver(
            event(1), event(2, objectId=1, propertyName="phone"), event(3), event(4, portalId=666)
        )
        assert response.status == 202
        (delivery,) = await place.mine(DELIVERIES, 1)
        assert delivery.payload.request_id == response.headers["X-Request-Id"]
        changes = {found.payload.id: found for found in await place.mine(CHANGES, 2)}
        assert changes["1"].payload.properties == ("jobtitle", "phone")
        assert changes["1"].payload.delivery == delivery.payload.request_id
        traces = {found.envelope.traceparent.split("-")[1] for found in (delivery, *changes.values())}
        assert len(traces) == 1
        assert len(traces.pop()) == 32
        (letter,) = await place.mine(DEAD_LETTERS, 1)
        assert (letter.payload.cause, letter.payload.account) == (Cause.FOREIGN_ACCOUNT, "hubspot:666")
    async with place.parts.engine.connect() as connection:
        touched = await connection.scalar(sa.select(accounts.c.last_delivery_at).where(accounts.c.id == place.account))
    assert touched is not None


async def test_an_outbound_message_is_acknowledged_and_its_org_checked(place: Place, monkeypatch: pytest.MonkeyPatch):
    async with translating(place, monkeypatch, f"g{secrets.token_hex(4)}") as role:
        own = SOAP.read_bytes().replace(b"012345678901234", b"00D1I000003qqqE")
        for body in (own, SOAP.read_bytes().replace(b"04l1I", b"04l2I"), own):
            response = await place.post(
                place.salesforce, body, {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '""'}
            )
            assert (response.status, b"<Ack>true</Ack>" in await response.read()) == (200, True)
            # A repetition that comes while the first one is still being translated is let through, as a trigger may be.
            await place.mine(CHANGES, 2)
            while any(pump.held for pump in role._pumps):  # noqa: ASYNC110 - the pump has no event for being idle
                await asyncio.sleep(0.01)
        changes = await place.mine(CHANGES, 2)
        assert {found.payload.id for found in changes} == {"0031I0000081tbPQAQ", "0031I0000081tb0QAA"}
        (letter,) = await place.mine(DEAD_LETTERS, 1)
        assert letter.payload.cause is Cause.FOREIGN_ACCOUNT


async def test_a_crash_before_the_commit_repeats_and_drops_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    """INVARIANT: redelivery after a crash passes, and a sender's repetition does not.

    If this fails, changes that were published or half published when a translator died are lost or grow without bound.
    """
    group = f"g{secrets.token_hex(4)}"
    async with translating(place, monkeypatch, group) as doomed:
        for pump in doomed._pumps:
            monkeypatch.setattr(pump, "_commit", _nothing)
        await place.deliver(event(1), event(2))
        await place.mine(CHANGES, 2)
    await place.deliver(event(1, attemptNumber=1), event(3))
    async with translating(place, monkeypatch, group):
        changes = await place.mine(CHANGES, 5)
    assert sorted(found.payload.id for found in changes) == ["1", "1", "2", "2", "3"]


async def _nothing() -> None:
    return None


async def test_bad_requests_are_refused_by_name_and_listed_for_the_admin(place: Place):
    url = f"https://hooks.test/hooks/{place.hubspot.id}"
    body = json.dumps([event(1)]).encode()
    bomb = gzip.compress(b" " * 50_000_000)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    cases = [
        ("VERIFICATION_FAILED", 401, body + b" ", signed(url, body)),
        ("SIGNATURE_MISSING", 401, body, {}),
        ("STALE", 401, body, signed(url, body, time.time() - 301)),
        ("FROM_THE_FUTURE", 401, body, signed(url, body, time.time() + 120)),
        ("EMPTY_BODY", 400, b"", signed(url, b"")),
        ("PAYLOAD_TOO_LARGE", 413, io.BytesIO(b"x" * 10_000_000), {}),
        ("PAYLOAD_TOO_LARGE", 413, endless(), {}),
        ("PAYLOAD_TOO_LARGE", 413, bomb, {"Content-Encoding": "gzip"}),
        ("UNSUPPORTED_ENCODING", 415, body, {**signed(url, body), "Content-Encoding": "br"}),
    ]
    ids: dict[str, str] = {}
    for cause, status, content, headers in cases:
        response = await place.post(place.hubspot, content, headers)
        assert (response.status, (await response.json())["cause"]) == (status, cause)
        ids[response.headers["X-Request-Id"]] = cause
    unknown = place.hubspot.id[:-1] + "-"
    async with place.http.post(f"http://127.0.0.1:{place.door.port}/hooks/{unknown}", data=body) as response:
        assert response.status == 404
    async with asyncio.timeout(20):
        listed: set[str] = set()
        while listed != {*ids.values(), "UNKNOWN_ENDPOINT"}:
            async with place.parts.engine.connect() as connection:
                rows = (await connection.execute(sa.select(refusals))).all()
            listed = {row.cause for row in rows}
            await asyncio.sleep(0.1)
    assert sum(row.repeats for row in rows) == len(cases) + 1
    assert all(ids.get(row.request_id, "UNKNOWN_ENDPOINT") == row.cause for row in rows)
    assert unknown not in {row.endpoint for row in rows}


async def test_a_body_cut_off_on_the_wire_is_noticed(place: Place):
    reader, writer = await asyncio.open_connection("127.0.0.1", place.door.port)
    head = f"POST /hooks/{place.hubspot.id} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"[{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(20):
        causes: list[str] = []
        while not causes:
            async with place.parts.engine.connect() as connection:
                causes = list((await connection.execute(sa.select(refusals.c.cause))).scalars())
            await asyncio.sleep(0.1)
    assert causes == ["BODY_INCOMPLETE"]
    assert not await reader.read()


async def test_handshakes_readiness_and_a_port_that_is_taken(place: Place):
    base = f"http://127.0.0.1:{place.door.port}"
    door = f"/hooks/{place.hubspot.id}"
    for method, path, status in (("GET", door, 200), ("PUT", door, 405), ("GET", "/", 404)):
        async with place.http.request(method, f"{base}{path}") as answer:
            assert answer.status == status
    assert {name: await ask() for name, ask in place.door.readiness().items()} == dict.fromkeys(place.door.readiness())
    second = build_role(place.settings.model_copy(update={"ingress_port": place.door.port}), place.parts)
    with pytest.raises(SettingsError, match="HOOKLINE_INGRESS_PORT"):
        await second.start()


async def test_the_application_alone_starts_and_stops_by_lifespan(settings: Settings):
    app = build_app(settings)
    incoming: asyncio.Queue[dict] = asyncio.Queue()
    outgoing: asyncio.Queue[dict] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan"}, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    await incoming.put({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await running


async def test_it_refuses_to_start_incomplete_and_says_why(settings: Settings):
    for changes, expected in (
        ({"public_url": None, "environment": "production"}, "HOOKLINE_PUBLIC_URL"),
        ({"kafka_url": None}, "KAFKA_URL"),
        ({"ingress_max_body_bytes": 999_000}, "HOOKLINE_INGRESS_MAX_BODY_BYTES"),
    ):
        with pytest.raises(SettingsError, match=expected):
            await build_role(settings.model_copy(update=changes)).start()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # aiokafka's, of the connection that was cut
async def test_while_kafka_is_away_senders_are_asked_to_come_again(settings: Settings, tenant: str):
    """A broker of the test's own, stopped under load: 503 with Retry-After, in less time than HubSpot waits."""
    with tempfile.TemporaryDirectory(prefix="hookline-away-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101 - as root the server runs as somebody else, who must get in
        assert settings.database_url is not None
        assert settings.redis_url is not None
        stack = EmbeddedStack(
            Path(folder),
            database_url=settings.database_url.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
        )
        found = await asyncio.to_thread(stack.start)
        try:
            own = settings.model_copy(update={"kafka_url": found.kafka_url})
            await migrate_topics(own)
            async with open_place(own, tenant) as place:
                assert (await place.deliver(event(1))).status == 202
                await asyncio.to_thread(stack.stop)
                began = time.monotonic()
                responses = await asyncio.gather(*(place.deliver(event(number)) for number in range(2, 12)))
                assert time.monotonic() - began < 5
                assert {response.status for response in responses} == {503}
                assert all(int(response.headers["Retry-After"]) > 0 for response in responses)
                assert await place.door.readiness()["kafka"]()
        finally:
            await asyncio.to_thread(stack.stop)
