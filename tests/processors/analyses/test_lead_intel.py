"""Lead intelligence with the offline rules: sensible to a sales representative, in both CRMs, and honest about gaps."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from infra.crm.concepts import MAPS
from llm_gateway.prompt import Answer
from llm_gateway.shape import shape_of
from processors.analyses.analysis import RULES_MODEL, Context
from processors.analyses.lead_intel import PLUGIN
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.lead_intel.opinions import opinion
from processors.analyses.lead_intel.scoring import bounded, expected, grade_of
from processors.analyses.lead_intel.view import View, business_day, questions
from processors.grounding import ground
from schemas.insight import Insight, LeadIntel, Usage, Version
from schemas.record import Note, RecordSnapshot

AT = datetime(2026, 11, 18, 9, tzinfo=UTC)
TODAY = date(2026, 11, 20)


def snap(crm: str, object_: str, notes=(), changed=(), **values: str) -> RecordSnapshot:
    concepts = MAPS[crm][object_]
    return RecordSnapshot(
        tenant="t", account="a", object=object_, id="1", crm=crm, fields={concepts[c]: v for c, v in values.items()}, concepts=concepts,
        known_fields=tuple(concepts.values()), notes=tuple(notes), changed=changed, modified_at=AT, read_at=AT,
    )  # fmt: skip


async def ask(prompt):
    return Answer(
        prompt.rules(prompt.facts), "offline-rules", "offline", Usage(), cached=False, prompt_version=prompt.version
    )


async def told(snapshot: RecordSnapshot, previous: Insight | None = None, model: str = "offline-rules") -> LeadIntel:
    finding = await PLUGIN.analyse(Context(snapshot, previous, ask, (), TODAY))
    assert finding.model == model
    payload = ground(finding.payload, snapshot, previous=previous).payload
    assert isinstance(payload, LeadIntel)
    return payload


def insight(payload: LeadIntel) -> Insight:
    return Insight(
        tenant="t", account="a", object="contact", id="1", crm="hubspot", analysis="lead_intel", version=Version(1, 1, 1), as_of=AT,
        analyzed_at=AT, model="offline-rules", payload=payload,
    )  # fmt: skip


BUYER = {
    "hubspot": snap(
        "hubspot",
        "contact",
        first_name="Ana",
        last_name="Silva",
        job_title="VP Operations",
        company_name="Brightwater",
        email="ana@brightwater.io",
        phone="+351 213 420 000",
        lifecycle_stage="salesqualifiedlead",
        lead_status="CONNECTED",
        last_contacted_at="2026-11-16T10:00:00Z",
    ),
    "salesforce": snap(
        "salesforce",
        "lead",
        first_name="Ana",
        last_name="Silva",
        job_title="VP Operations",
        company_name="Brightwater",
        email="ana@brightwater.io",
        phone="+351 213 420 000",
        lead_status="Working - Contacted",
        lead_source="Partner Referral",
        rating="Hot",
        last_activity_at="2026-11-16",
    ),
}
STRANGER = {
    "hubspot": snap("hubspot", "contact", first_name="Bo", last_name="Ek", job_title="Intern", email="bo@gmail.com", lifecycle_stage="subscriber", lead_status="UNQUALIFIED"),
    "salesforce": snap("salesforce", "lead", first_name="Bo", last_name="Ek", job_title="Intern", email="bo@gmail.com", lead_status="Closed - Not Converted", lead_source="Purchased List", company_name="X"),
}  # fmt: skip


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
async def test_a_ready_buyer_scores_high_and_a_stranger_low_in_both_crms(crm: str):
    buyer, stranger = await told(BUYER[crm]), await told(STRANGER[crm])
    assert buyer.grade == "A"
    assert stranger.grade == "E"
    assert "Decision maker" in [factor.label for factor in buyer.factors]
    assert "Ana Silva, VP Operations at Brightwater" in buyer.summary
    assert "Ana Silva" in buyer.next_action.text
    assert stranger.next_action.due > buyer.next_action.due


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"deal_stage": "contractsent", "close_date": "2026-12-10"}, "contract"),
        ({"deal_stage": "contractsent", "close_date": "2026-10-10"}, "new close date"),
        ({"deal_stage": "closedwon", "close_date": "2026-10-10"}, "onboarding"),
        ({"deal_stage": "closedlost"}, "why it was lost"),
        ({"deal_stage": "qualifiedtobuy"}, "presentation"),
        ({"deal_stage": "12345678"}, "budget"),
    ],
)
async def test_the_next_action_of_a_deal_follows_from_its_stage_and_dates(values: dict[str, str], words: str):
    payload = await told(snap("hubspot", "deal", deal_name="Rollout", **values))
    assert words in payload.next_action.text
    assert payload.next_action.due.weekday() < 5
    assert payload.next_action.due >= TODAY


async def test_an_unanswered_email_of_the_customer_comes_first():
    mail = Note(id="1", kind="email", at=AT, author="INCOMING_EMAIL ana@brightwater.io", text="When can we start?")
    payload = await told(snap("hubspot", "deal", [mail], deal_name="Rollout", deal_stage="contractsent", amount="5000"))
    assert payload.next_action.text == "Answer the customer's latest e-mail"


async def test_too_little_data_is_said_out_loud_and_names_what_would_help():
    payload = await told(snap("hubspot", "contact", last_name="Ek"), model=RULES_MODEL)
    assert (payload.status, payload.score, payload.grade) == ("not_enough_data", None, None)
    assert {"Job title", "E-mail", "Phone"} <= set(payload.missing)


NOTE = Note(id="1", kind="note", at=AT, text="Wants to buy before Christmas.")


@pytest.mark.parametrize(
    ("record", "asks"),
    [
        (snap("hubspot", "contact"), False),
        (snap("hubspot", "contact", first_name="Ida", last_name="Ek", city="Oslo"), False),
        (snap("hubspot", "contact", last_name="Ek", city="Oslo", country="Norway"), True),
        (snap("hubspot", "contact", notes=(NOTE,), last_name="Ek"), True),
        (snap("hubspot", "contact", last_name="Ek").model_copy(update={"feedback": {"feedback": "up"}}), True),
        (snap("hubspot", "deal", deal_name="Boats", description="Three boats for the coast guard."), True),
        (snap("hubspot", "deal", amount="5"), False),
        (snap("hubspot", "deal", deal_name="Boats", amount="5"), True),
    ],
)
async def test_a_record_that_no_answer_could_score_costs_no_question(record: RecordSnapshot, asks: bool):
    asked = []

    async def counting(prompt):
        asked.append(prompt)
        return await ask(prompt)

    finding = await PLUGIN.analyse(Context(record, None, counting, (), TODAY))
    assert bool(asked) is asks
    assert finding.payload.next_action
    if not asks:
        assert (finding.payload.status, finding.model) == ("not_enough_data", RULES_MODEL)


async def test_what_changed_since_the_last_insight_is_told_with_both_values():
    before = await told(
        snap("hubspot", "contact", last_name="Ek", job_title="Manager", lifecycle_stage="subscriber", email="b@x.se")
    )
    after = snap(
        "hubspot",
        "contact",
        changed=("jobtitle", "lifecyclestage", "phone"),
        last_name="Ek",
        job_title="CEO",
        lifecycle_stage="opportunity",
        email="b@x.se",
        phone="+46 8 440 12 34",
    )
    payload = await told(after, insight(before))
    assert payload.changes[0] == f"Score {before.score} → {payload.score}, grade {before.grade} → {payload.grade}"
    assert "Job title: Manager → CEO" in payload.changes
    assert "Lifecycle stage: subscriber → opportunity" in payload.changes
    assert "Phone is now +46 8 440 12 34" in payload.changes


async def test_the_first_insight_tells_of_no_change():
    assert (await told(BUYER["hubspot"])).changes == ()


def test_inputs_hold_what_is_read_and_nothing_volatile():
    """INVARIANT: inputs decide whether money is spent. Today's date or our own fields in them would renew every insight daily."""
    base = BUYER["hubspot"]
    noise = {**base.fields, "last_synced_at": "2026-11-19T00:00:00Z", "hookline_score": "99"}
    assert PLUGIN.inputs(base) == PLUGIN.inputs(
        base.model_copy(update={"fields": noise, "modified_at": datetime(2027, 1, 1, tzinfo=UTC)})
    )
    assert PLUGIN.inputs(base) != PLUGIN.inputs(base.model_copy(update={"fields": {**base.fields, "jobtitle": "CEO"}}))


def test_the_same_snapshot_asks_the_same_question():
    """INVARIANT: a replay of unchanged records must hit the gateway's cache."""
    assert PLUGIN.prompt(BUYER["hubspot"]) == PLUGIN.prompt(BUYER["hubspot"])


def test_the_answer_can_be_asked_for_in_strict_mode():
    assert shape_of(LeadIntelAnswer).strict is not None


@pytest.mark.parametrize(
    ("today", "days", "due"),
    [
        ("2026-11-20", 1, "2026-11-23"),
        ("2026-11-21", 0, "2026-11-23"),
        ("2026-11-19", 1, "2026-11-20"),
        ("2026-11-20", 10_000, "2027-02-12"),
        ("2026-11-20", -5, "2026-11-20"),
    ],
)
def test_due_dates_are_business_days_within_reach(today: str, days: int, due: str):
    assert business_day(date.fromisoformat(today), days) == date.fromisoformat(due)


def test_a_model_may_weigh_but_not_overstate():
    view = expected(BUYER["hubspot"], "job_title", "VP Operations")
    assert view is not None
    assert bounded(25, view) == 23
    assert bounded(25, None) == 4
    assert bounded(-3, view) == 1


@pytest.mark.parametrize(
    ("score", "grade"),
    [(100, "A"), (80, "A"), (79, "B"), (60, "B"), (40, "C"), (39, "D"), (20, "D"), (19, "E"), (0, "E")],
)
def test_grades(score: int, grade: str):
    assert grade_of(score) == grade


@pytest.mark.parametrize(
    ("concept", "value", "direction"),
    [
        ("job_title", "Geschäftsführerin", "up"), ("job_title", "Assistant to the CEO", "down"), ("job_title", "Werkstudent Vertrieb", "down"),
        ("email", "x@acme.de", "up"), ("email", "x@gmail.com", "down"), ("email", "x(at)acme", "down"), ("amount", "0", "down"),
        ("close_date", "2026-11-01", "down"), ("close_date", "1796083200000", "up"), ("employees", "1,200", "up"), ("opted_out", "true", "down"),
    ],
)  # fmt: skip
def test_opinions(concept: str, value: str, direction: str):
    found = opinion(concept, value, crm="hubspot", on=AT.date(), object="deal")
    assert found is not None
    assert found.direction == direction


@pytest.mark.parametrize(
    ("crm", "value", "direction"),
    [("hubspot", "0.9", "up"), ("salesforce", "0.9", "down"), ("salesforce", "90", "up"), ("hubspot", "0.1", "down")],
)
def test_a_probability_is_read_on_its_crms_own_scale(crm: str, value: str, direction: str):
    assert opinion("probability", value, crm=crm, on=AT.date(), object="deal").direction == direction


# Between two questions


def by_a_model(payload: LeadIntel) -> Insight:
    """As a model said it: other labels and weights than the rules', within what values can carry, and words of its own."""
    factors = tuple(one.model_copy(update={"weight": one.weight + 1}) for one in payload.factors)
    return insight(payload.model_copy(update={"factors": factors, "summary": "Ana decides. They have talked."}))


async def between(snapshot: RecordSnapshot, previous: Insight | None) -> LeadIntel:
    async def by_rules(prompt):
        return Answer(prompt.rules(prompt.facts), "rules", "rules", Usage(), cached=False, prompt_version="1")

    context = Context(snapshot, previous, by_rules, (), TODAY)
    finding = PLUGIN.carried(await PLUGIN.analyse(context), context)
    payload = ground(finding.payload, snapshot, previous=previous).payload
    assert isinstance(payload, LeadIntel)
    return payload


def changed(snapshot: RecordSnapshot, **values: str) -> RecordSnapshot:
    fields = {snapshot.concepts[concept]: value for concept, value in values.items()}
    return snapshot.model_copy(update={"fields": {**snapshot.fields, **fields}, "changed": tuple(fields)})


async def test_between_two_questions_what_still_holds_stays_the_models():
    first = by_a_model(await told(BUYER["hubspot"]))
    now = await between(changed(BUYER["hubspot"], city="Porto"), first)
    assert now.factors == first.payload.factors
    assert now.summary == "Ana decides. They have talked."


async def test_between_two_questions_a_changed_value_is_judged_by_experience_and_the_rest_stays():
    first = by_a_model(await told(BUYER["hubspot"]))
    now = await between(changed(BUYER["hubspot"], lifecycle_stage="subscriber"), first)
    stage = BUYER["hubspot"].concepts["lifecycle_stage"]
    before = {one.evidence.field: one for one in first.payload.factors}
    after = {one.evidence.field: one for one in now.factors}
    assert after[stage].direction == "down"
    assert after[stage].evidence.value == "subscriber"
    assert {field: one for field, one in after.items() if field != stage} == {
        field: one for field, one in before.items() if field != stage
    }
    assert now.score < first.payload.score
    assert now.summary != first.payload.summary, "the model's words were about the record as it was"


async def test_a_value_of_which_experience_says_the_same_keeps_its_reason():
    first = by_a_model(await told(BUYER["hubspot"]))
    now = await between(changed(BUYER["hubspot"], email="a.silva@brightwater.io"), first)
    email = BUYER["hubspot"].concepts["email"]
    (reason,) = (one for one in now.factors if one.evidence.field == email)
    assert reason.evidence.value == "a.silva@brightwater.io"
    as_it_was = await between(BUYER["hubspot"], first)
    assert (now.score, now.summary) == (as_it_was.score, first.payload.summary)


async def test_a_record_of_which_nothing_was_said_yet_is_judged_by_rules():
    assert (await between(BUYER["hubspot"], None)).factors == (await told(BUYER["hubspot"])).factors


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
def test_a_record_is_seen_at_once_as_its_questions_tell_of_it(crm):
    notes = [
        Note(id="1", kind="note", at=AT, text="first", author="ours"),
        Note(id="3", kind="email", at=AT, text="third", author="Incoming: ana@x.de"),
        Note(id="2", kind="email", at=AT, text="second", author="ours"),
    ]
    for given in (
        snap(crm, "contact", notes, first_name=" Ana ", last_name="Silva", job_title="VP", email="ana@x.de"),
        snap(crm, "contact", notes[:1], last_name="  "),
        snap(crm, "deal", deal_name="Rollout", amount="5000", close_date="2026-12-20"),
        snap(crm, "deal", notes),
    ):
        assert View.on(given) == View.of(questions(given))
