"""The front door over ASGI: every way in, and every way of being turned away."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from infra import metrics
from infra.kafka.codec import Codec
from infra.kafka.raw import RawMessage
from ingress import answers
from ingress.gate import READY_BELOW, Gate
from ingress.known import KEY_ASKED_EVERY
from ingress.rates import Rates
from ingress.refused import MAX_BODY_BYTES, PER_SECOND, RefusedRequest
from schemas.delivery import Refusal
from schemas.topics import DELIVERIES
from tests.ingress.fakes import NOW, House, endpoint, house, secret
from tests.ingress.signers import (
    BASIC,
    BEARER,
    DECLARED_SECRET,
    GITHUB,
    callout,
    everything,
    github,
    hubspot_v1,
    hubspot_v2,
    hubspot_v3,
    slack,
    standard,
    stripe,
)

BODY = b'[{"portalId":145883449,"objectId":1}]'
EP = endpoint()
PATH = f"/hooks/{EP.id}"
DOCS = Path(__file__).parents[2] / "docs" / "ingress.md"


@pytest.fixture(autouse=True, params=[True, False], ids=["the-short-way", "over-asgi"])
def _both_ways(request, monkeypatch):
    """INVARIANT: what the door says does not depend on the way. If this fails, one of them has forgotten a check."""
    monkeypatch.setattr(House, "short", request.param)


def _declared_standard(body: bytes, identity: str = "msg_1"):
    return dataclasses.replace(standard(body, identity=identity), config={**BEARER, "verify": {"scheme": "standard_webhooks"}})  # fmt: skip


def signed(body: bytes = BODY, sign=hubspot_v3, **more) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sign(body, **more).request.headers.items()}


async def only_cause(door) -> str:
    (row,) = await door.refusals()
    return row["cause"]


@pytest.mark.parametrize("sign", [hubspot_v1, hubspot_v2, hubspot_v3])
async def test_a_delivery_is_sealed_published_and_then_answered(sign):
    door = house()
    reply = await door.ask(PATH, BODY, {**signed(sign=sign), "Content-Type": "application/json"})
    assert reply.status == 202
    assert door.taken == int(House.short)
    (out,) = door.publisher.outgoing
    raw = RawMessage(DELIVERIES.name, 0, 0, out.key, out.value, out.headers)
    (received,), refused = await Codec(door.ring, "test").open(DELIVERIES, [raw])
    assert not refused
    found = received.payload
    assert found.body == BODY
    assert (found.tenant, found.endpoint, found.source, found.received_at) == ("acme", EP.id, "hubspot", NOW)
    assert found.content_type == "application/json"
    assert found.request_id == reply.headers["x-request-id"] == received.envelope.id
    assert BODY not in out.value
    assert b"145883449" not in b"".join(value for _, value in out.headers) + out.key
    assert await door.refusals() == []


async def test_no_answer_before_the_brokers_acknowledgement():
    """INVARIANT: a sender hears 2xx only once Kafka holds the delivery. If this fails, a crash loses what was accepted."""
    arrived, acked = asyncio.Event(), asyncio.Event()

    async def publish(outgoing):
        arrived.set()
        await acked.wait()

    door = house(publish=publish)
    asking = asyncio.create_task(door.ask(PATH, BODY, signed()))
    await arrived.wait()
    assert not asking.done()
    assert door.gate.requests == 1
    acked.set()
    assert (await asking).status == 202
    assert (door.gate.requests, door.gate.bytes) == (0, 0)


async def test_the_query_is_covered_and_kept_out_of_the_path():
    door = house()
    target = f"{PATH}?a=%3A"
    assert (await door.ask(PATH, BODY, signed(target=target), query=b"a=%3A")).status == 202
    assert (await door.ask(PATH, BODY, signed(target=target), query=b"a=%3B")).status == 401


async def test_without_a_public_address_the_host_header_makes_it():
    door = house(public_url=None)
    headers = {**signed(), "Host": "hooks.example.com"}
    assert (await door.ask(PATH, BODY, headers)).status == 401  # the scope says http, the sender signed https
    port = house(public_url="https://hooks.example.com/")
    assert (await port.ask(PATH, BODY, {**signed(), "Host": "evil.example"})).status == 202


async def test_a_compressed_body_is_verified_and_kept_opened():
    door = house()
    reply = await door.ask(PATH, gzip.compress(BODY), {**signed(), "Content-Encoding": "gzip"})
    assert reply.status == 202


async def test_salesforce_hears_ack_and_faults():
    found = endpoint("salesforce", secrets=())
    door = house(found)
    reply = await door.ask(PATH, b"<x/>")
    assert (reply.status, b"<Ack>true</Ack>" in reply.body) == (200, True)
    assert reply.headers["content-type"].startswith("text/xml")
    door.publisher.away = 1
    reply = await door.ask(PATH, b"<x/>")
    assert (reply.status, b"Fault" in reply.body, b"Ack>" in reply.body) == (503, True, False)
    assert int(reply.headers["retry-after"]) > 0


async def test_standard_webhooks_pass_too():
    given = standard(b"{}")
    door = house(endpoint("standard_webhooks", secrets=(secret(given.secret),)))
    headers = {name.decode(): value.decode() for name, value in given.request.headers.items()}
    assert (await door.ask(PATH, b"{}", headers)).status == 202


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_handshake_is_greeted(method):
    reply = await house().ask(PATH, method=method)
    assert reply.status == 200
    assert (reply.body == b"") is (method == "HEAD")
    assert (await house().ask("/hooks/nobody", method=method)).status == 404


@pytest.mark.parametrize("path", ["/", "/hooks", "/hooks/", "/hooks/" + "x" * 129, "/metrics", "/HOOKS/a", "//hooks/a"])
async def test_anything_else_is_not_here(path):
    door = house()
    reply = await door.ask(path, BODY, signed())
    assert reply.status == 404
    assert reply.headers["x-request-id"]
    assert await door.refusals() == []


@pytest.mark.parametrize("tail", ["/", "/x", "%2F", "é", "\x00", "..", EP.id.lower() + "0", EP.id[:-1]])
async def test_an_address_that_is_nearly_right_is_unknown(tail):
    door = house()
    path = f"/hooks/{tail}" if len(tail) > 5 else PATH + tail
    assert (await door.ask(path, BODY, signed())).status == 404
    assert await only_cause(door) == "UNKNOWN_ENDPOINT"


def _spent() -> Rates:
    rates = Rates(1e-6, 1)
    assert rates.take(EP, time.monotonic()) == 0
    return rates


def _cases():
    stale, coming = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    good = signed()
    return {
        Refusal.UNKNOWN_ENDPOINT: ({}, {"path": "/hooks/nobody-knows-this"}),
        Refusal.ENDPOINT_DISABLED: ({"endpoint": endpoint(enabled=False)}, {}),
        Refusal.METHOD_NOT_ALLOWED: ({}, {"method": "PUT"}),
        Refusal.ADDRESS_NOT_ALLOWED: ({"endpoint": endpoint(config={"networks": ["203.0.113.0/24"]})}, {}),
        Refusal.CERTIFICATE_REFUSED: ({"endpoint": endpoint(config={"client_certificate": {"names": ["a"]}})}, {}),
        Refusal.VERIFICATION_FAILED: ({}, {"headers": signed(secret=b"another")}),
        Refusal.SIGNATURE_MISSING: ({}, {"headers": {}}),
        Refusal.STALE: ({}, {"headers": signed(at=stale)}),
        Refusal.FROM_THE_FUTURE: ({}, {"headers": signed(at=coming)}),
        Refusal.PAYLOAD_TOO_LARGE: ({}, {"body": [b"x" * 5_000] * 3}),
        Refusal.UNSUPPORTED_ENCODING: ({}, {"headers": {**good, "Content-Encoding": "br"}}),
        Refusal.EMPTY_BODY: ({}, {"body": b""}),
        Refusal.BODY_INCOMPLETE: ({"body_seconds": 0.01}, {"receive": lambda: asyncio.Event().wait()}),
        Refusal.RATE_LIMITED: ({"rates": _spent()}, {}),
        Refusal.OVERLOADED: ({"gate": Gate(0, 0)}, {}),
        Refusal.BROKER_UNAVAILABLE: ({"away": 1}, {}),
        Refusal.KEYS_UNAVAILABLE: ({"no_keys": True}, {}),
    }


CASES = _cases()
WITHOUT_A_CASE = {
    Refusal.REPLAYED,  # answered as accepted: a test of its own
    Refusal.MALFORMED_REQUEST, Refusal.HEADERS_TOO_LARGE, Refusal.HEADERS_INCOMPLETE,  # at the wire: test_wire
}  # fmt: skip


def test_every_refusal_has_a_case_here():
    assert set(CASES) | WITHOUT_A_CASE == set(Refusal) == set(answers.STATUS)


@pytest.mark.parametrize("refusal", CASES)
async def test_each_refusal_has_its_status_its_name_and_its_row(refusal):
    """INVARIANT: no request is turned away without a named cause that the admin can read."""
    changes, asked = CASES[refusal]
    changes = dict(changes)
    found, away, no_keys = changes.pop("endpoint", EP), changes.pop("away", 0), changes.pop("no_keys", False)
    door = house(found, **changes)
    door.publisher.away, door.keys.away = away, no_keys
    given = {"path": PATH, "body": BODY, "headers": signed(), **asked}
    reply = await door.ask(given.pop("path"), given.pop("body"), given.pop("headers"), **given)
    assert reply.status == answers.STATUS[refusal]
    assert json.loads(reply.body) == {"accepted": False, "cause": refusal.value}
    (row,) = await door.refusals()
    assert (row["cause"], row["status"], row["request_id"]) == (
        refusal.value,
        reply.status,
        reply.headers["x-request-id"],
    )
    assert row["tenant"] == ("" if refusal is Refusal.UNKNOWN_ENDPOINT else "acme")
    assert ("retry-after" in reply.headers) is (refusal in answers.RETRY_AFTER)
    assert (reply.headers.get("connection") == "close") is (refusal in answers.CLOSING)
    assert door.publisher.outgoing == []
    assert (door.gate.requests, door.gate.bytes) == (0, 0)


async def test_who_hung_up_gets_no_answer_and_a_row():
    door = house()
    messages = [{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}]
    assert await door.ask(PATH, headers=signed(), messages=messages) is None
    assert await only_cause(door) == "BODY_INCOMPLETE"


async def test_postgres_may_be_away_once_the_key_is_known():
    door = house()
    assert (await door.ask(PATH, BODY, signed())).status == 202
    door.keys.away = True
    assert (await door.ask(PATH, BODY, signed())).status == 202


async def test_a_bug_of_ours_answers_500_and_tells_nothing():
    async def broken(outgoing):
        raise RuntimeError("secret detail")

    reply = await house(publish=broken).ask(PATH, BODY, signed())
    assert reply.status == 500
    assert b"secret" not in reply.body


@pytest.mark.parametrize("source", ["salesforce", "hubspot"])
async def test_a_secret_address_is_never_written_down_whole(source):
    """INVARIANT: the id of a Salesforce endpoint reaches no log and no table. If this fails, whoever reads logs can send."""
    door = house(endpoint(source, enabled=False))
    with structlog.testing.capture_logs() as lines:
        await door.ask(PATH, b"<x/>")
    (row,) = await door.refusals()
    written = json.dumps([row, lines], default=str)
    assert (EP.id in written) is (source == "hubspot")
    assert row["endpoint"].startswith(EP.id[:6])


async def test_an_unknown_address_is_not_written_down_whole_either():
    door = house()
    with structlog.testing.capture_logs() as lines:
        await door.ask("/hooks/nearly-the-secret-of-somebody", b"<x/>")
    assert "nearly-the-secret" not in json.dumps([await door.refusals(), lines], default=str)


async def test_request_ids_are_new_each_time_and_never_the_senders():
    door = house()
    replies = [await door.ask(PATH, BODY, {**signed(), "X-Request-Id": "mine"}) for _ in range(3)]
    assert len({reply.headers["x-request-id"] for reply in replies} | {"mine"}) == 4


def test_the_table_of_answers_in_the_documentation_is_the_one_in_the_code():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+)", DOCS.read_text(), re.MULTILINE)
    assert {Refusal(name): int(status) for name, status in rows} == answers.STATUS


async def test_a_replayed_request_is_answered_as_accepted_and_published_once():
    """INVARIANT: whoever captured a delivery can repeat it without effect. If this fails, they fill Kafka for five minutes."""
    door = house()
    first, second = [await door.ask(PATH, BODY, signed()) for _ in range(2)]
    assert (first.status, second.status, first.body) == (202, 202, second.body)
    assert len(door.publisher.outgoing) == 1
    (row,) = await door.refusals()
    assert (row["cause"], row["status"], row["sealed_request"]) == ("REPLAYED", 202, None)


@pytest.mark.parametrize("sign", [stripe, slack, everything, callout, _declared_standard])
async def test_a_declared_sender_with_a_time_or_an_id_is_guarded_likewise(sign):
    """INVARIANT: as above, for senders that are declared."""
    found = sign(BODY)
    door = house(endpoint("custom", secrets=(secret(found.secret),), config=found.config))
    headers = {name.decode(): value.decode() for name, value in found.request.headers.items()}
    assert [(await door.ask(PATH, BODY, headers)).status for _ in range(2)] == [202, 202]
    assert len(door.publisher.outgoing) == 1
    (row,) = await door.refusals()
    assert (row["cause"], row["status"]) == ("REPLAYED", 202)
    later = sign(BODY, at=NOW + timedelta(seconds=1)) if sign is not _declared_standard else sign(BODY, identity="2")
    again = {name.decode(): value.decode() for name, value in later.request.headers.items()}
    assert (await door.ask(PATH, BODY, again)).status == 202
    assert len(door.publisher.outgoing) == 2


async def test_a_replay_is_known_in_other_clothes():
    """What is no part of the signature may be written in another way by whoever captured a request."""
    found = stripe(BODY)
    door = house(endpoint("custom", secrets=(secret(found.secret),), config=found.config))
    given = found.request.headers[b"stripe-signature"].decode()
    for header in (given, given.replace("v0=00", "v0=11"), f"a=b,{given}", ",".join(reversed(given.split(",")))):
        assert (await door.ask(PATH, BODY, {"Stripe-Signature": header})).status == 202
    assert len(door.publisher.outgoing) == 1


@pytest.mark.parametrize(("config", "value"), [(BEARER, "Bearer {}"), (BASIC, "Basic {}"), (GITHUB, None)])
async def test_a_declared_sender_that_says_nothing_of_when_passes_each_time(config, value):
    door = house(endpoint("custom", secrets=(secret(DECLARED_SECRET),), config=config))
    headers = signed(sign=github)
    if value is not None:
        given = DECLARED_SECRET if "Bearer" in value else base64.b64encode(b"hookline:" + DECLARED_SECRET)
        headers = {"Authorization": value.format(given.decode())}
    assert [(await door.ask(PATH, BODY, headers)).status for _ in range(2)] == [202, 202]
    assert len(door.publisher.outgoing) == 2


async def test_what_failed_is_no_replay_when_it_comes_again():
    door = house()
    door.publisher.away = 1
    assert (await door.ask(PATH, BODY, signed())).status == 503
    assert (await door.ask(PATH, BODY, signed())).status == 202
    assert len(door.publisher.outgoing) == 1


async def test_without_a_signed_time_nothing_counts_as_a_replay():
    door = house()
    for _ in range(2):
        assert (await door.ask(PATH, BODY, signed(sign=hubspot_v1))).status == 202
    assert len(door.publisher.outgoing) == 2


async def test_strangers_do_not_spend_the_endpoints_rate():
    door = house(rates=Rates(1e-6, 1))
    for _ in range(5):
        assert (await door.ask(PATH, BODY, signed(secret=b"another"))).status == 401
    assert (await door.ask(PATH, BODY, signed())).status == 202
    reply = await door.ask(PATH, b"[]", signed(b"[]"))
    assert (reply.status, int(reply.headers["retry-after"]) > 0) == (429, True)


async def test_a_refused_request_is_kept_sealed_and_can_be_judged_again():
    """INVARIANT: no byte of an unverified body lies in a table in the clear."""
    door = house()
    assert (await door.ask(PATH, BODY, signed())).status == 202  # the key of the hour is there from now on
    body = BODY.replace(b"1}", b"2}")
    await door.ask(PATH, body, {**signed(body, secret=b"another"), "Cookie": "CANARY"})
    (row,) = await door.refusals()
    assert b"145883449" not in row["sealed_request"]
    assert b"CANARY" not in row["sealed_request"]
    key = door.ring.cached_delivery_key("acme", EP.id, NOW)
    kept = RefusedRequest.open(row["sealed_request"], key)
    assert (kept.body, kept.received_at, kept.endpoint) == (body, NOW, EP.id)
    assert kept.request(b"https://elsewhere").uri() == b"https://elsewhere" + PATH.encode()
    assert kept.headers[b"cookie"] == b"CANARY"


async def test_of_a_storm_of_refused_bodies_few_are_kept():
    door = house()
    await door.ask(PATH, BODY, signed())
    for _ in range(PER_SECOND * 3):
        await door.ask(PATH, BODY, signed(secret=b"another"))
    rows = await door.refusals()
    assert sum(row["sealed_request"] is not None for row in rows) == PER_SECOND
    assert sum(row["repeats"] for row in rows) == PER_SECOND * 3


async def test_a_large_refused_body_is_not_kept():
    door = house(split_bytes=2_000_000)
    await door.ask(PATH, BODY, signed())
    await door.ask(PATH, b"x" * (MAX_BODY_BYTES + 1), signed(secret=b"another"))
    (row,) = await door.refusals()
    assert row["sealed_request"] is None


async def test_a_delivery_larger_than_a_message_becomes_several_of_one_request():
    door = house(split_bytes=100_000)
    body = json.dumps([{"objectId": number, "propertyValue": "x" * 500} for number in range(50)]).encode()
    reply = await door.ask(PATH, body, signed(body))
    assert reply.status == 202
    ids = [dict(out.headers)["ce_id"].decode() for out in door.publisher.outgoing]
    assert len(ids) > 1
    assert ids[0] == reply.headers["x-request-id"]
    assert len(set(ids)) == len(ids)
    raws = [RawMessage(DELIVERIES.name, 0, place, out.key, out.value, out.headers) for place, out in enumerate(door.publisher.outgoing)]  # fmt: skip
    received, _ = await Codec(door.ring, "test").open(DELIVERIES, raws)
    assert [one for found in received for one in json.loads(found.payload.body)] == json.loads(body)
    assert all(len(found.payload.body) <= 10_000 for found in received)
    single = json.dumps([{"propertyValue": "x" * 20_000}]).encode()
    assert (await door.ask(PATH, single, signed(single))).status == 413


async def test_the_hour_changes_while_postgres_is_away():
    """INVARIANT: the next hour's key is made ahead. If this fails, a full hour ends the door's independence of PostgreSQL."""
    clock = [NOW]
    door = house(now=lambda: clock[0])
    assert (await door.ask(PATH, BODY, signed())).status == 202
    door.keys.away = True
    clock[0] = NOW + timedelta(hours=1)
    assert (await door.ask(PATH, BODY, signed(at=clock[0]))).status == 202
    clock[0] = NOW + timedelta(hours=2)
    assert (await door.ask(PATH, BODY, signed(at=clock[0]))).status == 503


def test_readiness_falls_before_requests_are_refused():
    gate = Gate(100, 1_000)
    while gate.fullness() < READY_BELOW:
        assert gate.enter()
    assert gate.enter()


async def test_a_changed_endpoint_is_judged_as_it_is_now():
    """INVARIANT: what is remembered of an endpoint ends with it. If this fails, a disabled one, or an old secret, goes on working."""
    door = house()
    assert (await door.ask(PATH, BODY, signed())).status == 202
    door.directory.known = {EP.id: endpoint(secrets=(secret(b"another-secret-of-the-app"),))}
    assert (await door.ask(PATH, BODY, signed(b"[]"))).status == 401
    door.directory.known = {EP.id: endpoint(enabled=False)}
    assert (await door.ask(PATH, BODY, signed())).status == 403
    door.directory.known = {EP.id: endpoint(config={"networks": ["192.0.2.0/24"]})}
    assert (await door.ask(PATH, BODY, signed())).status == 403
    door.directory.known = {}
    assert (await door.ask(PATH, BODY, signed())).status == 404


async def test_an_accepted_request_is_counted_once_with_its_time():
    def told() -> tuple[float, float]:
        samples = [each for family in metrics.REQUEST_SECONDS.collect() for each in family.samples]
        timed = sum(
            each.value for each in samples if each.name.endswith("_count") and each.labels["source"] == "hubspot"
        )
        return metrics.REQUESTS.labels("hubspot", "accepted")._value.get(), timed

    door, before = house(), told()
    for number in range(3):
        assert (await door.ask(PATH, b"[%d]" % number, signed(b"[%d]" % number))).status == 202
    await asyncio.sleep(0)
    assert [now - then for now, then in zip(told(), before, strict=True)] == [3, 3]


async def test_a_key_that_was_destroyed_is_forgotten_at_once():
    """INVARIANT: the ring forgets within two seconds, and the door asks it ten times a second. If this fails, erasure takes an hour."""
    moment = [NOW]
    door = house(now=lambda: moment[0])
    await door.make_keys()
    acceptance = door.receiver._acceptance
    known = acceptance.known(PATH.encode())
    assert acceptance.key(known, NOW) is not None
    door.ring._deliveries.clear()
    assert acceptance.key(known, NOW + KEY_ASKED_EVERY - timedelta(milliseconds=1)) is not None
    assert acceptance.key(known, NOW + KEY_ASKED_EVERY) is None
    await door.make_keys()
    assert acceptance.key(known, NOW) is not None  # what was not there is asked for each time
    last = NOW.replace(minute=59, second=59, microsecond=990_000)
    assert acceptance.key(known, last) is not acceptance.key(known, last + timedelta(milliseconds=10))
