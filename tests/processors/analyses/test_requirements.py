"""Requirements with the offline rules: quotes are verbatim, what clashes is told, small talk is left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.crm.concepts import MAPS
from llm_gateway.prompt import Answer
from llm_gateway.shape import shape_of
from processors.analyses.analysis import RULES_MODEL, Context
from processors.analyses.requirements import PLUGIN
from processors.analyses.requirements.answer import ProposedRequirement, RequirementsAnswer
from processors.analyses.requirements.rules import money, statement
from processors.analyses.requirements.texts import sentences
from processors.grounding import ground
from schemas.insight import Insight, Requirement, Requirements, Usage, Version
from schemas.record import Note, RecordSnapshot

AT = datetime(2026, 11, 1, 9, tzinfo=UTC)


def deal(*texts: str, crm: str = "hubspot", **fields: str) -> RecordSnapshot:
    notes = tuple(Note(id=str(i), kind="note", at=AT + timedelta(days=i), text=text) for i, text in enumerate(texts))
    concepts = MAPS[crm]["deal"]
    return RecordSnapshot(
        tenant="t",
        account="a",
        object="deal",
        id="1",
        crm=crm,
        fields=fields,
        concepts=concepts,
        notes=notes,
        modified_at=AT,
        read_at=AT,
    )


async def told(snapshot: RecordSnapshot) -> Requirements:
    async def ask(prompt):
        return Answer(
            prompt.rules(prompt.facts), "offline-rules", "offline", Usage(), cached=False, prompt_version=prompt.version
        )

    finding = await PLUGIN.analyse(Context(snapshot, None, ask, (), date(2026, 11, 20)))
    payload = ground(finding.payload, snapshot).payload
    assert isinstance(payload, Requirements)
    return payload


@pytest.mark.parametrize(
    ("sentence", "kind", "priority"),
    [
        ("We need SSO via Okta before rollout.", "security", "must"),
        ("It would be nice to have a mobile app.", "functional", "could"),
        ("They would like an integration with SAP.", "integration", "should"),
        ("Budget is around 40k EUR for the first year.", "budget", "should"),
        ("Go-live must be by 1 March 2027.", "timeline", "must"),
        ("They expect 24/7 support with a response time of two hours.", "support", "should"),
        ("The CFO asked for a discount and monthly invoices.", "commercial", "should"),
        ("Wir brauchen eine Schnittstelle zu DATEV.", "integration", "must"),
        ("Die Daten müssen verschlüsselt gespeichert werden.", "security", "must"),
        ("Das Budget liegt bei 30.000 EUR.", "budget", "should"),
        ("Der Start ist für Q2 2027 geplant.", "timeline", "should"),
        ("They cannot use any cloud hosting.", "security", "must"),
    ],
)
def test_sentences_that_ask_for_something(sentence: str, kind: str, priority: str):
    found = statement(sentence, "note:1")
    assert found is not None
    assert (found.kind, found.priority) == (kind, priority)


@pytest.mark.parametrize(
    "sentence",
    [
        "Thanks for the call yesterday.",
        "Let me know if you need anything.",
        "Left a voicemail, will try again.",
        "Spoke with Ana about the weather.",
        "Kind regards, Ana",
        "I need to check with my colleague.",
        "Vielen Dank für das Gespräch.",
    ],
)
def test_small_talk_asks_for_nothing(sentence: str):
    assert statement(sentence, "note:1") is None


async def test_quotes_are_verbatim_with_source_and_time():
    payload = await told(
        deal("Hi!  We need   SSO via Okta.\n- Data must be hosted in the EU", description="Must support 50 users.")
    )
    texts = {
        "note:0": "Hi!  We need   SSO via Okta.\n- Data must be hosted in the EU",
        "field:description": "Must support 50 users.",
    }
    assert len(payload.items) == 3
    assert all(item.quote in texts[item.source] for item in payload.items)
    assert payload.items[-1].said_at == AT


async def test_a_changed_budget_and_date_clash_and_the_earlier_is_superseded():
    payload = await told(
        deal(
            "Budget is 40k EUR. Go-live must be by 2027-03-01.",
            "The budget was cut to 25,000 EUR. Go-live moved to 2027-06-01.",
        )
    )
    assert {clash.about for clash in payload.contradictions} == {"Budget", "Timeline"}
    assert [item.status for item in payload.items] == ["superseded", "superseded", "open", "open"]
    assert "Which budget holds now?" in payload.open_questions


async def test_a_sentence_that_asks_for_two_things_gives_two_requirements():
    payload = await told(deal("They must have single sign-on, and the budget is capped at 50,000 EUR."))
    assert [(item.kind, item.quote) for item in payload.items] == [
        ("security", "They must have single sign-on"),
        ("budget", "the budget is capped at 50,000 EUR."),
    ]


async def test_three_budgets_in_a_row_clash_in_a_chain():
    payload = await told(deal("Budget is 40k EUR.", "Budget is 30k EUR.", "Budget is 20k EUR."))
    assert [(clash.first_source, clash.second_source) for clash in payload.contradictions] == [
        ("note:0", "note:1"),
        ("note:1", "note:2"),
    ]
    assert [item.status for item in payload.items] == ["superseded", "superseded", "open"]


async def test_must_against_must_not_clashes():
    payload = await told(deal("Data must be hosted in the cloud.", "They cannot use cloud hosting for their data."))
    assert [clash.about for clash in payload.contradictions] == ["Security"]


async def test_what_is_no_longer_wanted_is_no_requirement():
    payload = await told(deal("We need a mobile app with offline mode.", "They no longer need the mobile app."))
    assert [(item.quote, item.status) for item in payload.items] == [
        ("We need a mobile app with offline mode.", "superseded")
    ]


async def test_what_is_asked_for_again_after_it_was_dropped_stands():
    wish, withdrawn = "We must have an audit trail for every change.", "The audit trail for every change was dropped."
    payload = await told(deal(wish, withdrawn, f"{wish} Really.", wish))
    assert [(item.source, item.status) for item in payload.items] == [("note:0", "superseded"), ("note:2", "open")]
    assert [item.status for item in (await told(deal(wish, withdrawn, wish, withdrawn))).items] == ["superseded"] * 2


async def test_two_amounts_for_two_things_do_not_clash():
    payload = await told(deal("We need training for about 5,000 EUR.", "Our budget for licences is 40,000 EUR."))
    assert payload.contradictions == ()


async def test_what_a_mail_quotes_from_an_earlier_one_is_not_read_again():
    payload = await told(deal("We need SSO.\nOn 3 Nov 2026 Ana Silva wrote:\nWe must have a discount of 10 percent."))
    assert [item.quote for item in payload.items] == ["We need SSO."]


async def test_a_record_without_texts_asks_no_model():
    async def ask(_prompt):
        raise AssertionError("asked")

    finding = await PLUGIN.analyse(Context(deal(amount="5"), None, ask, (), date(2026, 11, 20)))
    assert finding.model == RULES_MODEL
    assert ground(finding.payload, deal()).payload == finding.payload


async def test_questions_name_what_is_not_known_yet():
    payload = await told(deal("We need an integration with SAP."))
    assert "What budget is set aside for this?" in payload.open_questions
    assert "By when does it have to be in place?" in payload.open_questions


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("about 40k EUR", 40_000),
        ("€ 15.000,50", 15_000.5),
        ("$1.2 million", 1_200_000),
        ("CHF 90'000", 90_000),
        ("25,000 dollars", 25_000),
        ("budget of 30000", 30_000),
        ("50 users", None),
        ("by 2027", None),
    ],
)
def test_money(text: str, amount: float | None):
    assert money(text) == amount


def test_sentences_keep_abbreviations_and_decimals_whole():
    assert list(sentences("We need it, e.g. SAP. Budget is 1.5 million EUR. Done!")) == [
        "We need it, e.g. SAP.",
        "Budget is 1.5 million EUR.",
    ]


def test_only_the_texts_are_read_one_by_one():
    one, other = deal("We need SSO.", amount="5"), deal("We need SSO.", amount="6")
    assert (PLUGIN.inputs(one), PLUGIN.pieces(one)) == (PLUGIN.inputs(other), PLUGIN.pieces(other))
    assert PLUGIN.pieces(one) != PLUGIN.pieces(deal("We need SSO!", amount="5"))


def test_the_answer_can_be_asked_for_in_strict_mode():
    assert shape_of(RequirementsAnswer).strict is not None


# What was read once

NOTHING_ASKED = Answer(
    RequirementsAnswer(items=[], contradictions=[], open_questions=[]), "m", "p", Usage(), False, "3"
)


def said(payload: Requirements, model: str = "a-model") -> Insight:
    return Insight(
        tenant="t", account="a", object="deal", id="1", crm="hubspot", analysis="requirements", version=Version(1, 1, 1),
        as_of=AT, analyzed_at=AT, model=model, prompt_version="3", payload=payload,
    )  # fmt: skip


async def told_after(
    before: RecordSnapshot, now: RecordSnapshot, previous: Requirements, shown: list[dict] | None = None
) -> Requirements:
    """What is said of `now` where `previous` was said of `before`; `shown`: gets the facts of each question."""

    async def ask(prompt):
        if shown is not None:
            shown.append(dict(prompt.facts))
        return Answer(
            prompt.rules(prompt.facts), "offline-rules", "offline", Usage(), cached=False, prompt_version=prompt.version
        )

    known = frozenset(name for name, piece in PLUGIN.pieces(now).items() if PLUGIN.pieces(before).get(name) == piece)
    finding = await PLUGIN.analyse(Context(now, said(previous), ask, (), date(2026, 11, 20), known))
    payload = ground(finding.payload, now).payload
    assert isinstance(payload, Requirements)
    return payload


OLD = ("We need SSO via Okta before rollout.", "The budget is 40,000 EUR.", "Thanks for the call.")
NEW = "Our budget was cut to 25,000 EUR, and we must have a mobile app."


async def test_only_a_new_text_is_read_and_what_was_found_before_stands_beside_it():
    before, now, shown = deal(*OLD), deal(*OLD, NEW), []
    payload = await told_after(before, now, await told(before), shown)
    assert [text["source"] for text in shown[0]["texts"]] == ["note:3"]
    assert [found["quote"] for found in shown[0]["earlier"]["found"]] == [
        "We need SSO via Okta before rollout.",
        "The budget is 40,000 EUR.",
    ]
    assert [text["source"] for text in shown[0]["earlier"]["context"]] == ["note:1", "note:2"]
    whole = await told(now)
    assert payload == whole
    assert [item.status for item in payload.items] == ["open", "superseded", "open", "open"], "a budget came"


async def test_from_a_changed_text_on_all_is_read_again():
    before, shown = deal(*OLD), []
    now = deal(OLD[0], "The budget is 30,000 EUR.", OLD[2])
    payload = await told_after(before, now, await told(before), shown)
    assert [text["source"] for text in shown[0]["texts"]] == ["note:1", "note:2"]
    assert payload == await told(now)


async def test_where_texts_were_only_taken_away_nobody_is_asked():
    before, now = deal(*OLD), deal(*OLD[:2])
    found, shown = await told(before), []
    payload = await told_after(before, now, found, shown)
    assert (shown, payload) == ([], await told(now))
    nothing = await told_after(before, deal(OLD[2]).model_copy(update={"notes": before.notes[2:]}), found, shown)
    assert (shown, nothing.items, nothing.open_questions) == ([], (), ()), "nor is anything left to ask the customer"


async def test_a_text_that_says_the_same_as_one_that_went_is_read_again():
    """INVARIANT: no quote moves to a text that may mean something else by it."""
    said_so = "We must have SSO via Okta for all users."
    fragment = Requirement(
        text="SSO via Okta", kind="security", priority="must", source="note:0", quote="SSO via Okta", said_at=AT
    )
    before = deal(said_so, "SSO via Okta is no longer needed, we dropped it.")
    for now in (
        before.model_copy(update={"notes": before.notes[1:]}),
        deal("Call went fine.", before.notes[1].text),
    ):
        payload = await told_after(before, now, Requirements(items=(fragment,)))
        assert payload.items == (), "it is no longer needed"
    twice = deal("We need SSO via Okta.", "- We need SSO via Okta\n- Thanks")
    left = twice.model_copy(update={"notes": twice.notes[1:]})
    assert [item.source for item in (await told_after(twice, left, await told(twice))).items] == ["note:1"]


async def test_what_is_left_of_a_contradiction_is_read_again():
    chain = deal("The budget is 40,000 EUR.", "The budget is 30,000 EUR.", "The budget is 25,000 EUR.")
    now = chain.model_copy(update={"notes": (chain.notes[0], chain.notes[2])})
    payload = await told_after(chain, now, await told(chain))
    assert [item.status for item in payload.items] == ["superseded", "open"]
    assert payload == await told(now)
    before = deal("We need SSO via Okta for all users.", "SSO via Okta is no longer needed.")
    typo = deal("We need SSO via Okta for all users!", before.notes[1].text)
    assert await told_after(before, typo, await told(before)) == await told(typo)


async def test_a_text_that_comes_late_is_read_with_all_that_follow_it():
    whole = deal("We need SSO via Okta for all users.", "SSO via Okta is no longer needed.")
    before = whole.model_copy(update={"notes": whole.notes[1:]})
    shown: list[dict] = []
    assert await told_after(before, whole, await told(before), shown) == await told(whole)
    assert len(shown[0]["texts"]) == 2


async def test_a_thread_that_repeats_its_history_lists_each_wish_once():
    wish, other = "We need SSO via Okta.", "Data must be hosted in the EU."
    before, now = deal(wish), deal(wish, f"{other}\n> {wish}")

    async def lists_what_it_sees(prompt):
        found = [
            ProposedRequirement(text=quote, kind="other", priority="must", quote=quote, source=text["source"])
            for text in prompt.facts["texts"]
            for quote in (other, wish)
            if quote in text["text"]
        ]
        return replace(NOTHING_ASKED, value=NOTHING_ASKED.value.model_copy(update={"items": found}))

    context = Context(
        now, said(await told(before)), lists_what_it_sees, (), date(2026, 11, 20), frozenset(PLUGIN.pieces(before))
    )
    finding = await PLUGIN.analyse(context)
    assert [(item.source, item.quote) for item in finding.payload.items] == [("note:0", wish), ("note:1", other)]


@pytest.mark.parametrize("model", [RULES_MODEL, "offline-rules"])
async def test_what_rules_read_a_model_reads_again(model: str):
    now, shown = deal(*OLD, NEW), []

    async def ask(prompt):
        shown.append(prompt.facts)
        return NOTHING_ASKED

    known = frozenset(PLUGIN.pieces(deal(*OLD)))
    await PLUGIN.analyse(Context(now, said(await told(deal(*OLD)), model), ask, (), date(2026, 11, 20), known))
    assert len(shown[0]["texts"]) == 4


async def test_where_a_long_list_was_cut_and_some_of_it_goes_all_is_read_again():
    areas = ("sales", "stock", "returns", "quality", "payroll")
    texts = [f"We need a report about {area} in region {letter}." for area in areas for letter in "abcdefgh"]
    before = deal(*texts[:39])
    now = deal(*texts[:10])
    payload = await told_after(before, now, await told(before))
    assert len(payload.items) == len((await told(now)).items) == 10


async def test_words_about_a_text_that_was_not_shown_are_not_taken():
    """INVARIANT: what stands of a text that was not shown is what was found when it was."""
    before, now = deal(*OLD), deal(*OLD, NEW)
    made_up = ProposedRequirement(
        text="Thanks", kind="other", priority="must", quote="Thanks for the call.", source="note:2"
    )

    async def ask(_prompt):
        return replace(NOTHING_ASKED, value=NOTHING_ASKED.value.model_copy(update={"items": [made_up]}))

    known = frozenset(PLUGIN.pieces(before))
    finding = await PLUGIN.analyse(Context(now, said(await told(before)), ask, (), date(2026, 11, 20), known))
    assert {item.source for item in finding.payload.items} == {"note:0", "note:1"}


async def test_without_an_earlier_insight_everything_is_read():
    shown: list[dict] = []

    async def ask(prompt):
        shown.append(dict(prompt.facts))
        return NOTHING_ASKED

    now = deal(*OLD)
    for previous, known in ((None, frozenset(PLUGIN.pieces(now))), (said(Requirements()), frozenset())):
        await PLUGIN.analyse(Context(now, previous, ask, (), date(2026, 11, 20), known))
    assert [len(facts["texts"]) for facts in shown] == [3, 3]
    assert all("earlier" not in facts for facts in shown), "asked in the words of a first question"


SENTENCES = (
    "We need SSO via Okta.",
    "Budget is 40k EUR for the first year.",
    "The budget was cut to 25,000 EUR.",
    "Go-live must be by 1 March 2027.",
    "Go-live moved to 2027-06-01.",
    "They would like an integration with SAP.",
    "Data must be hosted in the EU.",
    "Left a voicemail, will try again.",
    "It would be nice to have a mobile app.",
    "We must have an audit trail for every change.",
    "SSO via Okta is no longer needed.",
    "The audit trail for every change was dropped.",
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 5), st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=2, unique=True), max_size=6
        ),
        min_size=2,
        max_size=6,
    )
)
def test_reading_piece_by_piece_finds_what_reading_all_finds(history: list[dict[int, list[str]]]):
    """Texts come, change and go in any order: the same wishes are found, and the same of them stand (by rules)."""

    def record(texts: dict[int, list[str]]) -> RecordSnapshot:
        notes = tuple(
            Note(id=str(id_), kind="note", at=AT + timedelta(days=id_), text=" ".join(lines))
            for id_, lines in sorted(texts.items())
        )
        return deal().model_copy(update={"notes": notes})

    async def play() -> None:
        before, found = record(history[0]), await told(record(history[0]))
        for texts in history[1:]:
            now = record(texts)
            found = await told_after(before, now, found)
            whole = await told(now)
            assert {(item.quote, item.status) for item in found.items} == {
                (item.quote, item.status) for item in whole.items
            }
            sources = {text["source"]: text["text"] for text in PLUGIN.prompt(now).facts["texts"]}
            assert all(item.quote in sources[item.source] for item in found.items)
            before = now

    asyncio.run(play())


# Between two questions


async def between(snapshot: RecordSnapshot, previous: Requirements, as_of: datetime) -> Requirements:
    async def by_rules(prompt):
        return Answer(prompt.rules(prompt.facts), RULES_MODEL, "rules", Usage(), cached=False, prompt_version="1")

    before = Insight(
        tenant="t", account="a", object="deal", id="1", crm="hubspot", analysis="requirements", version=Version(1, 1, 1),
        as_of=as_of, analyzed_at=as_of, model="a-model", payload=previous,
    )  # fmt: skip
    context = Context(snapshot, before, by_rules, (), date(2026, 11, 20))
    finding = PLUGIN.carried(await PLUGIN.analyse(context), context)
    payload = ground(finding.payload, snapshot).payload
    assert isinstance(payload, Requirements)
    return payload


async def test_between_two_questions_the_models_findings_stay_and_rules_read_what_is_new():
    """What a model left out of an old text does not come back, and what it found there does not go."""
    old = (
        "We need SSO via Okta. The colour of the door matters to the board.",
        "They would like an integration with SAP.",
    )
    by_a_model = Requirement(
        text="The colour of the door matters to the board", kind="other", priority="should", source="note:0",
        quote="The colour of the door matters to the board.", said_at=AT,
    )  # fmt: skip
    now = await between(
        deal(*old, "Go-live must be by 1 March 2027."), Requirements(items=(by_a_model,)), AT + timedelta(days=1)
    )
    assert [item.quote for item in now.items] == [by_a_model.quote, "Go-live must be by 1 March 2027."]


async def test_between_two_questions_what_no_text_says_any_more_is_gone():
    item = Requirement(
        text="We need SSO via Okta", kind="security", priority="must", source="note:0", quote="We need SSO via Okta.", said_at=AT
    )  # fmt: skip
    now = await between(deal("They will call again."), Requirements(items=(item,)), AT + timedelta(days=9))
    assert now.items == ()
