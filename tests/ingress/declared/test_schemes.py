"""Declared schemes against the vendors' own published examples, and at their edges."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from ingress.sources.custom import PLUGIN
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW, endpoint, secret
from tests.ingress.signers import (
    BASIC,
    BEARER,
    DECLARED_SECRET,
    SLACK,
    STANDARD_SECRET,
    STRIPE,
    declared,
    refusal_of,
    request,
    slack,
    stripe,
)

GITHUB = {**declared({}), "preset": "github"}
LONG_AGO = timedelta(days=-20_000)


def verdict(config, body, headers, value=DECLARED_SECRET, now=NOW):
    given_ = {name.lower().encode(): text.encode() for name, text in headers.items()}
    at = endpoint("custom", config=config, secrets=(secret(value, since=LONG_AGO),))
    return refusal_of(PLUGIN, request(body, given_), at, now)


def test_githubs_published_example_holds():
    # "Testing the webhook payload validation" of GitHub's documentation: its secret, payload and signature.
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    value = b"It's a Secret to Everybody"
    assert verdict(GITHUB, b"Hello, World!", {"X-Hub-Signature-256": signature}, value) is None
    assert verdict(GITHUB, b"Hello, World?", {"X-Hub-Signature-256": signature}, value) is Refusal.VERIFICATION_FAILED
    assert (
        verdict(GITHUB, b"Hello, World!", {"X-Hub-Signature-256": signature[7:]}, value) is Refusal.VERIFICATION_FAILED
    )


def test_slacks_published_example_holds():
    # "Verifying requests from Slack": its signing secret, body, time and signature.
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
        b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
        b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "X-Slack-Request-Timestamp": "1531420618",
    }
    value, at = b"8f742231b10e8888abcd99yyyzzz85a5", datetime.fromtimestamp(1531420618, UTC)
    assert verdict(SLACK, body, headers, value, at) is None
    assert verdict(SLACK, body, headers, value, at + timedelta(seconds=301)) is Refusal.STALE
    assert verdict(SLACK, body, headers, value, at - timedelta(seconds=301)) is Refusal.FROM_THE_FUTURE


def test_stripes_scheme_takes_any_of_several_signatures():
    # Stripe publishes the construction and no example whose secret is known: t, v1 = HMAC-SHA256(t.body) in hex.
    signed = stripe(b'{"id":"evt_1"}')
    header = signed.request.headers[b"stripe-signature"].decode()
    stamp, good, _ = header.split(",")
    cases = {
        header: None,
        f"{stamp},v1={'0' * 64},{good}": None,
        f"{good},{stamp}": None,
        f"{stamp},v0={good[3:]}": Refusal.SIGNATURE_MISSING,
        f"{good}": Refusal.SIGNATURE_MISSING,
        f"{stamp},{stamp},{good}": Refusal.SIGNATURE_MISSING,
        f"t=1,{good}": Refusal.VERIFICATION_FAILED,
        f"t=1e9,{good}": Refusal.VERIFICATION_FAILED,
        "": Refusal.SIGNATURE_MISSING,
    }
    for given_, expected in cases.items():
        assert verdict(STRIPE, signed.request.body, {"Stripe-Signature": given_}) is expected, given_


def test_what_the_vendors_own_libraries_sign_holds():
    """Made with `slack_sdk` 3.47.0 (`SignatureVerifier.generate_signature`) and `stripe` 16.1.0 (`WebhookSignature._compute_signature`)."""
    at = datetime.fromtimestamp(1_763_805_600, UTC)
    slack_body, stripe_body = b"token=x&text=Gr%C3%BC%C3%9Fe&channel=C1", '{"id":"evt_1","name":"Zoë"}'.encode()
    slack_headers = {
        "X-Slack-Request-Timestamp": "1763805600",
        "X-Slack-Signature": "v0=2c51d004f385b299aa426aba410b2efd1abf184ae6caf797dc45fb673c4fddc8",
    }
    made = "46fe1174efb39d2f1e277ad18bc9baacc2c0a3ca564cfe57b6305273b8d12aec"
    stripe_headers = {"Stripe-Signature": f"t=1763805600,v1={made}"}
    slacks, stripes = b"e6b19c573432dcc6b075501d51b51bb8", b"whsec_test_4f0c9d2b7a"
    assert verdict(SLACK, slack_body, slack_headers, slacks, at) is None
    assert verdict(STRIPE, stripe_body, stripe_headers, stripes, at) is None
    assert verdict(SLACK, slack_body + b"x", slack_headers, slacks, at) is Refusal.VERIFICATION_FAILED
    assert verdict(STRIPE, stripe_body + b" ", stripe_headers, stripes, at) is Refusal.VERIFICATION_FAILED


def test_a_body_of_ones_own_may_be_signed_by_standard_webhooks():
    made = Webhook(STANDARD_SECRET.decode()).sign("msg_1", NOW, "{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(NOW.timestamp())), "webhook-signature": made}
    config = declared({"scheme": "standard_webhooks"})
    assert verdict(config, b"{}", headers, STANDARD_SECRET) is None
    assert verdict(config, b"[]", headers, STANDARD_SECRET) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("written", ["text", "hex", "base64"])
def test_digests_encodings_and_ways_to_write_a_key(digest, encoding, written):
    key = b"\x00a key of bytes\xff"
    value = {"text": key, "hex": key.hex().encode(), "base64": base64.b64encode(key)}[written]
    made = hmac.new(key, b"body", getattr(hashlib, digest)).digest()
    text = made.hex() if encoding == "hex" else base64.b64encode(made).decode()
    config = declared({"scheme": "hmac", "header": "X-Sig", "digest": digest, "encoding": encoding, "secret": written})
    assert verdict(config, b"body", {"X-Sig": text}, value) is None
    assert verdict(config, b"body", {"X-Sig": text.swapcase()}, value) is Refusal.VERIFICATION_FAILED


def test_a_key_that_is_not_written_as_declared_shuts_the_endpoint():
    config = declared({"scheme": "hmac", "header": "X-Sig", "secret": "hex"})
    assert verdict(config, b"body", {"X-Sig": "00"}, b"no hexadecimal") is Refusal.ENDPOINT_DISABLED


def test_a_declaration_that_cannot_be_read_shuts_the_endpoint():
    denied = PLUGIN.verify(request(b"{}", {}), endpoint("custom", config={"verify": {"scheme": "x"}}), NOW)
    assert denied.refusal is Refusal.ENDPOINT_DISABLED
    assert "verify.scheme" in denied.detail


@pytest.mark.parametrize("stamp", ["", "abc", "1e9", "-5", "+5", " 5", "5.0", "007", "9" * 16, "١"])
def test_a_time_that_is_no_number_is_refused_even_when_it_is_signed(stamp):
    text = f"v0:{stamp}:{{}}".encode()
    headers = {
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": "v0=" + hmac.new(DECLARED_SECRET, text, "sha256").hexdigest(),
    }
    assert verdict(SLACK, b"{}", headers) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize("signature", ["é", "\x00", "v0=", "ключ"])
def test_a_signature_of_odd_bytes_is_refused_without_a_crash(signature):
    good = slack(b"{}").request.headers
    stamp = good[b"x-slack-request-timestamp"].decode()
    headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": signature}
    assert verdict(SLACK, b"{}", headers) is Refusal.VERIFICATION_FAILED


def test_an_empty_body_can_be_signed():
    signed = slack(b"")
    at = endpoint("custom", config=SLACK, secrets=(secret(DECLARED_SECRET),))
    assert refusal_of(PLUGIN, signed.request, at) is None


TOKENS = {
    "bearer": (BEARER, "Authorization", "Bearer a-secret-that-nobody-knows"),
    "a header of its own": (declared({"scheme": "bearer", "header": "X-Api-Key"}), "X-Api-Key", "a-secret-that-nobody-knows"),
    "basic": (BASIC, "Authorization", "Basic " + base64.b64encode(b"hookline:a-secret-that-nobody-knows").decode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_lets_in_and_nothing_else_does(kind):
    config, header, value = TOKENS[kind]
    assert verdict(config, b"{}", {header: value}) is None
    assert verdict(config, b"{}", {}) is Refusal.SIGNATURE_MISSING
    assert verdict(config, b"{}", {header: value}, b"another-secret") is Refusal.VERIFICATION_FAILED
    assert verdict(config, b"{}", {header: ""}) is Refusal.VERIFICATION_FAILED


@given(kind=st.sampled_from(sorted(TOKENS)), place=st.integers(0, 100), by=st.integers(1, 127))
def test_any_changed_byte_of_a_token_is_refused(kind, place, by):
    """INVARIANT: all of the token counts. If this fails, part of it can be guessed by itself."""
    config, header, value = TOKENS[kind]
    place %= len(value)
    changed = value[:place] + chr((ord(value[place]) + by) % 128) + value[place + 1 :]
    assert verdict(config, b"{}", {header: changed}) is Refusal.VERIFICATION_FAILED
