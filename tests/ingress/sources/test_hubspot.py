"""HubSpot's three signatures, at their edges."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ingress.sources.hubspot import PLUGIN, decode_uri
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW, endpoint, secret
from tests.ingress.signers import HUBSPOT_ESCAPES, PATH, hubspot_v1, hubspot_v2, hubspot_v3, refusal_of

BODY = b'[{"portalId":33,"objectId":1}]'


def verdict(request, now=NOW, **changes):
    return refusal_of(PLUGIN, request, endpoint(**changes), now)


def test_v1_digest_is_the_documented_one():
    # SHA-256 of secret and body, computed with coreutils' sha256sum.
    signed = hubspot_v1(b"[]", secret=b"yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy")
    assert (
        signed.request.headers[b"x-hubspot-signature"]
        == b"55d48f272084a3efadc87477ea85ae0a38c9d20e13cdf90c2611cee815e52bba"
    )


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(minutes=5), None),
        (timedelta(minutes=5, milliseconds=1), Refusal.STALE),
        (timedelta(days=400), Refusal.STALE),
        (timedelta(seconds=-60), None),
        (timedelta(seconds=-60, milliseconds=-1), Refusal.FROM_THE_FUTURE),
        (timedelta(days=-3), Refusal.FROM_THE_FUTURE),
    ],
)
def test_v3_holds_for_five_minutes(age, expected):
    assert verdict(hubspot_v3(BODY, at=NOW - age).request) is expected


@pytest.mark.parametrize(
    "stamp", [b"", b"abc", b"1e12", b"-1", b"+1", b" 1", b"1.5", b"\xd9\xa1", b"9" * 16, b"nan", b"0x10", b"1_000"]
)
def test_v3_refuses_a_timestamp_that_is_no_number(stamp):
    signed = hubspot_v3(BODY)
    assert (
        verdict(signed.with_(headers={**signed.request.headers, b"x-hubspot-request-timestamp": stamp}))
        is Refusal.VERIFICATION_FAILED
    )


def test_v3_without_timestamp_is_refused():
    signed = hubspot_v3(BODY)
    headers = {b"x-hubspot-signature-v3": signed.request.headers[b"x-hubspot-signature-v3"]}
    assert verdict(signed.with_(headers=headers)) is Refusal.SIGNATURE_MISSING


@pytest.mark.parametrize("signature", ["é".encode(), b"\xff\xfe", b"", b"\x00", "ключ".encode()])
@pytest.mark.parametrize("sign", [hubspot_v1, hubspot_v2, hubspot_v3])
def test_a_signature_of_odd_bytes_is_refused_without_a_crash(sign, signature):
    signed = sign(BODY)
    assert (
        verdict(signed.with_(headers={**signed.request.headers, signed.covered[0]: signature}))
        is Refusal.VERIFICATION_FAILED
    )


def test_the_strongest_signature_decides_even_when_a_weaker_one_holds():
    """INVARIANT: no downgrade. If this fails, a captured v1 signature makes a stale v3 request pass."""
    weak, strong = hubspot_v1(BODY), hubspot_v3(BODY, at=NOW - timedelta(hours=1))
    assert verdict(weak.with_(headers={**weak.request.headers, **strong.request.headers})) is Refusal.STALE
    broken = {b"x-hubspot-signature-v3": b"x", b"x-hubspot-request-timestamp": b"1"}
    assert verdict(weak.with_(headers={**weak.request.headers, **broken})) is Refusal.VERIFICATION_FAILED


def test_a_good_v3_needs_no_good_v1_beside_it():
    signed = hubspot_v3(BODY)
    assert verdict(signed.with_(headers={**signed.request.headers, b"x-hubspot-signature": b"nonsense"})) is None


def test_the_version_header_says_what_must_hold():
    first, second = hubspot_v1(BODY), hubspot_v2(BODY)
    said_two = {**first.request.headers, b"x-hubspot-signature-version": b"v2"}
    said_one = {**second.request.headers, b"x-hubspot-signature-version": b"v1"}
    unknown = {**first.request.headers, b"x-hubspot-signature-version": b"v9"}
    for headers in (said_two, said_one, unknown):
        assert verdict(first.with_(headers=headers)) is Refusal.VERIFICATION_FAILED
    for signed in (first, second):
        silent = {b"x-hubspot-signature": signed.request.headers[b"x-hubspot-signature"]}
        assert verdict(signed.with_(headers=silent)) is None


@pytest.mark.parametrize(("weakest", "accepted"), [("v1", "123"), ("v2", "23"), ("v3", "3"), ("v7", "3")])
def test_an_endpoint_may_ask_for_stronger_signatures(weakest, accepted):
    for number, sign in (("1", hubspot_v1), ("2", hubspot_v2), ("3", hubspot_v3)):
        expected = None if number in accepted else Refusal.SIGNATURE_MISSING
        assert verdict(sign(BODY).request, config={"signature": weakest}) is expected


def test_an_endpoint_that_asks_for_v2_takes_no_v1_that_calls_itself_nothing():
    signed = hubspot_v1(BODY)
    silent = {b"x-hubspot-signature": signed.request.headers[b"x-hubspot-signature"]}
    assert verdict(signed.with_(headers=silent), config={"signature": "v2"}) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize(("written", "decoded"), HUBSPOT_ESCAPES.items())
def test_v3_undoes_each_escape_of_the_list(written, decoded):
    assert decode_uri(f"/a{written}b".encode()) == f"/a{decoded}b".encode()
    assert verdict(hubspot_v3(BODY, target=f"{PATH}?q={written}").request) is None


@pytest.mark.parametrize(
    "kept", [b"%20", b"%25", b"%2B", b"%23", b"%26", b"%3D", b"%5B", b"%3a", b"%2f", b"%C3%A9", b"%"]
)
def test_v3_leaves_every_other_escape(kept):
    assert decode_uri(b"/a" + kept + b"b") == b"/a" + kept + b"b"


def test_v3_decodes_once():
    assert decode_uri(b"/%252F") == b"/%252F"
    assert decode_uri(b"/%2F%2F") == b"///"
    assert decode_uri(b"%253A%3A") == b"%253A:"


def test_v2_decodes_nothing():
    assert verdict(hubspot_v2(BODY, target=f"{PATH}?q=%3A").request) is None


def test_the_query_is_part_of_the_address():
    signed = hubspot_v3(BODY, target=f"{PATH}?a=1")
    assert verdict(signed.request) is None
    assert verdict(signed.with_(target=PATH.encode())) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize("method", [b"PUT", b"GET", b"post"])
def test_the_method_is_covered(method):
    for sign in (hubspot_v2, hubspot_v3):
        assert verdict(sign(BODY).with_(method=method)) is Refusal.VERIFICATION_FAILED


@pytest.mark.parametrize("sign", [hubspot_v1, hubspot_v2, hubspot_v3])
def test_during_a_rotation_both_secrets_hold_and_later_only_the_new_one(sign):
    old = secret(b"the-old-one", until=timedelta(hours=1))
    new = secret(b"the-new-one", since=timedelta(minutes=-1))
    for value in (b"the-old-one", b"the-new-one"):
        assert verdict(sign(BODY, secret=value).request, secrets=(old, new)) is None
    ended = secret(b"the-old-one", until=timedelta(0))
    coming = secret(b"the-next-one", since=timedelta(seconds=1))
    for value in (b"the-old-one", b"the-next-one"):
        assert verdict(sign(BODY, secret=value).request, secrets=(ended, new, coming)) is Refusal.VERIFICATION_FAILED


def test_a_non_ascii_body_and_secret_are_signed_as_utf_8():
    for sign in (hubspot_v1, hubspot_v2, hubspot_v3):
        signed = sign('[{"é":"ключ"}]'.encode(), secret="gehéim".encode())
        assert verdict(signed.request, secrets=(secret("gehéim".encode()),)) is None
