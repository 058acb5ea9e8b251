"""The front door on real servers: its list of requests, what is let in later, large deliveries, replays, and several processes."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import pytest
import sqlalchemy as sa

from console.requests_fate import accepted, accepted_one
from console.workers import Workers
from infra import telemetry
from infra.accounts import Directory
from infra.database.tables import refusals
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.plugins import load
from infra.settings import Settings, variable
from ingress.identity import arrived_at
from ingress.refused import KEPT
from ingress.retry import Retrier
from ingress.sources.source import Source
from schemas.topics import CHANGES, DELIVERIES
from tests.connected.test_console import Command, environment, hookline  # noqa: F401 - the fixtures
from tests.connected.test_ingress import SECRET, Place, event, open_place, signed, translating

pytestmark = pytest.mark.connected


@pytest.fixture
async def place(settings: Settings, tenant: str) -> AsyncIterator[Place]:
    telemetry.configure(settings, "test")
    async with open_place(settings, tenant) as found:
        yield found


@asynccontextmanager
async def retrier(place: Place) -> AsyncIterator[Retrier]:
    publisher = Publisher(place.settings, Codec(place.parts.keyring, "hookline/console"))
    await publisher.start()
    try:
        yield Retrier(
            place.parts.engine,
            place.parts.keyring,
            {found.id: found for found in await place.parts.registry.endpoints()},
            load("ingress.sources", Source),
            lambda outgoing: publisher.publish_sealed(DELIVERIES, outgoing),
            public_url=place.settings.public_url,
            message_bytes=place.settings.ingress_max_body_bytes,
        )
    finally:
        await publisher.stop()


async def row_of(place: Place, request_id: str):
    async with asyncio.timeout(20):
        while True:
            async with place.parts.engine.connect() as connection:
                found = (
                    await connection.execute(sa.select(refusals).where(refusals.c.request_id == request_id))
                ).first()
            if found is not None:
                return found
            await asyncio.sleep(0.1)


async def test_an_accepted_request_is_found_again_with_all_that_came_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    async with translating(place, monkeypatch, f"g{secrets.token_hex(4)}"):
        began = time.time()
        response = await place.deliver(event(1), event(2), event(3, portalId=666))
        request_id = response.headers["X-Request-Id"]
        assert abs(arrived_at(request_id).timestamp() - began) < 30
        await place.mine(CHANGES, 2)
        codec = Codec(place.parts.keyring, "test")
        async with asyncio.timeout(20):
            while True:
                found = await accepted_one(place.settings, codec, request_id)
                assert found is not None
                if len(found.came) == 3:
                    break
        assert sorted(trace.topic for trace in found.came) == ["crm.changes", "crm.changes", "crm.dead-letters"]
        assert place.account in found.accounts
        (delivery,) = await place.mine(DELIVERIES, 1)
        assert found.places == [(delivery.partition, delivery.offset)]
        listed = await accepted(
            place.settings, codec, since=arrived_at(request_id), tenant=place.tenant, endpoints={place.hubspot.id}
        )
        assert [one.delivery.request_id for one in listed] == [request_id]
        none = await accepted(
            place.settings, codec, since=arrived_at(request_id), tenant=place.tenant, endpoints={place.salesforce.id}
        )
        assert none == []


async def test_what_was_refused_for_a_wrong_secret_is_let_in_once_it_is_right(place: Place):
    """INVARIANT: a retry judges as the door would have with today's secrets, and publishes once.

    If this fails, either a mended secret does not bring back what it cost, or an admin's second click doubles deliveries.
    """
    body = json.dumps([event(1)]).encode()
    url = f"https://hooks.test/hooks/{place.hubspot.id}"
    # What comes before the endpoint has a key of the hour cannot be kept; the door makes one within seconds.
    await place.parts.keyring.for_delivery(place.tenant, place.hubspot.id, datetime.now(UTC))
    forged = await place.post(place.hubspot, body + b" ", signed(url, body))
    await place.parts.registry.rotate_secret(place.hubspot.id, b"another", overlap_seconds=0)
    await place.parts.directory.refresh()
    refused = await place.post(place.hubspot, body, signed(url, body))
    assert (refused.status, forged.status) == (401, 401)
    request_id = refused.headers["X-Request-Id"]
    row = await row_of(place, request_id)
    assert row.sealed_request is not None
    assert b"jobtitle" not in row.sealed_request
    async with retrier(place) as still_wrong:
        assert (await still_wrong.retry(request_id)).detail.startswith("VERIFICATION_FAILED")
    await place.parts.registry.rotate_secret(place.hubspot.id, b"the-apps-client-secret")
    async with retrier(place) as right:
        await row_of(place, forged.headers["X-Request-Id"])
        assert (await right.retry(forged.headers["X-Request-Id"])).result == "refused"
        assert (await right.retry(request_id, dry_run=True)).result == "published"
        both = await asyncio.gather(right.retry(request_id), right.retry(request_id))
        assert sorted(one.result for one in both) == ["already", "published"]
        assert (await right.retry("0" * 32)).result == "unknown"
    (delivery,) = await place.mine(DELIVERIES, 1)
    assert (delivery.payload.request_id, delivery.payload.body) == (request_id, body)
    assert (await row_of(place, request_id)).sealed_request is None
    found = await accepted_one(place.settings, Codec(place.parts.keyring, "test"), request_id)
    assert found is not None


async def test_an_admin_finds_and_lets_in_what_a_wrong_secret_cost(
    place: Place,
    hookline: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    """The same by the commands: list, show, rotate, a dry run, retry, and what became of it."""

    async def said(*arguments: str) -> str:
        return await asyncio.to_thread(hookline, *arguments)

    await place.parts.keyring.for_delivery(place.tenant, place.hubspot.id, datetime.now(UTC))
    url = f"https://hooks.test/hooks/{place.hubspot.id}"
    accepted_id = (await place.deliver(event(1))).headers["X-Request-Id"]
    body = json.dumps([event(2)]).encode()
    headers = signed(url, body, secret=b"the-secret-that-hubspot-has-now")
    request_id = (await place.post(place.hubspot, body, headers)).headers["X-Request-Id"]
    await row_of(place, request_id)
    listed = [json.loads(line) for line in (await said("requests", "list", "--tenant", place.tenant, "--json")).replace("} {", "}\n{").split("\n")]  # fmt: skip
    assert {(one["request_id"], one["answer"]) for one in listed} == {(accepted_id, "accepted"), (request_id, "VERIFICATION_FAILED")}  # fmt: skip
    narrow = ("--endpoint", place.hubspot.id, "--cause", "VERIFICATION_FAILED")
    assert request_id in await said("requests", "list", *narrow)
    assert "jobtitle" not in await said("requests", "show", request_id)
    assert "jobtitle" in await said("requests", "show", request_id, "--body")
    assert "0 of 1" in await said("requests", "retry", *narrow, "--dry-run")
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "the-secret-that-hubspot-has-now")
    await said("endpoint", "rotate-secret", place.hubspot.id, "--overlap", "1h")
    assert "1 of 1 would be let in" in await said("requests", "retry", *narrow, "--dry-run")
    assert "1 of 1 let in" in await said("requests", "retry", *narrow)
    assert "let in" in await said("requests", "show", request_id)
    assert {one.payload.request_id for one in await place.mine(DELIVERIES, 2)} == {accepted_id, request_id}


async def test_a_secret_is_rotated_under_traffic_and_nothing_is_lost(place: Place):
    """INVARIANT: from the old secret to the new one no delivery is refused; when the overlap is over the old one counts no longer."""
    url = f"https://hooks.test/hooks/{place.hubspot.id}"
    ids: list[str] = []
    numbers = itertools.count()
    ended = asyncio.Event()

    async def send(secret: bytes) -> int:
        body = json.dumps([event(next(numbers))]).encode()
        response = await place.post(place.hubspot, body, signed(url, body, secret=secret))
        if response.status == 202:
            ids.append(response.headers["X-Request-Id"])
        return response.status

    async def traffic(using: list[bytes]) -> set[int]:
        statuses = set()
        while not ended.is_set():
            statuses.add(await send(using[0]))
        return statuses

    using = [SECRET]
    sending = [asyncio.create_task(traffic(using)) for _ in range(3)]
    await place.parts.registry.rotate_secret(place.hubspot.id, b"the-new-client-secret", overlap_seconds=3_600)
    async with asyncio.timeout(10):
        # The probe is a stranger's until the door has heard of the new secret.
        while await send(b"the-new-client-secret") != 202:
            pass
    using[0] = b"the-new-client-secret"
    before = len(ids)
    async with asyncio.timeout(10):
        while len(ids) < before + 20:  # noqa: ASYNC110 - the senders tell nobody
            await asyncio.sleep(0.01)
    assert await send(SECRET) == 202
    ended.set()
    assert set().union(*await asyncio.gather(*sending)) == {202}
    await place.parts.registry.rotate_secret(place.hubspot.id, b"yet-another-client-secret", overlap_seconds=0)
    await place.parts.directory.refresh()
    assert [await send(old) for old in (SECRET, b"the-new-client-secret")] == [401, 401]
    assert await send(b"yet-another-client-secret") == 202
    found = await place.mine(DELIVERIES, len(ids))
    assert {one.payload.request_id for one in found} == set(ids)


async def test_a_delivery_too_large_for_one_message_is_split_between_its_events(place: Place):
    """INVARIANT: nothing is truncated: the parts together are the delivery, event by event, byte for byte."""
    events = [event(number, propertyValue="ü" * 12_000) for number in range(100)]
    response = await _deliver_large(place, *events)
    assert response.status == 202
    parts = await place.mine(DELIVERIES, 1, at_least=True)
    parts.sort(key=lambda found: found.envelope.id.partition(".")[2])
    assert len(parts) > 1
    assert {found.payload.request_id for found in parts} == {response.headers["X-Request-Id"]}
    assert [one for found in parts for one in json.loads(found.payload.body)] == events
    huge = await _deliver_large(place, event(1, propertyValue="x" * 1_000_000))
    assert (huge.status, (await huge.json())["cause"]) == (413, "PAYLOAD_TOO_LARGE")


async def _deliver_large(place: Place, *events: dict) -> aiohttp.ClientResponse:
    body = json.dumps(events).encode()
    headers = signed(f"https://hooks.test/hooks/{place.hubspot.id}", body)
    return await place.post(place.hubspot, io.BytesIO(body), headers)


async def test_a_replayed_delivery_is_answered_as_accepted_and_lies_there_once(place: Place):
    body = json.dumps([event(1)]).encode()
    headers = signed(f"https://hooks.test/hooks/{place.hubspot.id}", body)
    responses = [await place.post(place.hubspot, body, headers) for _ in range(3)]
    assert [response.status for response in responses] == [202, 202, 202]
    assert len(await place.mine(DELIVERIES, 1)) == 1
    row = await row_of(place, responses[1].headers["X-Request-Id"])
    assert (row.cause, row.status) == ("REPLAYED", 202)
    assert row.sealed_request is None


async def test_every_replica_follows_a_change_within_two_seconds(place: Place):
    replicas = [Directory(place.parts.registry) for _ in range(3)]
    for replica in replicas:
        await replica.start()
    try:
        made = await place.parts.registry.add_endpoint(place.tenant, "hubspot", secret=b"a-secret-of-the-app")
        began = time.monotonic()
        async with asyncio.timeout(10):
            while not all(replica.endpoint(made.id) for replica in replicas):  # noqa: ASYNC110 - the directory tells nobody
                await asyncio.sleep(0.02)
        assert time.monotonic() - began < 2.5  # two seconds by the poll's interval; the rest is a loaded machine's
    finally:
        for replica in replicas:
            await replica.stop()


async def test_a_dead_worker_is_replaced_and_a_drain_loses_nothing(
    settings: Settings, tenant: str, monkeypatch: pytest.MonkeyPatch
):
    """Two processes behind one port; one is killed under load, and every request that was answered 202 lies on the topic."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.master_keys is not None
    for name, value in {
        variable("environment"): "production", variable("kafka_url"): settings.kafka_url, variable("kafka_replication"): "1",
        variable("database_url"): settings.database_url.get_secret_value(), variable("redis_url"): settings.redis_url.get_secret_value(),
        variable("master_keys"): settings.master_keys.get_secret_value(), variable("public_url"): "https://hooks.test",
        variable("log_level"): "ERROR",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    async with open_place(settings, tenant) as place:
        workers = Workers(settings.model_copy(update={"ingress_port": 0, "ops_port": 0}), 2)
        started = asyncio.Event()
        running = asyncio.create_task(workers.run(started.set))
        try:
            await asyncio.wait_for(started.wait(), 20)
            async with asyncio.timeout(60):
                await _until_answered(place, workers)
                accepted_ids = await _load(place, workers, kill=True)
                assert any(worker.restarts for worker in workers.workers)
                page = (await workers._metrics())[1].decode()
            assert 'worker="0"' in page
            assert 'worker="1"' in page
            assert re.search(r'hookline_ingress_requests_total\{[^}]*answer="accepted"[^}]*\} [1-9]', page)
        finally:
            workers.stop()
            await asyncio.wait_for(running, 40)
        assert all(worker.process is not None and worker.process.returncode == 0 for worker in workers.workers)
        found = await place.mine(DELIVERIES, len(accepted_ids), at_least=True)
        assert accepted_ids <= {message.payload.request_id for message in found}


async def _until_answered(place: Place, workers: Workers) -> None:
    while True:
        try:
            async with place.http.get(f"http://127.0.0.1:{workers.port}/hooks/{place.hubspot.id}") as response:
                if response.status == 200 and all([not await workers._asker(worker)() for worker in workers.workers]):
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)


async def _load(place: Place, workers: Workers, *, kill: bool) -> set[str]:
    """Requests until the killed worker lives again; returns the ids of those that were accepted."""
    accepted_ids: set[str] = set()
    url = f"https://hooks.test/hooks/{place.hubspot.id}"
    killed = False
    for number in range(100_000):
        body = json.dumps([event(number)]).encode()
        try:
            async with place.http.post(
                f"http://127.0.0.1:{workers.port}/hooks/{place.hubspot.id}", data=body, headers=signed(url, body)
            ) as response:
                if response.status == 202:
                    accepted_ids.add(response.headers["X-Request-Id"])
        except aiohttp.ClientError:
            continue
        if kill and number == 30:
            victim = workers.workers[0].process
            assert victim is not None
            os.kill(victim.pid, signal.SIGKILL)
            killed = True
        if killed and number > 60 and workers.workers[0].restarts and not await workers._asker(workers.workers[0])():
            break
    return accepted_ids


def test_what_is_kept_for_a_retry_was_judged_by_its_signature():
    assert {cause.value for cause in KEPT} == {
        "VERIFICATION_FAILED", "SIGNATURE_MISSING", "STALE", "FROM_THE_FUTURE", "ENDPOINT_DISABLED", "ADDRESS_NOT_ALLOWED",
    }  # fmt: skip
