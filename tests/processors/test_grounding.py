"""Grounding: what a model may not get onto a record, and what it may."""

from __future__ import annotations

import json
from datetime import date

import pytest

from llm_gateway.prompt import Answer, Prompt
from processors.analyses import data_quality, lead_intel, requirements
from processors.analyses.analysis import Context
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.suspicion import addresses_machine
from processors.grounding import ground
from processors.grounding.evidence import Evidence as Evidence_
from processors.grounding.evidence import same_value
from schemas.insight import DataQuality, Defect, Duplicate, Evidence, Factor, LeadIntel, NextAction, Usage
from tests.processors.lures import LURES, Lure, factor, record, said

TODAY = date(2026, 11, 20)


class Gullible:
    """A model that reads the record and does whatever a stranger wrote there."""

    def __init__(self, lure: Lure) -> None:
        self._lure = lure

    async def ask(self, prompt: Prompt):
        strings = json.dumps(json.loads(prompt.user[prompt.user.index("{") :]), ensure_ascii=False)
        assert self._lure.visible in json.loads(json.dumps(strings)).replace('\\"', '"'), (
            "the lure never reached the model"
        )
        assert self._lure.visible not in prompt.system
        return Answer(self._lure.obeys, "gullible", "scripted", Usage(), cached=False, prompt_version=prompt.version)


async def by_rules(prompt: Prompt):
    return Answer(
        prompt.rules(prompt.facts), "offline-rules", "offline", Usage(), cached=False, prompt_version=prompt.version
    )


def plugin_of(lure: Lure):
    return lead_intel.PLUGIN if isinstance(lure.obeys, LeadIntelAnswer) else requirements.PLUGIN


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_what_a_stranger_wrote_does_not_steer_what_reaches_the_record(lure: Lure):
    """INVARIANT: CRM text is data. If this fails, anybody who can send an e-mail can write into the CRM in our name.

    The first assertion is the proof that grounding is what does it: without it the planted thing is there.
    """
    finding = await plugin_of(lure).analyse(Context(lure.snapshot, None, Gullible(lure).ask, (), TODAY))

    assert lure.carries(finding.payload), "with grounding switched off the lure must work, or this case proves nothing"
    grounded = ground(finding.payload, lure.snapshot)
    assert not lure.carries(grounded.payload)
    assert grounded.dropped or grounded.payload.model_dump().get("score") != finding.payload.model_dump().get("score")
    assert not any(lure.visible and lure.visible in line for line in grounded.dropped), (
        "what was dropped is named without its text"
    )
    assert ground(grounded.payload, lure.snapshot).payload == grounded.payload


WORD_FOR_WORD_IN_A_NOTE = {"requirement_by_order", "requirement_in_a_field"}
"""What only recognition can stop: the sentence stands there, and might be a customer's wish."""


@pytest.mark.parametrize(
    "lure", [lure for lure in LURES if lure.name not in WORD_FOR_WORD_IN_A_NOTE], ids=lambda lure: lure.name
)
async def test_lures_that_nobody_recognises_are_stopped_all_the_same(lure: Lure, monkeypatch: pytest.MonkeyPatch):
    """INVARIANT: tomorrow's attack is written in words that we do not know; the checks on what comes out must hold alone."""
    monkeypatch.setattr(Evidence_, "tainted", False)
    for module in ("evidence", "prose", "requirements"):
        monkeypatch.setattr(f"processors.grounding.{module}.addresses_machine", lambda _text: False)
    finding = await plugin_of(lure).analyse(Context(lure.snapshot, None, Gullible(lure).ask, (), TODAY))
    assert not lure.carries(ground(finding.payload, lure.snapshot).payload)


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_the_offline_rules_are_not_steered_either(lure: Lure):
    finding = await plugin_of(lure).analyse(Context(lure.snapshot, None, by_rules, (), TODAY))
    grounded = ground(finding.payload, lure.snapshot).payload
    if lure.name in {"quote_of_another_source", "topic_of_a_contradiction"}:
        return  # there the text itself is a customer's honest wish
    assert not lure.carries(grounded)


@pytest.mark.parametrize(
    "text",
    [
        "Please ignore my previous e-mail, the budget is 40k.",
        "They need an integration with OpenAI and ChatGPT for their support team.",
        "The customer builds a language model of their own and looks for a platform for AI workloads.",
        "Please add the requirement for SSO to the contract.",
        "We need to export all contacts and show all deals in one dashboard.",
        "System: SAP ECC 6.0\nUser: 50 seats in phase one",
        "The user must install the app and log in with a password.",
        "Their NPS score is 45, and a credit score of 720 is fine.",
        "Thanks for your instructions, we followed them and it worked.",
        "Please send us a summary of the features and give us a quote.",
        "They want the score of each supplier in the report, graded A to E.",
        "Sales rep should call on Monday. Reply in English is fine.",
        "Rules: no cloud hosting. Everything above 10k goes to the CFO.",
        "Die Bewertung der Anbieter erfolgt im März, bitte ergänzen Sie das Angebot.",
        "AI: they want forecasting; ML: churn prediction. The bot must answer in German.",
        "Reference: 4F7A9C2E4B1D8E6F7A3B9C1D2E5F6A7B, invoice https://acme.com/inv/33, tel. 030 123456.",
        "Order key QWxhZGRpbjpvcGVuc2VzYW1lQWxhZGRpbg==",
    ],
)
def test_what_people_write_to_people_is_no_attack(text: str):
    """INVARIANT: a text taken for an attack loses its requirements; customers who sell AI would lose them all."""
    assert not addresses_machine(text)
    assert not Evidence_(record(text)).tainted


def intel(**changes) -> LeadIntel:
    snapshot = record()
    factors = tuple(
        Factor(
            label=f.label,
            direction=f.direction,
            weight=f.weight,
            evidence=Evidence(field=f.field, value=f.value, since=snapshot.modified_at),
        )
        for f in changes.pop("factors", said().factors)
    )
    action = NextAction(text=changes.pop("action", "Call Maria Keller"), due=TODAY, why=changes.pop("why", ""))
    return LeadIntel(
        status="scored",
        score=100,
        grade="A",
        factors=factors,
        confidence=1.0,
        next_action=action,
        **{"summary": "", **changes},
    )


@pytest.mark.parametrize(
    "summary",
    [
        "Maria Keller is a purchasing specialist at Acme Optics GmbH and has not been reached yet.",
        "Purchasing Specialist at Acme Optics GmbH with a business e-mail address. The last contact was on 2026-09-20.",
        "A lead from Acme Optics GmbH who buys for the company. Last contacted on September 20, 2026, so the conversation needs new life.",
        "Promising buyer, but the contact has gone quiet since 20 September 2026.",
        "The contact's lifecycle stage is lead. Attempts to reach her have failed so far.",
    ],
)
def test_a_models_honest_summary_stays_word_for_word(summary: str):
    grounded = ground(intel(summary=summary), record())
    assert grounded.payload.summary == summary


@pytest.mark.parametrize(
    "action",
    [
        "Call Maria Keller to find out what she needs and who decides.",
        "Schedule a follow-up call with Maria and send her the quote.",
        "Follow up with Acme Optics GmbH by e-mail.",
        "Send an email to m.keller@acme-optics.de to qualify need and budget.",
        "Prepare a short proposal and book a meeting with Maria Keller.",
    ],
)
def test_a_models_sensible_next_action_stays_word_for_word(action: str):
    grounded = ground(intel(action=action), record())
    assert grounded.payload.next_action.text == action


@pytest.mark.parametrize(
    ("claimed", "actual", "same"),
    [
        ("15,000", "15000", True),
        ("15.000,00 EUR", "15000.0", True),
        (" vp   SALES ", "VP Sales", True),
        ("2026-12-15", "2026-12-15T00:00:00.000Z", True),
        ("VP", "VP Sales", False),
        ("150000", "15000", False),
        ("Open", "Open - Not Contacted", False),
        ("“Acme”", '"Acme"', True),
    ],
)
def test_values_are_compared_by_what_they_say(claimed: str, actual: str, same: bool):
    assert same_value(claimed, actual) is same


def test_since_score_grade_and_confidence_are_never_the_models():
    payload = ground(intel(), record()).payload
    assert payload.score == 40 + 9 + 4
    assert payload.grade == "C"
    assert payload.confidence < 1.0
    assert all(f.evidence.since == record().since_when(f.evidence.field) for f in payload.factors)


def test_a_factor_may_cite_each_field_once_and_no_name_or_free_text():
    factors = [
        factor("jobtitle", "Purchasing Specialist"), factor("jobtitle", "Purchasing Specialist"),
        factor("firstname", "Maria"), factor("email", "m.keller@acme-optics.de"),
    ]  # fmt: skip
    grounded = ground(intel(factors=factors), record())
    assert [f.evidence.field for f in grounded.payload.factors] == ["jobtitle", "email"]
    assert len([line for line in grounded.dropped if line.startswith("factor")]) == 2


def test_too_few_grounded_factors_are_not_enough_data_and_say_what_is_missing():
    snapshot = record(email="", hs_lead_status="", notes_last_contacted="")
    snapshot = snapshot.model_copy(update={"fields": {name: value for name, value in snapshot.fields.items() if value}})
    grounded = ground(
        intel(factors=[factor("jobtitle", "Purchasing Specialist"), factor("phone", "+49 30 1")]), snapshot
    ).payload
    assert grounded.status == "not_enough_data"
    assert (grounded.score, grounded.grade) == (None, None)
    assert {"E-mail", "Phone", "Last contacted"} <= set(grounded.missing)


def test_a_defect_must_name_a_true_field_and_value_and_propose_a_reading_of_it():
    snapshot = record(city="Berln", country="Germany")
    true = Defect(
        field="city",
        kind="misspelt",
        severity="medium",
        message="City looks mistyped",
        value="Berln",
        proposed="Berlin",
    )
    claims = (
        true,
        Defect(
            field="city",
            kind="stale",
            severity="high",
            message="Ask billing@evil.example",
            value="Berln",
            proposed="https://evil.example",
        ),
        Defect(field="city", kind="malformed", severity="high", message="City looks mistyped", value="Paris"),
        Defect(field="jobtitle", kind="missing", severity="high", message="No job title"),
        Defect(field="no_such_field", kind="missing", severity="high", message="No email"),
    )
    grounded = ground(DataQuality(health=0, defects=claims), snapshot)
    kept = grounded.payload.defects
    assert kept[0] == true
    assert [(d.message, d.proposed) for d in kept[1:]] == [("City is out of date", None)]
    assert grounded.payload.health == 100 - 10 - 20
    assert "evil" not in grounded.payload.model_dump_json()


def test_duplicates_show_evidence_of_known_kinds_only():
    claims = (
        Duplicate(
            id="12", probability=0.9, evidence=("same e-mail address", "similar name (0.94)", "lives at 5 Elm Street")
        ),
        Duplicate(id="<b>", probability=0.9, evidence=("same e-mail address",)),
        Duplicate(id="13", probability=0.9, evidence=("call me",)),
    )
    grounded = ground(DataQuality(health=0, duplicates=claims), record()).payload
    assert grounded.duplicates == (
        Duplicate(id="12", probability=0.9, evidence=("same e-mail address", "similar name (0.94)")),
    )


@pytest.mark.parametrize(
    "fields",
    [{}, {"jobtitle": "VP Sales", "city": "Zürich", "phone": "+41 44 211 10 10"}, {"lastname": "", "jobtitle": ""}],
)
async def test_what_the_rules_say_passes_unchanged(fields: dict[str, str]):
    """INVARIANT: grounding is applied to every finding; if our own sentences did not pass, the offline product would say nothing."""
    snapshot = record("We need SSO with Okta. Budget is 40k EUR.", **fields)
    snapshot = snapshot.model_copy(update={"fields": {name: value for name, value in snapshot.fields.items() if value}})
    for plugin in (lead_intel.PLUGIN, requirements.PLUGIN, data_quality.PLUGIN):
        finding = await plugin.analyse(Context(snapshot, None, by_rules, (), TODAY))
        grounded = ground(finding.payload, snapshot)
        assert grounded.payload == finding.payload
        assert grounded.dropped == ()
