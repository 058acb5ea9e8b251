"""Spans and metrics of questions to models, after OpenTelemetry's semantic conventions for generative AI.

Law: one span and one measurement an attempt; a stream's span lasts until the stream has ended. Never a word of question or
answer, unless a setting says so (`HOOKLINE_GATEWAY_CONTENT_IN_SPANS`), and then in spans alone. Names and buckets:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and .../gen-ai-metrics/; metrics are shown to Prometheus
under the names that OpenTelemetry's own exporter gives them (`gen_ai.client.token.usage` → `gen_ai_client_token_usage`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any

import orjson
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from prometheus_client import Counter, Histogram

from infra import metrics
from llm_gateway.providers.provider import Completed, Completion

OTHER = "_OTHER"
"""A model that a client named and that never answered: names of metrics are bounded."""


class Operation:
    """One attempt. `ended` is called exactly once."""

    __slots__ = ("_began", "_content", "_first", "_model", "_provider", "_span")

    def __init__(self, tracer: trace.Tracer, provider: str, host: str, request: Completion, *, content: bool) -> None:
        self._provider = provider
        self._model = request.model
        self._content = content
        self._began = perf_counter()
        self._first = 0.0
        self._span = tracer.start_span(f"chat {request.model}", kind=SpanKind.CLIENT)
        if self._span.is_recording():
            self._asked(self._span, host, request)

    def said(self) -> None:
        """A stream's first chunk is there; later calls mean nothing."""
        if not self._first:
            self._first = perf_counter()

    def ended(self, completed: Completed | None, error: str | None, body: bytes = b"", *, named: str = "") -> None:
        """How it ended: an answer, or the name of an error, or both. `named`: the model's name in metrics, if not its own."""
        now = perf_counter()
        model = named or self._model
        shown = _shown(self._provider, model, error or "")
        shown.outcome.inc()
        shown.seconds.observe(now - self._began)
        shown.duration.observe(now - self._began)
        if completed is not None and completed.input_tokens:
            tokens = _tokens(self._provider, model, named or completed.model)
            tokens[0].observe(completed.input_tokens)
            tokens[1].observe(completed.output_tokens)
        if self._first:
            _first_chunk(self._provider, model).observe(self._first - self._began)
        span = self._span
        if span.is_recording():
            self._told(span, completed, error, body)
        span.end()

    def _asked(self, span: Span, host: str, request: Completion) -> None:
        told: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": request.model,
            **request.traits(),
        }
        if host:
            told["server.address"] = host
        span.set_attributes(told)
        if self._content:
            said = list(request.said())
            system = [_part(text) for role, text in said if role == "system"]
            if system:
                span.set_attribute("gen_ai.system_instructions", orjson.dumps(system).decode())
            others = [{"role": role, "parts": [_part(text)]} for role, text in said if role != "system"]
            span.set_attribute("gen_ai.input.messages", orjson.dumps(others).decode())

    def _told(self, span: Span, completed: Completed | None, error: str | None, body: bytes) -> None:
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        if self._first:
            span.set_attribute("gen_ai.response.time_to_first_chunk", self._first - self._began)
        if completed is None:
            return
        span.set_attribute("gen_ai.response.model", completed.model)
        if completed.finish_reason:
            span.set_attribute("gen_ai.response.finish_reasons", [completed.finish_reason])
        if completed.input_tokens:
            span.set_attribute("gen_ai.usage.input_tokens", completed.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", completed.output_tokens)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", completed.cached_input_tokens)
        if self._content:
            texts = _texts(body) if body else completed.texts()
            messages = [
                {"role": "assistant", "parts": [_part(text)], "finish_reason": completed.finish_reason}
                for text in texts
            ]
            span.set_attribute("gen_ai.output.messages", orjson.dumps(messages).decode())


def _part(text: str) -> Mapping[str, str]:
    return {"type": "text", "content": text}


def _texts(body: bytes) -> list[str]:
    return [choice["message"].get("content") or "" for choice in orjson.loads(body)["choices"]]


class _Shown:
    """One model's metrics by outcome: looking labels up costs more than counting."""

    __slots__ = ("duration", "outcome", "seconds")

    def __init__(self, outcome: Counter, seconds: Histogram, duration: Histogram) -> None:
        self.outcome = outcome
        self.seconds = seconds
        self.duration = duration


@lru_cache(maxsize=1_024)
def _shown(provider: str, model: str, error: str) -> _Shown:
    return _Shown(
        metrics.MODEL_CALLS.labels(provider, model, error or "answered"),
        metrics.MODEL_SECONDS.labels(provider, model),
        metrics.GENAI_DURATION.labels("chat", provider, model, error),
    )


@lru_cache(maxsize=1_024)
def _tokens(provider: str, model: str, answered: str) -> tuple[Histogram, Histogram]:
    return (
        metrics.GENAI_TOKENS.labels("chat", provider, model, answered, "input"),
        metrics.GENAI_TOKENS.labels("chat", provider, model, answered, "output"),
    )


@lru_cache(maxsize=1_024)
def _first_chunk(provider: str, model: str) -> Histogram:
    shown: Histogram = metrics.GENAI_FIRST_CHUNK.labels("chat", provider, model)
    return shown
