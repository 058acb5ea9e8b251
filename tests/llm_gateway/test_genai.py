from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from infra import metrics
from llm_gateway.genai import OTHER, Operation
from llm_gateway.providers.provider import Completed, Completion, Message
from llm_gateway.server.asked import read
from llm_gateway.server.upstream import Passed, Passing

NOTE = "Ada Lovelace wants a rebate"
COMPLETION = Completion("m", (Message("system", "You judge."), Message("user", NOTE)), {}, 10, 0.5, 1.0)
COMPLETED = Completed(NOTE, "m-2026", 100, 20, 60)


class Traced:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    def begin(self, request: Completion = COMPLETION, *, content: bool = False, provider: str = "groq") -> Operation:
        return Operation(self.tracer, provider, "api.groq.com", request, content=content)

    @property
    def span(self) -> ReadableSpan:
        [span] = self.exporter.get_finished_spans()
        return span

    def told(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})


@pytest.fixture
def traced() -> Traced:
    return Traced()


def chat(**more: Any) -> Passing:
    asked = read(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": NOTE}], **more}))
    return Passing("m", (), {}, 0, 0.0, 1.0, stream=asked.stream, asked=asked)


def value(histogram: Any, suffix: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"{histogram}_{suffix}", labels) or 0.0


def test_every_attribute_is_one_of_the_conventions(traced: Traced) -> None:
    traced.begin(chat(stream=True, temperature=0.2, top_p=0.9, seed=7, max_tokens=5, n=2), content=True).ended(
        Passed("", "m", 1, 1, body=b'{"choices": [{"message": {"content": "x"}}]}'), "TIMEOUT"
    )
    known = {found for name in dir(attributes) if isinstance(found := getattr(attributes, name), str)}
    told = traced.told()
    assert set(told) - {"server.address", "error.type"} <= known
    assert told["gen_ai.request.stream"] is True
    assert (told["gen_ai.request.seed"], told["gen_ai.request.choice.count"]) == (7, 2)


def test_metrics_have_the_conventions_names_as_prometheus_spells_them() -> None:
    for name, unit in (
        (gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION, "_seconds"),
        (gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE, ""),
        (gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, "_seconds"),
    ):
        assert name.replace(".", "_") + unit in {metric.name for metric in metrics.REGISTRY.collect()}


def test_a_span_says_what_was_asked_and_taken_and_never_the_words(traced: Traced) -> None:
    """INVARIANT: if this fails, customers' words lie in the tracing system."""
    traced.begin().ended(COMPLETED, None)
    told = traced.told()
    assert traced.span.name == "chat m"
    assert (told["gen_ai.provider.name"], told["gen_ai.response.model"]) == ("groq", "m-2026")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (100, 20)
    assert told["gen_ai.usage.cache_read.input_tokens"] == 60
    assert NOTE not in traced.span.to_json()
    assert "You judge" not in traced.span.to_json()


def test_words_are_told_only_where_that_is_switched_on(traced: Traced) -> None:
    traced.begin(content=True).ended(COMPLETED, None)
    told = traced.told()
    assert json.loads(told["gen_ai.system_instructions"]) == [{"type": "text", "content": "You judge."}]
    [message] = json.loads(told["gen_ai.input.messages"])
    assert message == {"role": "user", "parts": [{"type": "text", "content": NOTE}]}
    assert json.loads(told["gen_ai.output.messages"])[0]["parts"][0]["content"] == NOTE


def test_duration_and_tokens_are_measured_once_an_attempt(traced: Traced) -> None:
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "measured", "gen_ai_request_model": "m"}
    traced.begin(provider="measured").ended(COMPLETED, None)
    traced.begin(provider="measured").ended(None, "TIMEOUT")
    assert value("gen_ai_client_operation_duration_seconds", "count", error_type="", **labels) == 1
    assert value("gen_ai_client_operation_duration_seconds", "count", error_type="TIMEOUT", **labels) == 1
    tokens = {**labels, "gen_ai_response_model": "m-2026"}
    assert value("gen_ai_client_token_usage", "sum", gen_ai_token_type="input", **tokens) == 100
    assert value("gen_ai_client_token_usage", "sum", gen_ai_token_type="output", **tokens) == 20


def test_a_streams_first_chunk_is_measured(traced: Traced) -> None:
    operation = traced.begin(chat(stream=True), provider="streaming")
    operation.said()
    operation.said()
    operation.ended(COMPLETED, None)
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "streaming", "gen_ai_request_model": "m"}
    assert value("gen_ai_client_operation_time_to_first_chunk_seconds", "count", **labels) == 1
    assert traced.told()["gen_ai.response.time_to_first_chunk"] >= 0


def test_a_made_up_model_gets_no_name_of_its_own_in_metrics(traced: Traced) -> None:
    """INVARIANT: if this fails, a client fills the metrics with names."""
    traced.begin(provider="named").ended(None, "MODEL_GONE", named=OTHER)
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "named", "error_type": "MODEL_GONE"}
    assert value("gen_ai_client_operation_duration_seconds", "count", gen_ai_request_model=OTHER, **labels) == 1
    assert value("gen_ai_client_operation_duration_seconds", "count", gen_ai_request_model="m", **labels) == 0
