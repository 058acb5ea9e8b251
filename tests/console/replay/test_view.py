"""What a person reads of a plan and of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from console.replay import view
from console.replay.filter import Filter
from console.replay.planner import kind_of
from console.replay.runner import Progress
from console.replay.store import Replay
from processors.replay.candidate import Candidate

NUMBERS = {
    "what": kind_of("crm.records"), "messages": 1200, "records": 1000, "insights": 900, "model_calls": 800, "cache_hits": 100,
    "input_tokens": 480_000, "output_tokens": 90_000, "cost_usd": 0.126, "price_list": "genai-prices 1", "prices_of": "2026-11-09",
    "basis": ["lead_intel: scaled by 50 calls"], "crm_calls": {}, "skipped": {"erased": 2}, "seconds": 50.0,
    "binds": "20 records/s", "warnings": [],
}  # fmt: skip
DOWNSTREAM = {
    "least": {"model_calls": 10, "cache_hits": 3, "input_tokens": 6_000, "output_tokens": 900, "cost_usd": 0.003},
    "most": {"model_calls": 2_000, "cache_hits": 0, "input_tokens": 1_200_000, "output_tokens": 180_000, "cost_usd": 0.5},
    "insights": 2_700, "unseen": 12, "basis": ["never published yet: 12 of the records"], "seconds": 400.0,
    "binds": "250,000 tokens a minute of acme", "warnings": ["the day is spent"],
}  # fmt: skip
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
REPLAY = Replay(
    "r1", "acme", "crm.records", "shadow", Filter(tenant="acme"), Candidate(), {0: range(9)}, "planned", 20.0, NUMBERS, {}, 0,
    None, "ada", NOON, None, None, None, "",
)  # fmt: skip


def printed(show: object, *given: object) -> str:
    out = Console(file=io.StringIO(), width=200)
    show(out, *given)  # type: ignore[operator]  # one of the functions of view
    return " ".join(out.file.getvalue().split())  # type: ignore[attr-defined]  # a StringIO


def test_a_plan_says_all_that_decides_about_it() -> None:
    said = printed(view.plan, REPLAY)
    for part in (
        "replays the past as it was", "1,200", "1,000 after coalescing", "800, and 100 answered by the cache", "480,000 in",
        "$0.1260 (genai-prices 1, prices as of 2026-11-09)", "erased 2", "0:00:50 at 20 records/s", "hookline replay run r1",
    ):  # fmt: skip
        assert part in said


def test_a_refresh_shows_its_calls_against_the_day() -> None:
    day = {"a_day": 250_000, "left": 60, "bulk_share": 0.5, "said_by": "hubspot last said"}
    calls = {
        "hubspot:1": {"calls": 90, "at_most": 120, **day},
        "other:2": {"calls": 9, "at_most": 12, **day, "left": None},
    }
    more = {"downstream": DOWNSTREAM, "disconnected": 5, "crm_calls": calls}
    said = printed(view.plan, replace(REPLAY, planned={**NUMBERS, **more, "what": kind_of("crm.changes")}))
    assert "refreshes" in said
    assert "hubspot:1: about 90, 120 at most; 60 left today for bulk work" in said
    assert "stops at 50% of the 250,000 a day that hubspot last said" in said
    assert "more than is left" in said
    assert "other:2: about 9, 12 at most; what it may call a day is not known" in said
    assert "5 records wait for their account" in said


def test_a_refresh_shows_what_follows_downstream_and_never_a_bare_nothing() -> None:
    """INVARIANT: a plan of a refresh names the model calls, tokens and dollars that follow; else $0 is read as the price."""
    refresh = replace(REPLAY, topic="crm.changes", planned={**NUMBERS, "downstream": DOWNSTREAM})
    said = printed(view.plan, refresh)
    for part in (
        "0 model calls, 0 tokens, $0: it triggers", "2,700 are sent to every destination, unchanged ones again",
        "10 to 2,000, and 3 answered by the cache", "6,000 to 1,200,000 in, 900 to 180,000 out", "$0.0030 to $0.5000 (genai-prices",
        "never published yet: 12 of the records", "downstream 0:06:40 at most: 250,000 tokens a minute of acme", "the day is spent",
    ):  # fmt: skip
        assert part in said
    run = replace(refresh, state="done", used={"records": 1000, "triggered": 1000, "seconds": 51.2})
    shown = printed(view.row, run)
    assert "model_calls downstream │ 10 to 2,000 │ not measured here" in shown
    assert "hookline gateway usage --tenant acme" in shown
    assert "$0" not in printed(view.listed, [run])


def test_a_limit_that_binds_is_named_instead_of_the_wished_rate() -> None:
    bound = {"seconds": 480.0, "binds": "100 questions a minute of acme (HOOKLINE_MODEL_REQUESTS_PER_MINUTE)"}
    said = printed(
        view.plan, replace(REPLAY, planned={**NUMBERS, **bound, "warnings": ["800 are more than the 70 left"]})
    )
    assert "0:08:00, slower than 20 records/s: 100 questions a minute of acme" in said
    assert "800 are more than the 70 left" in said


def test_time_left_is_told_by_what_was_done_in_the_last_minute() -> None:
    now = 0.0
    left, progress = view.TimeLeft(lambda: now), Progress(total=1_000, done=100, rate=20.0)
    assert left(progress) == "", "what an earlier run did tells nothing of this one"
    now, progress.done = 10.0, 200
    assert left(progress) == "0:01:20 left"
    for _ in range(12):
        now, progress.done = now + 10.0, progress.done + 10
        left(progress)
    assert left(progress) == "0:11:20 left", "the last minute did 60, however fast the first seconds were"
    now += 61.0
    assert left(progress) == "nothing done for a minute"
    progress.done = 1_000
    assert left(progress) == ""


@pytest.mark.parametrize(
    ("state", "mode", "told"),
    [
        ("paused", "write", "hookline replay run r1"),
        ("running", "write", "hookline replay rate r1 N"),
        ("done", "shadow", "hookline replay diff r1"),
        ("done", "write", "It is over."),
    ],
)
def test_each_state_says_what_is_next(state: str, mode: str, told: str) -> None:
    found = replace(REPLAY, state=state, mode=mode, used={"model_calls": 790, "cost_usd": 0.12, "erased": 2})  # type: ignore[arg-type]  # names of states
    said = printed(view.row, found)
    assert told in said
    assert "800 │ 790" in said
