"""Proxies, conditions and traces as the door uses them, whole requests at a time."""

from __future__ import annotations

import dataclasses

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ingress.proxies import Proxies
from ingress.sender_trace import link_sender
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW, PUBLIC, SECRET, endpoint, house, secret
from tests.ingress.signers import PATH, hubspot_v1, hubspot_v3

BODY = b'[{"portalId":145883449}]'
BEHIND = Proxies(("10.0.0.0/8",))


def as_text(signed, **more):
    return {**{name.decode(): value.decode() for name, value in signed.request.headers.items()}, **more}


class Peer:
    """Puts the peer's address into the scope, as a server does."""

    def __init__(self, receiver, client):
        self._receiver, self._client = receiver, client

    async def __call__(self, scope, receive, send):
        await self._receiver({**scope, "client": (self._client, 1)}, receive, send)


def behind(client, *endpoints, **changes):
    found = house(*endpoints, **changes)
    return dataclasses.replace(found, receiver=Peer(found.receiver, client))


FORWARDED = {
    "host": "inner:8080",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "hooks.example.com",
}


async def test_the_signed_address_is_rebuilt_from_what_a_trusted_proxy_says():
    found = behind("10.0.0.1", public_url=None, proxies=BEHIND)
    assert (await found.ask(PATH, BODY, as_text(hubspot_v3(BODY), **FORWARDED))).status == 202


async def test_it_is_not_rebuilt_from_what_anybody_else_says():
    """INVARIANT: a captured request cannot be sent to another of our addresses by naming the first one in a header."""
    found = behind("198.51.100.9", public_url=None, proxies=BEHIND)
    assert (await found.ask(PATH, BODY, as_text(hubspot_v3(BODY), **FORWARDED))).status == 401
    pinned = behind("10.0.0.1", public_url="https://other.example.com", proxies=BEHIND)
    assert (await pinned.ask(PATH, BODY, as_text(hubspot_v3(BODY), **FORWARDED))).status == 401


async def test_an_endpoint_may_have_an_address_of_its_own():
    one = endpoint(config={"public_url": PUBLIC + "/"})
    found = house(one, public_url="https://other.example.com")
    assert (await found.ask(PATH, BODY, as_text(hubspot_v3(BODY)))).status == 202


async def test_a_forged_v3_beside_a_valid_v1_is_refused():
    """INVARIANT: no downgrade, through the whole door."""
    signed = as_text(hubspot_v1(BODY))
    forged = {
        **signed,
        "x-hubspot-signature-v3": "Zm9yZ2Vk",
        "x-hubspot-request-timestamp": str(int(NOW.timestamp() * 1000)),
    }
    assert (await house().ask(PATH, BODY, signed)).status == 202
    assert (await house().ask(PATH, BODY, forged)).status == 401


async def test_a_refusal_tells_the_admin_why_and_the_sender_only_the_cause():
    found = house(endpoint(config={"networks": ["203.0.113.0/24"]}))
    answer = await found.ask(PATH, BODY, as_text(hubspot_v3(BODY)))
    assert (answer.status, answer.body) == (403, b'{"accepted":false,"cause":"ADDRESS_NOT_ALLOWED"}')
    (row,) = await found.refusals()
    assert row["cause"] == Refusal.ADDRESS_NOT_ALLOWED
    assert "outside the endpoint's networks" in row["detail"]


async def test_a_placeholder_secret_disables_the_endpoint_and_says_so():
    found = house(endpoint(secrets=(secret(b"changeme"),)))
    answer = await found.ask(PATH, BODY, as_text(hubspot_v3(BODY, secret=b"changeme")))
    assert answer.status == 403
    (row,) = await found.refusals()
    assert (row["cause"], "placeholder" in row["detail"]) == (Refusal.ENDPOINT_DISABLED, True)


TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "linked"),
    [
        (TRACEPARENT, True),
        (b"01" + TRACEPARENT[2:] + b"-more", True),
        (b"ff" + TRACEPARENT[2:], False),
        (TRACEPARENT.upper(), False),
        (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", False),
        (b"", False),
        (b"\xff" * 600, False),
        (None, False),
    ],
)
def test_a_senders_trace_is_linked_and_never_joined(given, linked):
    """INVARIANT: our trace ids are ours. If this fails, a stranger chooses which trace its request belongs to."""
    span = TracerProvider().get_tracer("test").start_span("delivery.receive")
    link_sender(span, {} if given is None else {b"traceparent": given})
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != "0af7651916cd43dd8448eb211c80319c"
    assert [f"{link.context.trace_id:032x}" for link in span.links] == (
        ["0af7651916cd43dd8448eb211c80319c"] if linked else []
    )


async def test_the_door_takes_no_trace_id_from_a_sender():
    found = house()
    signed = hubspot_v3(BODY, secret=SECRET)
    await found.ask(PATH, BODY, as_text(signed, traceparent=TRACEPARENT.decode()))
    (outgoing,) = found.publisher.outgoing
    assert b"0af7651916cd43dd8448eb211c80319c" not in b"".join(bytes(value) for _, value in outgoing.headers)
