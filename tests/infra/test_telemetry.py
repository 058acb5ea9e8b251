from __future__ import annotations

import json
import logging

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span

from infra import telemetry
from infra.settings import Settings


@pytest.fixture(autouse=True)
def _as_it_was():
    level, handlers = logging.root.level, list(logging.root.handlers)
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
    structlog.reset_defaults()


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line]


def test_a_log_line_is_json_with_service_level_time_and_trace(capsys) -> None:
    telemetry._configure_logs(Settings(_env_file=None), "hydrator")
    span = TracerProvider().get_tracer("t").start_span("s")
    with use_span(span):
        telemetry.log("pump").info("batch_done", messages=3)
    [line] = lines(capsys)
    assert line["event"] == "batch_done"
    assert (line["service"], line["level"], line["logger"], line["messages"]) == (
        "hydrator",
        "info",
        "hookline.pump",
        3,
    )
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["timestamp"].endswith("Z")


def test_lines_of_libraries_come_in_the_same_form_and_only_from_warnings_on(capsys) -> None:
    telemetry._configure_logs(Settings(_env_file=None), "sinks")
    logging.getLogger("aiokafka").info("chatter")
    logging.getLogger("aiokafka").warning("trouble %s", 1)
    [line] = lines(capsys)
    assert (line["event"], line["service"], line["level"]) == ("trouble 1", "sinks", "warning")


def test_configuring_twice_logs_once(capsys) -> None:
    for _ in range(2):
        telemetry._configure_logs(Settings(_env_file=None), "x")
    telemetry.log("a").warning("once")
    assert len(lines(capsys)) == 1


def test_an_exception_in_a_log_line_shows_its_kind(capsys) -> None:
    telemetry._configure_logs(Settings(_env_file=None), "x")
    try:
        {}["k"]
    except KeyError:
        telemetry.log("a").exception("broke")
    assert "KeyError" in json.dumps(lines(capsys))


def test_an_exception_in_a_log_line_shows_no_local_variable(capsys) -> None:
    """INVARIANT: no secret and no customer's text in a log. If it fails, a traceback prints passwords that functions hold."""
    telemetry._configure_logs(Settings(_env_file=None), "x")
    held = "pass" + "word-of-redis"
    try:
        raise RuntimeError(f"{len(held)} bytes")  # noqa: TRY301 -- the frame that holds the secret is the one under test
    except RuntimeError:
        telemetry.log("x").exception("failed")
    assert held not in capsys.readouterr().err


def test_a_trace_goes_on_where_the_message_left_it() -> None:
    tracer = TracerProvider().get_tracer("t")
    with use_span(tracer.start_span("first")) as span:
        carried = telemetry.traceparent()
    assert telemetry.traceparent() == ""
    child = tracer.start_span("second", context=telemetry.continue_trace(carried))
    assert child.get_span_context().trace_id == span.get_span_context().trace_id
    assert child.parent.span_id == span.get_span_context().span_id


@pytest.mark.parametrize("broken", ["", "nonsense", "00-zz-yy-01"])
def test_an_unreadable_traceparent_begins_a_new_trace(broken: str) -> None:
    tracer = TracerProvider().get_tracer("t")
    with use_span(tracer.start_span("other")):
        assert tracer.start_span("fresh", context=telemetry.continue_trace(broken)).parent is None
