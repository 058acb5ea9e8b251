"""One span for what may come from several messages.

Law: a span continues one message's trace and links the others; attributes are ids, never values.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import Link, Span, get_current_span

from infra.telemetry import continue_trace, is_followed, tracer
from schemas.record import RecordRef

MOST_LINKS = 16


def begin(name: str, traceparents: Sequence[str], ref: RecordRef, began_ns: int | None = None) -> Span:
    """Start a span that goes on with the newest sampled trace (else the newest); the caller ends it.

    `traceparents` are given oldest first; empty ones are left out. `began_ns`: since when, in nanoseconds since 1970.
    """
    given = [each for each in traceparents if each]
    chosen = next((each for each in reversed(given) if each.endswith("-01")), given[-1] if given else "")
    if chosen and not is_followed(chosen):
        # Then nobody follows any of them, and what comes of it goes on with that trace, undescribed.
        return get_current_span(continue_trace(chosen))
    others = [each for each in dict.fromkeys(given) if each != chosen and each.endswith("-01")][-MOST_LINKS:]
    links = [Link(get_current_span(continue_trace(each)).get_span_context()) for each in others]
    attributes = {
        "hookline.tenant": ref.tenant,
        "hookline.account": ref.account,
        "hookline.object": ref.object,
        "hookline.id": ref.id,
    }
    return tracer().start_span(
        name, context=continue_trace(chosen), links=links, attributes=attributes, start_time=began_ns
    )
