"""Our way of writing and reading aiokafka's messages beside aiokafka's own."""

from __future__ import annotations

import typing
from io import BytesIO

import pytest
from aiokafka.protocol import commit, fetch
from aiokafka.protocol.types import Array, Boolean, Bytes, Float64, Int8, Int16, Int32, Int64, Schema, String, UInt32
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka import wire_format
from infra.kafka.wire_format import QuickSchema, quick, speak_quickly

NUMBERS = {
    Int8: st.integers(-(2**7), 2**7 - 1),
    Int16: st.integers(-(2**15), 2**15 - 1),
    Int32: st.integers(-(2**31), 2**31 - 1),
    Int64: st.integers(-(2**63), 2**63 - 1),
    UInt32: st.integers(0, 2**32 - 1),
    Boolean: st.booleans(),
    Float64: st.floats(allow_nan=False),
}
SPOKEN = list(wire_format._SPOKEN)


def slow(schema: Schema) -> Schema:
    """aiokafka's own again, of the same fields."""
    return Schema(*zip(schema.names, (slow_field(field) for field in schema.fields), strict=True))


def slow_field(field):
    if isinstance(field, Schema):
        return slow(field)
    if isinstance(field, Array):
        return array_of(slow_field(field.array_of))
    return field


def values(field) -> st.SearchStrategy:
    if isinstance(field, Schema):
        return st.tuples(*(values(each) for each in field.fields))
    if isinstance(field, Array):
        return st.none() | st.lists(values(field.array_of), max_size=4)
    if isinstance(field, String):
        return st.none() | st.text(max_size=9)
    if field is Bytes:
        return st.none() | st.binary(max_size=40)
    return NUMBERS[field]


def array_of(field) -> Array:
    found = Array(Int8)
    found.array_of = field
    return found


FIELDS = st.recursive(
    st.sampled_from([*NUMBERS, Bytes, String("utf-8")]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=5).map(
            lambda fields: Schema(*((f"f{place}", field) for place, field in enumerate(fields)))
        )
        | inner.map(array_of)
    ),
    max_leaves=12,
)


@given(st.data())
def test_any_message_is_written_and_read_as_aiokafka_does(data):
    """INVARIANT: the same bytes for the same values and back. If it fails, brokers and we understand different things."""
    schema = Schema(("whole", data.draw(FIELDS)))
    given_values = data.draw(values(schema))
    ours = QuickSchema(schema)
    written = schema.encode(given_values)
    assert ours.encode(given_values) == written
    assert ours.decode(BytesIO(written)) == schema.decode(BytesIO(written))


@pytest.mark.parametrize("message", SPOKEN, ids=lambda each: each.__name__)
@given(data=st.data())
def test_the_messages_of_every_day_are_written_and_read_as_aiokafka_does(message, data):
    speak_quickly()
    own = slow(message.SCHEMA)
    given_values = data.draw(values(own))
    written = own.encode(given_values)
    made = message(*given_values)
    assert isinstance(message.SCHEMA, QuickSchema)
    assert made.encode() == written
    assert message.decode(written) == made


@given(data=st.data())
def test_what_ends_too_early_is_refused_as_aiokafka_refuses_it(data):
    own = slow(fetch.FetchResponse_v11.SCHEMA)
    written = own.encode(data.draw(values(own)))
    cut = written[: data.draw(st.integers(0, len(written) - 1))]
    with pytest.raises(ValueError, match=r"."):
        own.decode(BytesIO(cut))
    with pytest.raises(ValueError, match=r"."):
        quick(own).decode(BytesIO(cut))


@pytest.mark.parametrize("row", [(1, 2, 3, 4, 2**31), (1, 2, 3, 4), (1, 2, 3, "x", 5), (1, 2, 3, None, 5)])
def test_a_value_that_does_not_fit_is_refused(row):
    with pytest.raises((ValueError, TypeError)):
        quick(partitions()).encode([row])
    with pytest.raises((ValueError, TypeError)):
        partitions().encode([row])


def partitions() -> Array:
    return slow(fetch.FetchRequest_v11.SCHEMA).fields[7].array_of.fields[1]


def test_speaking_quickly_twice_changes_nothing_more():
    speak_quickly()
    before = [each.SCHEMA for each in SPOKEN]
    speak_quickly()
    assert [each.SCHEMA for each in SPOKEN] == before


def test_the_last_versions_that_aiokafka_knows_are_among_them():
    """A release of aiokafka with newer ones makes this fail: then they are to be added."""
    for versions in (fetch.FetchRequestStruct, commit.OffsetCommitRequestStruct):
        last = typing.get_args(versions)[-1]
        assert {last, last.RESPONSE_TYPE} <= set(SPOKEN)
