"""The trace that a sender says it is in: linked, never joined.

Law: our traces begin at the door, with an id and a sampling decision of our own. A sender's `traceparent` is the word of a
stranger: as a parent it would let anybody choose our trace ids, force our sampling, and put its request into another
customer's trace. As a link it costs nothing and still leads from one trace to the other.
Source: W3C Trace Context, level 2, section 3.2 and "Security considerations".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from opentelemetry.trace import Span, SpanContext, TraceFlags

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.{0,256})?")


def link_sender(span: Span, headers: Mapping[bytes, bytes]) -> None:
    """Link `span` to the sender's, where a verified request names one that can be read. Never raises."""
    given = headers.get(b"traceparent")
    match = _TRACEPARENT.fullmatch(given) if given is not None else None
    if match is None or given is None or given.startswith(b"ff"):
        return
    context = SpanContext(
        int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16))
    )
    if context.is_valid:
        span.add_link(context, {"hookline.link": "sender"})
