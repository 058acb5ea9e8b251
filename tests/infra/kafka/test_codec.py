from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span
from pydantic import SecretStr

from infra.kafka.codec import Codec, Outgoing, RawMessage, purpose_of
from infra.keyring import Keyring, MemoryKeys, new_master_key, seal
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import RecordSnapshot
from schemas.topics import ALL, CHANGES, CHANGES_BULK, DELIVERIES, RECORDS, Topic

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def change(number: int = 1, tenant: str = "acme") -> Change:
    return Change(
        tenant=tenant, account="hubspot:1", object="contact", id=str(number), kind="updated", occurred_at=NOON
    )


def raw(topic: Topic, outgoing: Outgoing, **more) -> RawMessage:
    return RawMessage(
        **{
            "topic": topic.name,
            "partition": 0,
            "offset": 7,
            "key": outgoing.key,
            "value": outgoing.value,
            "headers": outgoing.headers,
            **more,
        }
    )


@pytest.fixture
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def codec(store: MemoryKeys) -> Codec:
    return Codec(Keyring(store, SecretStr(new_master_key())), "hookline/test")


async def test_payloads_come_back_and_nothing_of_them_is_readable_on_the_topic(codec: Codec) -> None:
    """INVARIANT: payloads are sealed from the first version on; headers and keys hold no personal data."""
    snapshot = RecordSnapshot(
        tenant="acme", account="hubspot:1", object="contact", id="1", crm="hubspot",
        fields={"email": "ada@lovelace.example", "about": "analytical " * 500}, modified_at=NOON, read_at=NOON,
    )  # fmt: skip
    [outgoing] = await codec.seal(RECORDS, [snapshot])
    whole = outgoing.key + outgoing.value + b"".join(name.encode() + value for name, value in outgoing.headers)
    assert b"lovelace" not in whole
    assert b"analytical" not in whole
    assert len(outgoing.value) < 1000, "large payloads are compressed before they are sealed"
    [received], refused = await codec.open(RECORDS, [raw(RECORDS, outgoing)])
    assert (received.payload, refused) == (snapshot, [])
    assert received.envelope.account == "hubspot:1"
    assert (received.topic, received.partition, received.offset) == ("crm.records", 0, 7)


async def test_a_delivery_keeps_its_body_byte_for_byte(codec: Codec) -> None:
    delivery = Delivery(
        request_id="r1",
        tenant="acme",
        endpoint="e1",
        source="hubspot",
        received_at=datetime.now(UTC).replace(microsecond=0),
        body=bytes(range(256)),
    )
    [outgoing] = await codec.seal(DELIVERIES, [delivery])
    [received], _ = await codec.open(DELIVERIES, [raw(DELIVERIES, outgoing)])
    assert received.payload == delivery


async def test_new_keys_of_a_whole_batch_take_two_round_trips_and_known_ones_none(
    codec: Codec, store: MemoryKeys
) -> None:
    outgoing = await codec.seal(CHANGES, [change(number % 50) for number in range(200)])
    assert store.calls == 2, "which there are, and then all that are to be made"
    await codec.seal(CHANGES, [change(number % 50) for number in range(200)])
    assert store.calls == 2
    received, _ = await codec.open(CHANGES, [raw(CHANGES, each) for each in outgoing])
    assert [each.payload.id for each in received] == [str(number % 50) for number in range(200)]


async def test_the_current_trace_goes_along_unless_one_is_given(codec: Codec) -> None:
    span = TracerProvider().get_tracer("t").start_span("request")
    with use_span(span):
        [own] = await codec.seal(CHANGES, [change()])
        [given] = await codec.seal(CHANGES, [change()], traceparents=["00-" + "1" * 32 + "-" + "2" * 16 + "-01"])
    received, _ = await codec.open(CHANGES, [raw(CHANGES, own), raw(CHANGES, given)])
    assert f"{span.get_span_context().trace_id:032x}" in received[0].envelope.traceparent
    assert received[1].envelope.traceparent == "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


async def test_a_change_moves_between_the_lanes_as_it_is_and_nowhere_else(codec: Codec) -> None:
    [outgoing] = await codec.seal(CHANGES, [change()])
    assert (await codec.open(CHANGES_BULK, [raw(CHANGES_BULK, outgoing)]))[0]
    assert len({purpose_of(topic) for topic in ALL}) == len(ALL) - 2


async def test_each_kind_of_bad_message_has_its_cause_and_stops_no_other(codec: Codec, store: MemoryKeys) -> None:
    """INVARIANT: a message that cannot be opened costs no other message of its batch."""
    [good] = await codec.seal(CHANGES, [change(1)])
    [gone] = await codec.seal(CHANGES, [change(2)])
    stranger = Codec(Keyring(MemoryKeys(), SecretStr(new_master_key())), "hookline/elsewhere")
    [foreign] = await stranger.seal(CHANGES, [change(3)])
    await codec._keyring.destroy_records([change(2).ref])
    newer = [(name, b"hookline.change.v9" if name == "ce_type" else value) for name, value in good.headers]
    robbed = [(name, b"globex" if name == "hl_tenant" else value) for name, value in good.headers]
    key = (await codec._keyring.for_records([change(1).ref]))[change(1).ref]
    nonsense = replace(good, value=seal(key, b'{"tenant": "acme", "secret text": 1}', purpose=purpose_of(CHANGES)))
    cases = [
        (raw(CHANGES, good, headers=[]), Cause.UNPARSABLE),
        (raw(CHANGES, good, headers=newer), Cause.UNKNOWN_VERSION),
        (raw(CHANGES, good, headers=robbed), Cause.UNDECRYPTABLE),
        (raw(CHANGES, good, value=good.value[:-1] + bytes([good.value[-1] ^ 1])), Cause.UNDECRYPTABLE),
        (raw(CHANGES, good, value=b"plain json"), Cause.UNDECRYPTABLE),
        (raw(CHANGES, good, value=b""), Cause.UNDECRYPTABLE),
        (raw(CHANGES, gone), Cause.UNDECRYPTABLE),
        (raw(CHANGES, foreign), Cause.UNDECRYPTABLE),
        (raw(CHANGES, nonsense), Cause.UNPARSABLE),
    ]
    received, refused = await codec.open(
        CHANGES, [raw(CHANGES, good), *(case for case, _ in cases), raw(CHANGES, good)]
    )
    assert len(received) == 2
    assert [(message, cause) for message, cause, _ in refused] == cases
    assert all(detail and "secret text" not in detail and "acme" not in detail for _, _, detail in refused)


async def test_tombstones_are_left_out(codec: Codec) -> None:
    [outgoing] = await codec.seal(CHANGES, [change()])
    assert await codec.open(CHANGES, [raw(CHANGES, outgoing, value=None)]) == ([], [])
