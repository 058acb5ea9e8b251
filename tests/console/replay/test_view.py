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
from console.replay.store import Replay
from processors.replay.candidate import Candidate

NUMBERS = {
    "what": kind_of("crm.records"), "messages": 1200, "records": 1000, "insights": 900, "model_calls": 800, "cache_hits": 100,
    "input_tokens": 480_000, "output_tokens": 90_000, "cost_usd": 0.126, "price_list": "genai-prices 1", "prices_of": "2026-11-09",
    "basis": ["lead_intel: scaled by 50 calls"], "crm_calls": {}, "skipped": {"erased": 2}, "seconds": 50.0,
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
    more = {"model_calls_at_most": 2000, "model_calls_of_new_records": 10, "disconnected": 5, "crm_calls": calls}
    said = printed(view.plan, replace(REPLAY, planned={**NUMBERS, **more, "what": kind_of("crm.changes")}))
    assert "refreshes" in said
    assert "hubspot:1: about 90, 120 at most; 60 left today for bulk work" in said
    assert "stops at 50% of the 250,000 a day that hubspot last said" in said
    assert "more than is left" in said
    assert "other:2: about 9, 12 at most; what it may call a day is not known" in said
    assert "5 records wait for their account" in said
    assert "2,000 if every record has changed" in said


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
