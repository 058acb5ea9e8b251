"""Our produce request and answer beside aiokafka's own."""

from __future__ import annotations

from io import BytesIO

import pytest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka.produce_format import Answer, OneBatch

topics = st.text(min_size=1, max_size=30)
int16, int32, int64 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64))
rows = st.tuples(int32, int16, int64, int64, int64)


@given(acks=st.sampled_from([-1, 1]), timeout=st.integers(0, 2**31 - 1), topic=topics, place=st.integers(0, 2**31 - 1), batch=st.binary(max_size=200), number=st.integers(0, 2**31 - 1), client=st.text(max_size=20))  # fmt: skip
def test_a_request_is_written_as_aiokafka_writes_it(acks, timeout, topic, place, batch, number, client):
    """INVARIANT: the same bytes. If this fails, the broker reads something else than was meant, or closes the connection."""
    ours = OneBatch(acks, timeout, topic, place, batch).prepare({0: (3, 12)})
    theirs = ProduceRequest(None, acks, timeout, [(topic, [(place, batch)])]).prepare({0: (3, 12)})
    assert isinstance(theirs, ProduceRequest_v7)
    assert ours.encode() == theirs.encode()
    head = ours.build_request_header(correlation_id=number, client_id=client)
    assert head.encode() == theirs.build_request_header(correlation_id=number, client_id=client).encode()


@given(answer=st.lists(st.tuples(topics, st.lists(rows, max_size=2)), max_size=2) | st.tuples(topics, rows).map(lambda pair: [(pair[0], [pair[1]])]), throttled=int32)  # fmt: skip
def test_an_answer_is_read_as_aiokafka_reads_it(answer, throttled):
    """INVARIANT: an error is never read as success, nor a partition as another."""
    written = ProduceResponse_v7(answer, throttled).encode()
    theirs = ProduceResponse_v7.decode(written)
    ours = Answer.decode(BytesIO(written))
    assert ours.topics == theirs.topics
    assert ours.API_VERSION == theirs.API_VERSION


@given(answer=st.tuples(topics, rows).map(lambda pair: [(pair[0], [pair[1]])]), cut=st.integers(0, 60))
def test_an_answer_that_ends_too_early_is_refused_as_aiokafka_refuses_it(answer, cut):
    written = ProduceResponse_v7(answer, 0).encode()
    if cut < len(written):
        with pytest.raises(ValueError, match=r"."):
            Answer.decode(BytesIO(written[:cut]))


@given(number=int32, rest=st.binary(max_size=5))
def test_the_head_of_an_answer_is_read_and_nothing_after_it(number, rest):
    data = BytesIO(number.to_bytes(4, "big", signed=True) + rest)
    assert OneBatch.parse_response_header(data).correlation_id == number
    assert data.read() == rest


@pytest.mark.parametrize(("lowest", "highest", "version"), [(0, 3, 3), (0, 6, 6)])
def test_to_an_older_broker_aiokafka_itself_speaks(lowest, highest, version):
    prepared = OneBatch(-1, 5, "t", 1, b"batch").prepare({0: (lowest, highest)})
    assert version == prepared.API_VERSION
    assert prepared.encode() == ProduceRequest(None, -1, 5, [("t", [(1, b"batch")])]).prepare({0: (lowest, highest)}).encode()  # fmt: skip
