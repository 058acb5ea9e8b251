"""What a shadow tries out fits the analysis that it is tried on, or is refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_gateway.prompt import Prompt
from processors.analyses.analysis import Context
from processors.analyses.lead_intel import PLUGIN
from processors.replay.candidate import Candidate, CandidateError, Reprompted, reprompted
from tests.processors.world import START, scorable

TEXT = "---\nname: lead_intel\nversion: 9\n---\n# system\nJudge.\n# user\n{{record}}\n"


class AskedError(Exception):
    """Carries the question."""


async def test_the_question_goes_out_in_the_other_prompts_words_and_with_the_same_facts() -> None:
    tried = reprompted(PLUGIN, TEXT)
    asked: list[Prompt[Any]] = []

    def ask(prompt: Prompt[Any]) -> Any:
        asked.append(prompt)
        raise AskedError

    for analysis in (PLUGIN, tried):
        context = Context(snapshot=scorable(), previous=None, ask=ask, matches=(), today=START.date())
        with pytest.raises(AskedError):
            await analysis.analyse(context)
    live, other = asked
    assert (other.system, other.version, other.name) == ("Judge.", "9", "lead_intel")
    assert other.facts == live.facts
    assert other.answer is live.answer
    assert other.rules is live.rules
    assert tried.replaced_system == live.system


def test_a_prompt_over_a_prompt_speaks_for_the_analysis_itself() -> None:
    first = reprompted(PLUGIN, TEXT)
    second = reprompted(first, TEXT.replace("version: 9", "version: 10"))
    assert second.inner is PLUGIN
    assert second.version == f"10/{PLUGIN.version}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT.replace("name: lead_intel", "name: requirements"), "is for 'requirements', not for 'lead_intel'"),
        (TEXT.replace("version: 9", f"version: {PLUGIN.version}"), "raise `version:`"),
        (TEXT.replace("{{record}}", "{{deal}}"), "must have the slot"),
        ("You judge.", "front matter"),
    ],
)
def test_a_prompt_file_that_does_not_fit_is_refused(text: str, why: str) -> None:
    with pytest.raises(CandidateError, match=why):
        reprompted(PLUGIN, text)


def test_a_live_prompt_may_not_be_tried_under_its_own_version() -> None:
    with pytest.raises(CandidateError, match="raise `version:`"):
        reprompted(reprompted(PLUGIN, TEXT), TEXT)


def test_a_plugin_is_another_version_of_the_same_analysis() -> None:
    installed = {"lead_intel": PLUGIN}
    tried = Candidate("lead_intel", plugin="processors.analyses.lead_intel").analyses(installed)
    assert tried["lead_intel"] is PLUGIN
    with pytest.raises(CandidateError, match="is the analysis 'requirements'"):
        Candidate("lead_intel", plugin="processors.analyses.requirements").analyses(installed)
    with pytest.raises(CandidateError, match="no module that ends in PLUGIN"):
        Candidate("lead_intel", plugin="processors.nowhere").analyses(installed)
    with pytest.raises(CandidateError, match="give --analysis, one of lead_intel"):
        Candidate("", TEXT).analyses(installed)


def test_a_candidate_survives_its_table() -> None:
    candidate = Candidate("lead_intel", TEXT, "some/model")
    assert Candidate.of(candidate.as_json()) == candidate
    assert Candidate.of({}) == Candidate()
    assert isinstance(candidate.analyses({"lead_intel": PLUGIN})["lead_intel"], Reprompted)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="give a prompt file"):
        Candidate.read("lead_intel", tmp_path / "none.md", "", "")
