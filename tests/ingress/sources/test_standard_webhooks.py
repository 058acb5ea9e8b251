"""The Standard Webhooks signature, with the specification's own vector and at its edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook

from ingress.sources.standard_webhooks import PLUGIN
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW, endpoint, secret
from tests.ingress.signers import STANDARD_SECRET, refusal_of, request, standard

BODY = b'{"account":"hubspot:33","object":"deal","id":"1"}'


def verdict(found, now=NOW, secrets=None):
    return refusal_of(PLUGIN, found, endpoint("standard_webhooks", secrets=secrets or (secret(STANDARD_SECRET),)), now)


def test_the_specifications_own_vector_holds():
    # From the specification's reference libraries' test suite.
    headers = {
        b"webhook-id": b"msg_p5jXN8AQM9LWM0D4loKWxJek",
        b"webhook-timestamp": b"1614265330",
        b"webhook-signature": b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    at = datetime.fromtimestamp(1614265330, UTC)
    since = (secret(STANDARD_SECRET, since=timedelta(days=-10_000)),)
    assert verdict(request(b'{"test": 2432232314}', headers), at, since) is None


def test_the_reference_library_signs_what_we_accept():
    made = Webhook(STANDARD_SECRET.decode()).sign("msg_1", NOW, BODY.decode())
    headers = {
        b"webhook-id": b"msg_1",
        b"webhook-timestamp": str(int(NOW.timestamp())).encode(),
        b"webhook-signature": made.encode(),
    }
    assert verdict(request(BODY, headers)) is None


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(minutes=5), None),
        (timedelta(minutes=5, seconds=1), Refusal.STALE),
        (timedelta(minutes=-5), None),
        (timedelta(minutes=-5, seconds=-1), Refusal.FROM_THE_FUTURE),
    ],
)
def test_it_holds_for_five_minutes_either_way(age, expected):
    assert verdict(standard(BODY, at=NOW - age).request) is expected


@pytest.mark.parametrize("stamp", [b"", b"abc", b"1e9", b"-5", b"1.0", b"007", b"9" * 12, b"nan", b"\xff"])
def test_a_timestamp_that_is_no_plain_number_is_refused(stamp):
    signed = standard(BODY)
    assert (
        verdict(signed.with_(headers={**signed.request.headers, b"webhook-timestamp": stamp}))
        is Refusal.VERIFICATION_FAILED
    )


@pytest.mark.parametrize(
    "signature", [b"", b"v1", b"v1,", b"v1,,", b"v2,abc", b"\xff\xfe", b"v1,%%%", b" ", b"v1," + b"A" * 4096]
)
def test_a_signature_of_any_other_shape_is_refused_without_a_crash(signature):
    signed = standard(BODY)
    assert (
        verdict(signed.with_(headers={**signed.request.headers, b"webhook-signature": signature}))
        is Refusal.VERIFICATION_FAILED
    )


def test_one_good_signature_among_several_suffices_but_not_the_seventeenth():
    signed = standard(BODY)
    good = signed.request.headers[b"webhook-signature"]
    for number, expected in ((0, None), (15, None), (16, Refusal.VERIFICATION_FAILED)):
        headers = {**signed.request.headers, b"webhook-signature": b" ".join([b"v1,bad"] * number + [good])}
        assert verdict(signed.with_(headers=headers)) is expected


def test_a_body_that_is_not_text_is_refused():
    assert verdict(standard(b"\xff\xfe").request) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize("value", [b"whsec_", b"whsec_\xff", b"\xe9"])
def test_a_secret_that_is_none_closes_the_endpoint(value):
    assert verdict(standard(BODY).request, secrets=(secret(value),)) is Refusal.ENDPOINT_DISABLED
