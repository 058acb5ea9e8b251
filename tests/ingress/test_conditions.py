"""What an endpoint may ask of every sender: networks, a client certificate, an address of its own."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ingress.certificates import from_header
from ingress.conditions import conditions_of
from ingress.proxies import Proxies
from ingress.sources.salesforce import PLUGIN as SALESFORCE
from ingress.verification import judge
from schemas.delivery import Refusal
from tests.ingress.fakes import NOW, endpoint
from tests.ingress.making_certificates import Authority
from tests.ingress.signers import request

CERTIFICATE, _KEY = Authority().issue("proxy.salesforce.com", "proxy.salesforce.com", "na1.example.com")
DER = CERTIFICATE.public_bytes(Encoding.DER)
PEM = CERTIFICATE.public_bytes(Encoding.PEM)
SHA = CERTIFICATE.fingerprint(SHA256()).hex()


def refusal(config, headers=(), client="10.0.0.1", trusted=("10.0.0.0/8",), certificates="none", state=None):
    pairs = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    scope = {"scheme": "https", "headers": pairs, "client": (client, 1), "state": state or {}}
    found = request(b"<x/>", dict(pairs))
    found = type(found)(
        found.method, found.target, found.public, found.headers, found.body,
        Proxies(trusted, certificates=certificates).caller(scope, dict(pairs)),
    )  # fmt: skip
    denied = judge(SALESFORCE, found, endpoint("salesforce", config=config), NOW)
    return denied.refusal if denied else None


NETWORKS = {"networks": ["13.108.0.0/14", "2001:db8::/32"]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("13.108.0.1", None),
        ("13.111.255.255", None),
        ("13.112.0.0", Refusal.ADDRESS_NOT_ALLOWED),
        ("2001:db8::1", None),
        ("::ffff:13.108.0.1", None),
        ("10.0.0.9", Refusal.ADDRESS_NOT_ALLOWED),
    ],
)
def test_networks_are_kept_for_direct_and_for_proxied_senders(address, expected):
    assert refusal(NETWORKS, client=address, trusted=()) is expected
    if not address.startswith("10."):
        assert refusal(NETWORKS, [("x-forwarded-for", address)]) is expected


def test_nobody_walks_in_by_writing_an_address_into_a_header():
    """INVARIANT: networks are judged by the connection, or by what our own proxy wrote. If this fails, a header opens the door."""
    assert refusal(NETWORKS, [("x-forwarded-for", "13.108.0.1")], client="198.51.100.9") is Refusal.ADDRESS_NOT_ALLOWED
    assert refusal(NETWORKS, [("x-forwarded-for", "13.108.0.1, 198.51.100.9")]) is Refusal.ADDRESS_NOT_ALLOWED
    assert refusal(NETWORKS) is Refusal.ADDRESS_NOT_ALLOWED


BY_NAME = {"client_certificate": {"names": ["Proxy.Salesforce.com"]}}
BY_PRINT = {"client_certificate": {"sha256": [":".join(SHA.upper()[i : i + 2] for i in range(0, 64, 2))]}}
OTHER = {"client_certificate": {"names": ["other.example.com"], "sha256": ["0" * 64]}}
PASSED_ON = {
    "xfcc": [
        (
            "x-forwarded-client-cert",
            f'By=spiffe://x;Hash={SHA};Subject="CN=proxy.salesforce.com,O=x";DNS=na1.example.com',
        )
    ],
    "x-ssl-client": [("x-ssl-client-verify", "SUCCESS"), ("x-ssl-client-cert", quote(PEM.decode()))],
    "client-cert": [("client-cert", b":" + base64.b64encode(DER) + b":")],
}


@pytest.mark.parametrize("form", PASSED_ON)
def test_a_trusted_proxy_passes_a_certificate_on(form):
    headers = PASSED_ON[form]
    for config, expected in ((BY_NAME, None), (BY_PRINT, None), (OTHER, Refusal.CERTIFICATE_REFUSED)):
        assert refusal(config, headers, certificates=form) is expected
    assert refusal(BY_NAME, headers, certificates="none") is Refusal.CERTIFICATE_REFUSED
    assert refusal(BY_NAME, headers, certificates=form, client="198.51.100.9") is Refusal.CERTIFICATE_REFUSED
    assert refusal(BY_NAME, [], certificates=form) is Refusal.CERTIFICATE_REFUSED


@pytest.mark.parametrize("form", PASSED_ON)
def test_a_certificate_that_comes_twice_is_none_or_the_last(form):
    """INVARIANT: a header that the sender put before the proxy's own is not believed."""
    forged = [
        (name, value.replace("proxy", "xroxy") if isinstance(value, str) else b":AAAA:")
        for name, value in PASSED_ON[form]
    ]
    other = {"client_certificate": {"names": ["xroxy.salesforce.com"], "sha256": ["f" * 64]}}
    assert refusal(other, [*forged, *PASSED_ON[form]], certificates=form) is Refusal.CERTIFICATE_REFUSED


def test_a_certificate_that_was_not_verified_is_none():
    for said in ("FAILED:expired", "NONE", "", "1"):
        headers = [("x-ssl-client-verify", said), PASSED_ON["x-ssl-client"][1]]
        assert refusal(BY_NAME, headers, certificates="x-ssl-client") is Refusal.CERTIFICATE_REFUSED


def test_our_own_tls_counts_for_direct_senders_alone():
    state = {"client_certificate_der": DER}
    assert refusal(BY_PRINT, client="198.51.100.9", state=state) is None
    assert refusal(OTHER, client="198.51.100.9", state=state) is Refusal.CERTIFICATE_REFUSED
    # The proxy's own certificate is not the sender's.
    assert refusal(BY_PRINT, state=state, certificates="xfcc") is Refusal.CERTIFICATE_REFUSED


@given(form=st.sampled_from(sorted(PASSED_ON)), value=st.binary(max_size=200))
def test_no_header_raises(form, value):
    from_header(form, lambda _name: [value])


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a changed byte may make it one
@given(form=st.sampled_from(["x-ssl-client", "client-cert"]), place=st.integers(0, 10_000), by=st.integers(1, 255))
def test_any_changed_byte_of_a_certificate_makes_it_another(form, place, by):
    changed = bytearray(DER)
    changed[place % len(DER)] = (changed[place % len(DER)] + by) % 256
    text = base64.b64encode(bytes(changed))
    headers = (
        [("client-cert", b":" + text + b":")]
        if form == "client-cert"
        else [PASSED_ON[form][0], ("x-ssl-client-cert", quote(b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----"))]
    )  # fmt: skip
    assert refusal(BY_PRINT, headers, certificates=form) is Refusal.CERTIFICATE_REFUSED


@pytest.mark.parametrize(
    "config",
    [
        {"networks": ["everywhere"]},
        {"networks": "10.0.0.0/8"},
        {"client_certificate": {}},
        {"handshake": {"kind": "x"}},
    ],
)
def test_conditions_that_cannot_be_read_keep_everybody_out(config):
    """INVARIANT: a mistyped network opens nothing."""
    assert refusal(config, client="13.108.0.1", trusted=()) is Refusal.ENDPOINT_DISABLED
    assert next(iter(config)) in conditions_of(endpoint("salesforce", config=config)).denied.detail


def test_what_was_made_of_an_endpoint_is_made_anew_when_it_changes():
    first = endpoint(config=NETWORKS)
    assert conditions_of(first) is conditions_of(first)
    assert not conditions_of(endpoint(config={})).asks
    assert conditions_of(endpoint(config=NETWORKS)).asks
