"""Data quality: what is found, what is proposed, and what is left alone."""

from __future__ import annotations

from datetime import UTC, date, datetime

import phonenumbers
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from bench import defects as bench
from infra.crm.concepts import MAPS
from processors.analyses.analysis import RULES_MODEL, Context
from processors.analyses.data_quality import PLUGIN, defects_of
from processors.analyses.data_quality.formats import (
    parsed_phone,
    plainly_valid,
    repaired_date,
    repaired_email,
    valid_phone,
)
from processors.matching import Match
from schemas.insight import Defect
from schemas.record import Note, RecordSnapshot

AT = datetime(2026, 11, 18, 9, tzinfo=UTC)
TODAY = date(2026, 11, 20)


def snap(crm: str, object_: str, notes=(), **values: str) -> RecordSnapshot:
    concepts = MAPS[crm][object_]
    return RecordSnapshot(
        tenant="t", account="a", object=object_, id="1", crm=crm, fields={concepts[c]: v for c, v in values.items() if v}, concepts=concepts,
        known_fields=tuple(concepts.values()), notes=tuple(notes), modified_at=AT, read_at=AT,
    )  # fmt: skip


GOOD = {
    "first_name": "Ana", "last_name": "Silva", "email": "ana@brightwater.io", "phone": "+351 21 342 1234", "job_title": "VP Operations",
    "company_name": "Brightwater", "country": "Portugal", "city": "Lisboa", "lifecycle_stage": "lead", "lead_status": "OPEN",
    "last_contacted_at": "2026-11-10T08:00:00Z", "created_at": "2026-10-01T08:00:00Z",
}  # fmt: skip
DEAL = {
    "deal_name": "Rollout",
    "amount": "5000",
    "close_date": "2026-12-20",
    "deal_stage": "Qualification",
    "next_step": "Call",
    "created_at": "2026-10-01T08:00:00.000+0000",
    "probability": "30",
}


def found(crm: str, object_: str, notes=(), **values: str) -> dict[tuple[str, str], Defect]:
    snapshot = snap(crm, object_, notes, **values)
    concept_of = {field: concept for concept, field in snapshot.concepts.items()}
    return {(concept_of[d.field], d.kind): d for d in defects_of(snapshot, TODAY)}


def test_good_records_have_nothing_to_mend():
    assert found("hubspot", "contact", **GOOD) == {}
    assert found("salesforce", "deal", **DEAL) == {}


@pytest.mark.parametrize(
    ("change", "concept", "kind", "proposed"),
    [
        ({"email": ""}, "email", "missing", None),
        ({"job_title": ""}, "job_title", "missing", None),
        ({"email": "ana.brightwater.io"}, "email", "malformed", None),
        ({"email": "ana@brightwater,io"}, "email", "malformed", "ana@brightwater.io"),
        ({"email": "ana at brightwater.io"}, "email", "malformed", "ana@brightwater.io"),
        ({"email": "ana@gmial.com"}, "email", "misspelt", "ana@gmail.com"),
        ({"email": "ana@brightwater.con"}, "email", "misspelt", "ana@brightwater.com"),
        ({"email": "ana@brightwatr.io", "website": "https://brightwater.io"}, "email", "misspelt", "ana@brightwater.io"),
        ({"email": "ana@other.pt", "website": "https://brightwater.io"}, "email", "contradictory", None),
        ({"phone": "+351 21 34"}, "phone", "malformed", None),
        ({"phone": "1234567890"}, "phone", "malformed", None),
        ({"phone": "+351 2l 342 1234"}, "phone", "malformed", "+351 21 342 1234"),
        ({"phone": "+49 30 2345678"}, "phone", "contradictory", None),
        ({"website": "www,brightwater,io"}, "website", "malformed", "www.brightwater.io"),
        ({"website": "htp://brightwater.io"}, "website", "malformed", "brightwater.io"),
        ({"first_name": "xxx"}, "first_name", "malformed", None),
        ({"first_name": "Ana2"}, "first_name", "malformed", "Ana"),
        ({"last_name": "n/a"}, "last_name", "malformed", None),
        ({"city": "Lisbao"}, "city", "misspelt", "Lisboa"),
        ({"country": "Portugla"}, "country", "misspelt", "Portugal"),
        ({"job_title": "Vice Presdient Operations"}, "job_title", "misspelt", "Vice President Operations"),
        ({"postal_code": "12"}, "postal_code", "malformed", None),
        ({"state": "Texas"}, "state", "contradictory", None),
        ({"lifecycle_stage": "customer", "number_of_deals": "0"}, "lifecycle_stage", "contradictory", None),
        ({"last_contacted_at": "2026-01-10T08:00:00Z"}, "last_contacted_at", "stale", None),
        ({"lead_status": "NEW"}, "lead_status", "stale", None),
        ({"birth_date": "31.12.1980"}, "birth_date", "malformed", "1980-12-31"),
        ({"annual_revenue": "€5,000,000"}, "annual_revenue", "malformed", "5000000"),
    ],
)  # fmt: skip
def test_one_defect_of_a_contact_is_the_only_one_told(
    change: dict[str, str], concept: str, kind: str, proposed: str | None
):
    told = found("hubspot", "contact", **{**GOOD, **change})
    assert list(told) == [(concept, kind)]
    assert told[concept, kind].proposed == proposed


@pytest.mark.parametrize(
    ("change", "concept", "kind"),
    [
        ({"close_date": "2026-11-19"}, "close_date", "stale"),
        ({"close_date": "2026-09-01"}, "close_date", "contradictory"),
        ({"deal_stage": "Closed Won", "probability": "0", "next_step": ""}, "probability", "contradictory"),
        ({"deal_stage": "Closed Lost", "next_step": ""}, "probability", "contradictory"),
        ({"last_activity_at": "2026-06-01"}, "last_activity_at", "stale"),
        ({"amount": ""}, "amount", "missing"),
        ({"amount": "-5"}, "amount", "malformed"),
        ({"deal_name": "test"}, "deal_name", "malformed"),
    ],
)
def test_one_defect_of_a_deal_is_the_only_one_told(change: dict[str, str], concept: str, kind: str):
    assert list(found("salesforce", "deal", **{**DEAL, **change})) == [(concept, kind)]


@pytest.mark.parametrize(
    "change",
    [
        {"email": "ana@mail.com"}, {"email": "ana@gmx.net"}, {"email": "ana@eu.brightwater.io", "website": "brightwater.io"},
        {"phone": "", "mobile_phone": "+351 912 345 678"}, {"last_name": "O'Brien-Østergaard"}, {"last_name": "Ng"},
        {"city": "Villeurbanne", "country": "France", "phone": "+33 4 78 03 12 34"}, {"country": "UK", "city": "Hull", "postal_code": "hu1 2aa", "phone": "+44 1482 300 300"},
        {"country": "USA", "city": "Boise", "state": "ID", "postal_code": "83702", "phone": "(208) 555-0142"}, {"job_title": "Chef de projet"},
        {"country": "Österreich", "city": "Sankt Pölten", "phone": "", "mobile_phone": "+43 664 1234567"}, {"employees": "51-200"},
        {"job_title": "Data Protection Officer"}, {"first_name": "Test-Rossi"}, {"company_name": "Test Valley Brewing"},
    ],
)  # fmt: skip
def test_unusual_but_right_values_are_left_alone(change: dict[str, str]):
    assert found("hubspot", "contact", **{**GOOD, **change}) == {}


def test_a_note_is_contact_too():
    fresh = Note(id="1", kind="note", at=AT, text="Met at the fair.")
    assert found("hubspot", "contact", [fresh], **{**GOOD, "last_contacted_at": "2026-01-10T08:00:00Z"}) == {}


def test_a_closed_deal_is_not_stale():
    assert (
        found(
            "salesforce",
            "deal",
            **{
                **DEAL,
                "deal_stage": "Closed Won",
                "probability": "100",
                "close_date": "2026-10-20",
                "next_step": "",
                "last_activity_at": "2026-01-02",
            },
        )
        == {}
    )


def test_messages_do_not_change_from_day_to_day():
    """INVARIANT: a finding that counts days would be written to every record every day."""
    snapshot = snap("hubspot", "contact", **{**GOOD, "last_contacted_at": "2026-01-10T08:00:00Z"})
    assert defects_of(snapshot, TODAY) == defects_of(snapshot, date(2026, 12, 24))


async def test_duplicates_are_told_with_evidence_and_no_model_is_asked():
    async def ask(_prompt):
        raise AssertionError("asked")

    match = Match("9", 0.98765, ("same e-mail address",))
    finding = await PLUGIN.analyse(Context(snap("hubspot", "contact", **GOOD), None, ask, (match,), TODAY))
    assert finding.model == RULES_MODEL
    assert [(d.id, d.probability, d.evidence) for d in finding.payload.duplicates] == [
        ("9", 0.988, ("same e-mail address",))
    ]
    assert finding.payload.health == 90
    assert finding.payload.summary == "1 likely duplicate."


def test_inputs_hold_every_foreign_field():
    one = snap("hubspot", "contact", **GOOD)
    assert PLUGIN.inputs(one) != PLUGIN.inputs(
        one.model_copy(update={"fields": {**one.fields, "anything_custom": "x"}})
    )
    assert PLUGIN.inputs(one) == PLUGIN.inputs(one.model_copy(update={"modified_at": datetime(2027, 1, 1, tzinfo=UTC)}))


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        ("31.12.2026", "2026-12-31"),
        ("12/31/2026", "2026-12-31"),
        ("01/02/2026", None),
        ("2026/3/4", "2026-03-04"),
        ("31.02.2026", None),
        ("soon", None),
    ],
)
def test_dates_are_repaired_where_one_reading_remains(value: str, iso: str | None):
    assert repaired_date(value) == iso


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("a@@b.com", "a@b.com"),
        ("a@b..com", "a@b.com"),
        ("<a@b.com>", "a@b.com"),
        ("mailto:a@b.com", "a@b.com"),
        ("a(at)b.com", "a@b.com"),
        ("a@", None),
        ("n/a", None),
    ],
)
def test_addresses_are_repaired_where_one_reading_remains(value: str, meant: str | None):
    assert repaired_email(value) == meant


def test_planted_defects_are_found_and_nothing_else():
    measured = bench.measure(seed=11, count=700)
    assert measured["precision"] >= 0.95
    assert measured["recall"] >= 0.95


_LOCAL = st.text("abcXYZ019._+-\u00e9'\"", max_size=70)
_HOST = st.lists(st.text("abcXYZ019-_\u00e9", max_size=66), max_size=4).map(".".join)
_TLD = st.sampled_from(
    ["com", "de", "test", "local", "onion", "LOCALHOST", "invalid", "arpa", "c0m", "museum", "x", ""]
)


@given(st.builds("{}@{}.{}".format, _LOCAL, _HOST, _TLD) | st.emails())
def test_an_address_that_is_plainly_valid_is_valid_to_the_library_as_well(value):
    """INVARIANT: what is taken at a glance, the library takes, too. If it fails, a bad address passes as a good one."""
    if not plainly_valid(value):
        return
    try:
        validate_email(value, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        # `.test` is nobody's in the library's test environment alone, and left to it.
        raise AssertionError(value) from None


def test_most_addresses_need_no_second_look():
    for value in ("ana@brightwater.io", "m.keller@acme-optics.de", "info+eu@sub.example.co.uk"):
        assert plainly_valid(value)
    for value in ("ana@printer.local", "ana@b--c.de", "a..b@c.de", "ana@brightwater", "ana@b.de ", "an\u00e4@b.de"):
        assert not plainly_valid(value)


_NUMBER = st.text("+0123456789 ()-/.", max_size=18) | st.builds(
    "+{}{}".format, st.integers(1, 999), st.integers(0, 10**10)
)


@given(_NUMBER, st.sampled_from([None, "DE", "US", "GB", "IT", "CH"]))
def test_a_phone_number_is_read_as_the_library_reads_it(value, region):
    """INVARIANT: one reading of an international number serves every region. If it fails, a number is judged by another country."""
    try:
        wanted = phonenumbers.parse(value, None if value.lstrip().startswith(("+", "00")) and not region else region)
    except phonenumbers.NumberParseException:
        if not value.lstrip().startswith("00"):
            assert parsed_phone(value, region) is None
        return
    assert parsed_phone(value, region) == wanted
    assert valid_phone(value, region) == phonenumbers.is_valid_number(wanted)
