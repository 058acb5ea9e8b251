"""Challenges are echoed for the endpoint that names the handshake, and for nobody else."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.handshakes import MAX_CHALLENGE, Handshake
from tests.ingress.fakes import endpoint, house, secret
from tests.ingress.signers import DECLARED_SECRET, SLACK, slack

META = {"kind": "meta", "verify_token_sha256": hashlib.sha256(b"a-token").hexdigest()}
PATH = f"/hooks/{endpoint().id}"


def place(handshake, **changes):
    return house(endpoint(config={"handshake": handshake} if handshake else {}, **changes))


@pytest.mark.parametrize(
    ("handshake", "method", "query", "said"),
    [
        (META, "GET", b"hub.mode=subscribe&hub.verify_token=a-token&hub.challenge=1158201444", b"1158201444"),
        (META, "GET", b"hub.mode=subscribe&hub.verify_token=b-token&hub.challenge=1158201444", None),
        (META, "GET", b"hub.mode=unsubscribe&hub.verify_token=a-token&hub.challenge=1158201444", None),
        (
            {"kind": "microsoft"},
            "POST",
            b"validationToken=Validation%3A+Testing+%26%20more",
            b"Validation: Testing & more",
        ),
        ({"kind": "microsoft"}, "POST", b"validationtoken=x", b"x"),
        ({"kind": "microsoft"}, "GET", b"validationToken=x", None),
        ({"kind": "echo"}, "GET", b"challenge=abc", b"abc"),
        ({"kind": "echo", "parameter": "token"}, "GET", b"challenge=abc&token=def", b"def"),
        (None, "GET", b"hub.mode=subscribe&hub.challenge=1&challenge=abc&validationToken=x", None),
    ],
)
async def test_a_challenge_in_the_address_is_answered_as_its_sender_wants(handshake, method, query, said):
    reply = await place(handshake).ask(PATH, b"", method=method, query=query)
    if said is None:
        assert reply.status in {200, 400}
        assert reply.body.startswith((b"This is a Hookline endpoint", b'{"accepted":false'))
    else:
        assert (reply.status, reply.body) == (200, said)
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("challenge", ["%0d%0aSet-Cookie: x", "%00", "a" * (MAX_CHALLENGE + 1), "", "%C3%28"])
async def test_a_challenge_that_is_none_is_not_echoed(challenge):
    reply = await place({"kind": "echo"}).ask(PATH, b"", method="GET", query=f"challenge={challenge}".encode())
    assert reply.body.startswith(b"This is a Hookline endpoint")


async def test_a_disabled_endpoint_answers_no_challenge():
    found = await place({"kind": "microsoft"}, enabled=False).ask(PATH, b"", query=b"validationToken=x")
    assert found.status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_probe_is_greeted(method):
    assert (await house().ask(PATH, b"", method=method)).status == 200


async def test_slacks_challenge_is_answered_only_when_it_is_signed():
    """INVARIANT: verified before it is parsed."""
    body = json.dumps({"token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV", "type": "url_verification"}).encode()
    signed = slack(body)
    found = house(endpoint("custom", config=SLACK, secrets=(secret(DECLARED_SECRET),)))
    headers = {name.decode(): value.decode() for name, value in signed.request.headers.items()}
    reply = await found.ask(PATH, body, headers)
    assert (reply.status, reply.body) == (200, b"3eZbrw1aBm2rZgRNFdxV")
    assert found.publisher.outgoing == []
    assert (await found.ask(PATH, body.replace(b"3eZ", b"4eZ"), headers)).status == 401
    delivered = slack(b'{"type":"event_callback","event":{"id":1}}')
    headers = {name.decode(): value.decode() for name, value in delivered.request.headers.items()}
    assert (await found.ask(PATH, delivered.request.body, headers)).status == 202
    assert len(found.publisher.outgoing) == 1


@given(
    kind=st.sampled_from([{"kind": "microsoft"}, {"kind": "echo"}, META, {"kind": "slack"}]),
    query=st.binary(max_size=200),
)
def test_nothing_that_is_sent_raises_and_what_comes_back_is_short_text(kind, query):
    handshake = Handshake.model_validate(kind)
    for answer in (handshake.greeting("GET", query), handshake.greeting("POST", query), handshake.reply(query)):
        if answer is not None:
            assert len(answer[2].decode()) <= MAX_CHALLENGE
            assert answer[2].decode().isprintable()


def test_a_meta_handshake_needs_the_digest_of_its_token():
    for wrong in (
        {"kind": "meta"},
        {"kind": "slack", "verify_token_sha256": "0" * 64},
        {"kind": "meta", "verify_token_sha256": "token"},
    ):
        with pytest.raises(ValueError, match="verify_token_sha256"):
            Handshake.model_validate(wrong)
