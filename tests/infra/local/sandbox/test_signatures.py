"""HubSpot's signatures against HubSpot's own library."""

import time

import pytest
from hubspot.utils.signature import Signature

from infra.local.sandbox import signatures

SECRET, URI, BODY = "s3cret-ü", "https://hooks.example/hooks/acme?x=1", '[{"propertyValue":"Zoë"}]'


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_hubspots_library_accepts_what_is_signed(version):
    now = str(int(time.time() * 1000))
    made = {
        "v1": signatures.v1(SECRET, BODY.encode()),
        "v2": signatures.v2(SECRET, "POST", URI, BODY.encode()),
        "v3": signatures.v3(SECRET, "POST", URI, BODY.encode(), now),
    }[version]
    given = {"signature_version": version, "http_uri": URI, "http_method": "POST", "timestamp": now}
    assert Signature.is_valid(made, SECRET, BODY, **given)
    assert not Signature.is_valid(made, SECRET, BODY + " ", **given)


def test_version_3_decodes_twelve_escapes_once_and_no_others():
    assert signatures.decode_uri("/a%3A%2f%40%2C?b=%3B%20%252F%25") == "/a:/@,?b=;%20%252F%25"


def test_version_3_travels_beside_version_1():
    made = signatures.headers("v3", SECRET, URI, b"[]", 1)
    assert set(made) == {
        "X-HubSpot-Signature",
        "X-HubSpot-Signature-Version",
        "X-HubSpot-Signature-v3",
        "X-HubSpot-Request-Timestamp",
    }
    assert "X-HubSpot-Signature-v3" not in signatures.headers("v1", SECRET, URI, b"[]", 1)
    assert signatures.headers("v2", SECRET, URI, b"[]", 1)["X-HubSpot-Signature"] == signatures.v2(
        SECRET, "POST", URI, b"[]"
    )
