"""A trace that nobody follows costs no span, and is passed on as it came."""

from __future__ import annotations

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.telemetry import continue_trace, is_followed, traceparent
from processors.tracing import begin
from schemas.record import RecordRef

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REF = RecordRef("acme", "hubspot:1", "contact", "7")


@pytest.mark.parametrize(
    "given",
    [
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-00",
        f"00-{TRACE}-{'0' * 16}-00",
        f"ff-{TRACE}-{SPAN}-00",
        f"00-{TRACE.upper()}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-00-more",
        "",
        "nonsense-00",
    ],
)
def test_a_trace_is_continued_as_the_propagator_would(given: str):
    ours = get_current_span(continue_trace(given)).get_span_context()
    theirs = TraceContextTextMapPropagator().extract({"traceparent": given}, context=Context())
    expected = get_current_span(theirs).get_span_context()
    assert (ours, ours.is_remote) == (expected, expected.is_remote)


def test_only_a_trace_that_was_decided_against_is_not_followed():
    assert not is_followed(f"00-{TRACE}-{SPAN}-00")
    assert is_followed(f"00-{TRACE}-{SPAN}-01")
    assert is_followed(""), "nobody has decided yet"


def test_what_comes_of_unfollowed_traces_goes_on_with_the_newest():
    older, newest = f"00-{'1' * 32}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"
    span = begin("hydrate", [older, newest], REF)
    assert not span.is_recording()
    assert traceparent(span) == newest
