"""Who sent it and to which address: only what trusted proxies say, read from the right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.proxies import Proxies, address_of, in_networks

TRUSTED = ("10.0.0.0/8", "fd00::/8")


def caller(headers, client="10.0.0.1", trusted=TRUSTED, family="x-forwarded", scheme="http"):
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"scheme": scheme, "headers": pairs, "client": (client, 1234) if client else None}
    return Proxies(trusted, family).caller(scope, dict(pairs))


def seen(headers, **changes):
    found = caller([("Host", "inner:8080"), *headers], **changes)
    return str(found.address()), found.origin().decode()


X = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "hooks.example.com")]


def test_a_trusted_proxy_is_believed():
    assert seen(X) == ("203.0.113.7", "https://hooks.example.com")


def test_nobody_else_is():
    """INVARIANT: a sender cannot say who it is. If this fails, networks and the signed address mean nothing."""
    assert seen(X, client="198.51.100.9") == ("198.51.100.9", "http://inner:8080")
    assert seen(X, trusted=()) == ("10.0.0.1", "http://inner:8080")
    assert (
        seen([("Forwarded", "for=203.0.113.7;host=evil")], client="198.51.100.9", family="forwarded")[0]
        == "198.51.100.9"
    )


def test_the_rightmost_untrusted_address_is_the_sender():
    """INVARIANT: what stands to the left of it is the sender's own invention."""
    for chain in (
        "13.108.0.1, 203.0.113.7",
        "13.108.0.1, 203.0.113.7, 10.2.2.2",
        "10.9.9.9, 203.0.113.7, 10.2.2.2, 10.3.3.3",
    ):
        assert seen([("X-Forwarded-For", chain)])[0] == "203.0.113.7"


def test_several_lines_of_a_header_are_one_list():
    lines = [("X-Forwarded-For", "13.108.0.1"), ("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "10.2.2.2")]
    assert seen(lines)[0] == "203.0.113.7"


@pytest.mark.parametrize(
    "value", ["", "unknown", "_hidden", "203.0.113.7, unknown", "1.2.3", "203.0.113.7, <script>", "x" * 5_000]
)
def test_what_cannot_be_read_is_nobody(value):
    assert caller([("X-Forwarded-For", value)]).address() is None
    assert not in_networks(None, ())


def test_a_chain_of_our_own_proxies_alone_ends_at_its_outermost():
    assert seen([("X-Forwarded-For", "10.5.5.5, 10.6.6.6")])[0] == "10.5.5.5"


def test_a_trusted_proxy_that_says_nothing_leaves_the_sender_unknown():
    assert caller([]).address() is None


def test_lists_as_long_as_the_chain_are_read_at_the_senders_place():
    headers = [
        ("X-Forwarded-For", "1.1.1.1, 203.0.113.7, 10.2.2.2"),
        ("X-Forwarded-Proto", "http, https, http"),
        ("X-Forwarded-Host", "evil.example, hooks.example.com, inner"),
    ]
    assert seen(headers) == ("203.0.113.7", "https://hooks.example.com")


def test_prefix_and_port_belong_to_the_address():
    assert (
        seen([*X, ("X-Forwarded-Prefix", "/crm/"), ("X-Forwarded-Port", "8443")])[1]
        == "https://hooks.example.com:8443/crm"
    )
    assert seen([*X, ("X-Forwarded-Port", "443")])[1] == "https://hooks.example.com"


@pytest.mark.parametrize("host", ["evil.example/path", "a b", "user@evil", "evil\\x", "[::1", ""])
def test_a_host_that_is_none_gives_no_address(host):
    expected = "" if host else "https://inner:8080"
    assert seen([X[0], X[1], ("X-Forwarded-Host", host)])[1] == expected


@pytest.mark.parametrize(
    ("value", "address", "origin"),
    [
        ("for=203.0.113.7;proto=https;host=hooks.example.com", "203.0.113.7", "https://hooks.example.com"),
        ('For="[2001:db8::17]:4711";Proto=HTTPS;Host="hooks.example.com:8443"', "2001:db8::17", "https://hooks.example.com:8443"),
        ("for=13.108.0.1;host=evil, for=203.0.113.7;proto=https;host=a.example, for=10.1.1.1;host=inner", "203.0.113.7", "https://a.example"),
        ('for="203.0.113.7:80" ; proto=https', "203.0.113.7", "https://inner:8080"),
        ("for=unknown, for=_obf", "None", "http://inner:8080"),
        ('for="a\\"b"', "None", "http://inner:8080"),
    ],
)  # fmt: skip
def test_forwarded_is_read_as_rfc_7239_writes_it(value, address, origin):
    assert seen([("Forwarded", value)], family="forwarded") == (address, origin)


@pytest.mark.parametrize(
    "value", ["for=1.1.1.1;for=2.2.2.2", "for=", 'for="1.1.1.1', "=x", ",", "for=a b", "for 1.1.1.1"]
)
def test_a_forwarded_header_with_a_mistake_says_nothing(value):
    found = caller([("Forwarded", value), ("Host", "inner")], family="forwarded")
    assert found.address() is None


def test_the_other_family_is_not_read():
    assert seen([*X[:1], ("Forwarded", "for=13.108.0.1;host=evil")])[0] == "203.0.113.7"
    assert caller(X, family="forwarded").address() is None


def test_a_unix_socket_is_trusted_only_by_name():
    assert seen(X, client=None)[0] == "None"
    assert seen(X, client=None, trusted=("unix",)) == ("203.0.113.7", "https://hooks.example.com")


def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address():
    assert str(address_of("::ffff:10.0.0.1")) == "10.0.0.1"
    assert seen(X, client="::ffff:10.0.0.1")[0] == "203.0.113.7"


@given(st.text(max_size=80) | st.lists(st.sampled_from(["10.1.1.1", "203.0.113.7", "unknown", ";", "for=", '"', "\\", "[::1]:2"]), max_size=8).map(", ".join))  # fmt: skip
def test_no_header_raises_or_makes_a_stranger_one_of_ours(value):
    encoded = value.encode("utf-8", "replace").decode("latin-1")
    for family, name in (("x-forwarded", "X-Forwarded-For"), ("forwarded", "Forwarded")):
        found = caller([(name, encoded), ("Host", "inner"), ("X-Forwarded-Host", encoded)], family=family)
        found.address()
        origin = found.origin()
        assert origin == b"" or origin.startswith((b"http://", b"https://"))
        assert str(caller([(name, encoded)], client="198.51.100.9", family=family).address()) == "198.51.100.9"
