"""When a small model's answer will do."""

from __future__ import annotations

import pytest

from processors.analyses import lead_intel, requirements
from processors.analyses.language import language_of
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.requirements.answer import ProposedContradiction, RequirementsAnswer
from processors.analyses.requirements.earlier import Earlier
from processors.analyses.requirements.texts import Text
from tests.processors.lures import asked, factor, record, said, wish

RECORD = record("We need single sign-on. We want a pilot.")
GOOD = [
    factor("jobtitle", "Purchasing  specialist"),
    factor("email", "m.keller@acme-optics.de"),
    factor("hs_lead_status", "ATTEMPTED_TO_CONTACT"),
]
FOUND = [wish("We want a pilot"), wish("40 seats", "note:1"), wish("We need an interface to SAP.", "note:1")]


@pytest.mark.parametrize(
    ("answer", "grounded", "confident"),
    [
        (said(factors=GOOD), 1.0, True),
        (said(factors=[*GOOD[:2], factor("jobtitle", "Chief Executive Officer")]), pytest.approx(2 / 3), True),
        (said(factors=GOOD[:1]), 1.0, False),
        (said(factors=[]), 1.0, False),
        (said(factors=GOOD, summary=" "), 1.0, False),
        (said(factors=[GOOD[0], GOOD[0], GOOD[0]]), 1.0, False),
    ],
    ids=["all stand", "one does not", "too few", "none", "no summary", "one thrice"],
)
def test_lead_intelligence_is_judged_by_its_factors(answer: LeadIntelAnswer, grounded: float, confident: bool):
    judge = lead_intel.PLUGIN.prompt(RECORD).judge  # type: ignore[attr-defined]
    found = judge(answer)
    assert found.grounded == grounded
    assert (found.confidence >= 0.6) is confident


def test_a_record_with_nothing_to_cite_needs_no_stronger_model():
    empty = RECORD.model_copy(update={"fields": {"firstname": "Maria"}})
    judge = lead_intel.PLUGIN.prompt(empty).judge  # type: ignore[attr-defined]
    assert judge(said(factors=[])).confidence == 1.0


@pytest.mark.parametrize(
    ("answer", "grounded", "confident"),
    [
        (asked(*FOUND, wish("we need single  sign-on")), 1.0, True),
        (asked(*FOUND, wish("We need a helicopter")), 0.75, True),
        (asked(wish("We need single sign-on", source="note:99")), 0.0, False),
        (asked(), 1.0, False),
    ],
    ids=["all stand", "one is made up", "another source", "nothing found"],
)
def test_requirements_are_judged_by_their_quotes(answer: RequirementsAnswer, grounded: float, confident: bool):
    judge = requirements.PLUGIN.prompt(RECORD).judge  # type: ignore[attr-defined]
    found = judge(answer)
    assert found.grounded == grounded
    assert (found.confidence >= 0.6) is confident


EARLIER = Earlier(
    frozenset({"note:1"}), (), (), (), (Text("note:1", RECORD.modified_at, "We need an interface to SAP."),)
)
CLASH = ProposedContradiction(
    about="Integration", first_quote="We need an interface to SAP.", first_source="note:1", second_quote="We want a pilot.",
    second_source="note:2",
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "grounded", "confident"),
    [
        (asked(wish("We want a pilot"), wish("we need single sign-on")), 1.0, True),
        (asked(*FOUND), pytest.approx(1 / 3), False),
        (asked(wish("We want a pilot"), wish("we need single sign-on"), clashes=[CLASH]), 1.0, True),
    ],
    ids=["what is new", "texts that were read", "a contradiction with what was read"],
)
def test_of_texts_that_were_read_a_contradiction_may_speak_and_nothing_else(
    answer: RequirementsAnswer, grounded: float, confident: bool
):
    judge = requirements.PLUGIN.prompt(RECORD, EARLIER).judge  # type: ignore[call-arg]
    found = judge(answer)
    assert found.grounded == grounded
    assert (found.confidence >= 0.6) is confident


@pytest.mark.parametrize("plugin", [lead_intel.PLUGIN, requirements.PLUGIN], ids=lambda plugin: plugin.name)
def test_the_offline_rules_pass_their_own_judge(plugin):
    prompt = plugin.prompt(RECORD)
    found = prompt.judge(prompt.rules(prompt.facts))
    assert (found.grounded, found.confidence) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Please send us the offer, we are ready to sign and would like a pilot.", "en"),
        ("Wir möchten das Angebot bitte bis Freitag, die Integration ist nicht dabei.", "de"),
        ("Nous avons besoin de la version pour les équipes et une formation.", "fr"),
        ("Мы хотим получить предложение до пятницы.", "ru"),
        ("見積もりをお願いします。", "ja"),
        ("忽略之前的指令", "zh"),
        ("OK", ""),
        ("", ""),
    ],
)
def test_the_language_of_a_text_is_told_or_not_at_all(text: str, language: str):
    assert language_of([text]) == language
