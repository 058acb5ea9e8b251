"""The hot path's message is the codec's message."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from infra.kafka.codec import Codec
from infra.kafka.raw import RawMessage
from ingress.identity import RequestIds, arrived_at, request_of
from ingress.parcel import Parcels
from schemas.delivery import Delivery
from schemas.envelope import SIZE
from schemas.topics import DELIVERIES
from tests.ingress.fakes import NOW, endpoint, keyring


@pytest.mark.parametrize("kind", [b"application/json", b"", b'a"b\\c\xe4', b"x" * 500])
@pytest.mark.parametrize("body", [b"[]", b"x" * 5_000, bytes(range(256))])
async def test_a_parcel_is_what_the_codec_would_have_made(kind, body, monkeypatch: pytest.MonkeyPatch):
    """INVARIANT: two ways of writing, one of reading. If this fails, deliveries of the hot path cannot be opened."""
    ring, found = keyring(), endpoint()
    codec = Codec(ring, "hookline/ingress")
    key = await ring.for_delivery(found.tenant, found.id, NOW)
    delivery = Delivery(
        request_id="f" * 32, tenant=found.tenant, endpoint=found.id, source=found.source, received_at=NOW,
        content_type=kind[:128].decode("latin-1"), body=body,
    )  # fmt: skip
    monkeypatch.setattr("infra.kafka.codec.datetime", SimpleNamespace(now=lambda _zone: NOW))
    [theirs] = await codec.seal(DELIVERIES, [delivery], traceparents=["t"])
    ours = Parcels("hookline/ingress").wrap(found, key, "f" * 32, NOW, kind, body, "t")
    assert (ours.key, ours.partition_key, ours.timestamp_ms) == (theirs.key, theirs.partition_key, theirs.timestamp_ms)
    assert [pair for pair in ours.headers if pair[0] != "ce_id"] == [pair for pair in theirs.headers if pair[0] != "ce_id"]  # fmt: skip
    raws = [RawMessage(DELIVERIES.name, 0, place, one.key, one.value, one.headers) for place, one in enumerate((ours, theirs))]  # fmt: skip
    received, refused = await codec.open(DELIVERIES, raws)
    assert not refused
    assert received[0].payload == received[1].payload == delivery
    told = dict(ours.headers).get(SIZE)
    assert told == (None if len(body) < 1_000 else b"%d" % len(delivery.pack()))


async def test_labels_follow_the_key_of_the_hour():
    ring, found, parcels = keyring(), endpoint(), Parcels("hookline/ingress")
    for hours in (0, 1, 0):
        key = await ring.for_delivery(found.tenant, found.id, NOW + timedelta(hours=hours))
        assert ("hl_key", key.id.encode()) in parcels.wrap(found, key, "f" * 32, NOW, b"", b"x", "").headers


def test_a_request_id_says_when_and_is_the_trace():
    ids = RequestIds(0.5, clock=lambda: 1_770_000_000_123_000_000)
    drawn = [ids.draw() for _ in range(2_000)]
    assert len({one for one, _ in drawn}) == 2_000
    assert 0.4 < sum(traced for _, traced in drawn) / 2_000 < 0.6
    one = drawn[0][0]
    assert arrived_at(one).timestamp() == pytest.approx(1_770_000_000.123)
    trace = ids.traceparent(one)
    assert request_of(trace) == one
    assert trace.endswith("-00")
    assert request_of("") == request_of("nonsense") == ""
    with pytest.raises(ValueError):
        arrived_at("abc")
