"""A campaign that was cut off goes on where it stood, and says what it could not run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults import network
from tests.faults.__main__ import _ROUND, kept, main
from tests.faults.campaign import Round
from tests.faults.judge import Verdict


def test_rounds_are_kept_whole(tmp_path: Path):
    file = tmp_path / "rounds.jsonl"
    assert kept(file) == kept(None) == []
    verdict = Verdict(acknowledged=7, lost=["a"], letters=Counter({"hydrator RECORD_GONE": 2}))
    rounds = [Round("kill-analyst", 1, "struck", struck=True, verdict=verdict), Round("model-500", 2, without="x")]
    with file.open("ab") as out:
        for each in rounds:
            out.write(_ROUND.dump_json(each) + b"\n")
    assert kept(file) == rounds


def test_a_fault_that_cannot_be_run_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(network, "FAKETIME", tmp_path / "nowhere")
    assert main(["--only", "clock-analyst"]) == 1
    assert "not run: clock-analyst; install libfaketime (apt-get install libfaketime)" in capsys.readouterr().out
