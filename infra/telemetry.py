"""Logs and traces: structlog JSON lines, OpenTelemetry spans that follow one message across all topics.

Law: `configure` is called once, by whoever starts the process; importing does nothing. No secret and no customer's text
in a log line or a span: events have names, and their fields are ids, counts, causes and times.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import cache
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.settings import Settings

_PROPAGATOR = TraceContextTextMapPropagator()
_UNFOLLOWED = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-00")
_LIBRARIES = ("aiokafka", "faststream", "uvicorn", "hubspot", "urllib3", "httpx", "httpcore")


class _Ids(RandomIdGenerator):
    """Random ids, but for the one trace whose id was chosen: see `start_trace`."""

    chosen = 0

    def generate_trace_id(self) -> int:
        found, self.chosen = self.chosen, 0
        return found or super().generate_trace_id()


def configure(settings: Settings, service: str, *, processors: tuple[SpanProcessor, ...] = ()) -> None:
    """Set up logging and tracing of this process; `service` stands in every line and span. Later calls only change logging.

    `processors` receive every sampled span, besides the OTLP exporter that `otlp_endpoint` asks for.
    """
    _configure_logs(settings, service)
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "hookline"}),
        # A message's fate is decided once, at the front door; every later stage follows it.
        sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
        id_generator=_Ids(),
    )
    if settings.otlp_endpoint:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_traces_url(settings.otlp_endpoint))))
    for processor in processors:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Send the spans that wait; called once, when the process ends."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def log(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: `log("translator").info("delivery_translated", tenant=..., changes=3)`."""
    found: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"hookline.{name}")
    return found


@cache
def tracer() -> trace.Tracer:
    """The tracer of all our spans; made once, as making one costs more than a span. Works from before `configure` on."""
    return trace.get_tracer("hookline")


def start_trace(name: str, trace_id: str, *, kind: trace.SpanKind) -> trace.Span:
    """A span that begins the trace of this id (32 hexadecimal digits); of a random one where tracing is not configured by us."""
    ids = getattr(trace.get_tracer_provider(), "id_generator", None)
    if isinstance(ids, _Ids):
        ids.chosen = int(trace_id, 16)
    return tracer().start_span(name, context=Context(), kind=kind)


def traceparent(span: trace.Span | None = None) -> str:
    """W3C `traceparent` of `span`, or of the current one; empty when it has none."""
    context = (trace.get_current_span() if span is None else span).get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def continue_trace(traceparent: str) -> Context:
    """The context to start a span in that goes on with `traceparent`; a fresh one when it is empty or unreadable."""
    ids = _UNFOLLOWED.fullmatch(traceparent)
    if ids is not None and int(ids[1], 16) and int(ids[2], 16):
        # What the propagator would make of it, for a fifth of the price: of a backlog's messages nearly all are such.
        return trace.set_span_in_context(
            trace.NonRecordingSpan(trace.SpanContext(int(ids[1], 16), int(ids[2], 16), is_remote=True)), Context()
        )
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


def is_followed(traceparent: str) -> bool:
    """Whether a span that goes on with `traceparent` is kept: no, where whoever began the trace decided against it.

    Asked before a span is made, for making one that nobody keeps costs as much as a small message does.
    """
    return not traceparent.endswith("-00")


def _traces_url(endpoint: str) -> str:
    return endpoint if endpoint.rstrip("/").endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"


def _configure_logs(settings: Settings, service: str) -> None:
    def name_service(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    def add_trace(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        name_service,
        add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        last: list[structlog.typing.Processor] = [
            # Without local variables: they hold passwords and what customers wrote.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Tests and `hookline up` configure anew; a cached logger would keep the old chain.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if getattr(each, "hookline", False)]:
        root.removeHandler(old)
    handler.hookline = True  # type: ignore[attr-defined]  # marks the handler as ours, so that a second call replaces it
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
