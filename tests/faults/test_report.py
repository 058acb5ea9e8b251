"""What a run writes into `docs/guarantees.md`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.__main__ import FAULTS
from tests.faults.campaign import Pace, Round
from tests.faults.judge import Verdict
from tests.faults.without import UNPROTECTED

GUARANTEES = Path(__file__).resolve().parents[2] / "docs/guarantees.md"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    return path


def a_round(fault: str, seed: int, *, lost: int = 0, without: str = "") -> Round:
    verdict = Verdict(acknowledged=10, lost=["a | b"] * lost)
    return Round(fault, seed, "it struck", struck=True, verdict=verdict, rate=5.0, without=without)


def run(page: Path, *rounds: Round) -> report.Page:
    """As the campaign does, a round after the other."""
    before = report.read(page)
    for number in range(len(rounds) + 1):
        report.write(page, FAULTS, rounds[:number], Pace(), 3, before)
    return report.read(page)


def test_a_row_names_its_seeds(page: Path):
    rows = run(page, a_round("kafka-away", 7), a_round("kafka-away", 2), a_round("model-500", 7)).faults
    assert {name: row[3] for name, row in rows.items()} == {"kafka-away": "2, 7", "model-500": "7"}
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_what_is_not_in_the_table_is_named(page: Path):
    run(page, a_round("kafka-away", 1))
    text = page.read_text()
    assert f"knows {len(FAULTS)} faults; 1 of them" in text
    assert all(f"`{name}`" in text for name in FAULTS)


def test_a_row_stays_until_its_fault_runs_again(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report.time, "strftime", lambda *_: "2026-01-01")
    first = run(page, a_round("kafka-away", 1), a_round("model-500", 1))
    monkeypatch.setattr(report.time, "strftime", lambda *_: "2026-01-02")
    second = run(page, a_round("model-500", 4, lost=1))
    assert second.faults["kafka-away"] == first.faults["kafka-away"]
    assert second.faults["model-500"][2:7] == ("2026-01-02", "4", "it struck", "0 of 1", "1 · 0 · 0")
    assert list(second.runs) == ["2026-01-02", "2026-01-01"]
    assert second.runs["2026-01-01"] == first.runs["2026-01-01"]
    third = run(page, a_round("kafka-away", 5))
    assert list(third.runs) == ["2026-01-02 (2)", "2026-01-02"], "no row is of the first run any more"


def test_a_page_says_the_same_when_nothing_has_run(page: Path):
    run(page, a_round("kafka-away", 1), a_round("kafka-away", 1, lost=2, without="answer-first"))
    before = page.read_text()
    run(page)
    assert page.read_text() == before


def test_beside_a_protection_that_is_off_stands_the_same_fault_with_it(page: Path):
    off = [a_round(each.fault.name, 3, lost=4, without=each.protection) for each in UNPROTECTED]
    rows = run(page, *off, a_round("kafka-away", 3), a_round("kafka-away", 5, lost=1)).without
    assert rows["answer-first"][-1].startswith("1 of 2 passed: 1 · 0 · 0 (")
    assert rows["no-fence"][-1] == report.NO_CONTROL
    assert {row[4] for row in rows.values()} == {"3"}


def test_the_page_of_the_repository_is_what_the_harness_would_write(tmp_path: Path):
    """INVARIANT: a fault that is added and has not run is named as such, or the page claims more than was tried."""
    copy = tmp_path / "guarantees.md"
    copy.write_text(GUARANTEES.read_text())
    run(copy)
    assert copy.read_text() == GUARANTEES.read_text(), "python -m tests.faults --only none --write docs/guarantees.md"
