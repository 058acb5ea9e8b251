"""The clear part of a message survives Kafka and says what is wrong when it does not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.envelope import Envelope, EnvelopeError

ENVELOPE = Envelope(
    id="m1",
    type="hookline.change.v1",
    source="hookline/translator",
    time=datetime(2026, 11, 22, 12, 0, 0, 123000, tzinfo=UTC),
    tenant="acme",
    account="hubspot:1",
    key_id="k1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def test_headers_are_read_back_as_they_were_written():
    assert Envelope.from_headers(ENVELOPE.headers()) == ENVELOPE


def test_an_unknown_header_is_ignored():
    assert Envelope.from_headers([*ENVELOPE.headers(), ("ce_future", b"x")]) == ENVELOPE


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source", "ce_time", "hl_tenant", "hl_key"])
def test_a_missing_header_is_named(name):
    with pytest.raises(EnvelopeError, match=name):
        Envelope.from_headers([header for header in ENVELOPE.headers() if header[0] != name])


def test_bytes_that_are_no_text_are_refused_by_name():
    with pytest.raises(EnvelopeError, match="ce_id"):
        Envelope.from_headers([("ce_id", b"\xff"), *ENVELOPE.headers()[2:]])


def test_a_time_that_is_none_is_refused():
    headers = [(name, b"yesterday" if name == "ce_time" else value) for name, value in ENVELOPE.headers()]
    with pytest.raises(EnvelopeError, match="ISO 8601"):
        Envelope.from_headers(headers)
