"""Duplicates: what makes two records the same, and what is said of it."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import duplicates
from infra.crm.concepts import MAPS
from processors.matching import EVIDENCE, THRESHOLD, Features, _lost, blocking_keys, compare, features, likely
from schemas.record import RecordSnapshot

AT = datetime(2026, 11, 1, tzinfo=UTC)


def contact(id_: str = "1", object_: str = "contact", crm: str = "hubspot", **values: str) -> RecordSnapshot:
    concepts = MAPS[crm][object_]
    fields = {concepts[concept]: value for concept, value in values.items()}
    return RecordSnapshot(
        tenant="t",
        account="hubspot:1",
        object=object_,
        id=id_,
        crm=crm,
        fields=fields,
        concepts=concepts,
        modified_at=AT,
        read_at=AT,
    )


def likeness(a: RecordSnapshot, b: RecordSnapshot):
    left, right = features(a), features(b)
    assert left is not None
    assert right is not None
    met = bool(set(blocking_keys(left)) & set(blocking_keys(right)))
    return met, *compare(left, right)


ANNA = {
    "first_name": "Anna",
    "last_name": "Lindqvist",
    "email": "anna.lindqvist@nordic-timber.se",
    "phone": "+46 8 440 12 34",
    "company_name": "Nordic Timber AB",
    "city": "Stockholm",
}


@pytest.mark.parametrize(
    "other",
    [
        {**ANNA, "phone": "08-440 12 34"},
        {**ANNA, "first_name": "Lindqvist", "last_name": "Anna"},
        {**ANNA, "last_name": "Lindqivst"},
        {**ANNA, "email": "anna.lindqvist@nordic-tmiber.se"},
        {**ANNA, "email": "ANNA.LINDQVIST@NORDIC-TIMBER.SE", "first_name": "", "city": "Sthlm"},
        {"first_name": "Anna", "last_name": "Lindqvist", "phone": "0046 8 440 12 34"},
    ],
)
def test_the_same_person_is_found_through_typos_swaps_and_gaps(other: dict[str, str]):
    met, probability, evidence = likeness(contact(**ANNA), contact("2", **{k: v for k, v in other.items() if v}))
    assert met
    assert probability >= THRESHOLD
    assert evidence


@pytest.mark.parametrize(
    "other",
    [
        {
            "first_name": "Per",
            "last_name": "Holm",
            "email": "per.holm@nordic-timber.se",
            "company_name": "Nordic Timber AB",
            "city": "Stockholm",
        },
        {"first_name": "Anna", "last_name": "Berg", "email": "anna.berg@fjord.no", "city": "Oslo"},
        {
            "first_name": "Karl",
            "last_name": "Lindqvist",
            "email": "karl.lindqvist@nordic-timber.se",
            "company_name": "Nordic Timber AB",
            "city": "Stockholm",
        },
    ],
)
def test_colleagues_and_namesakes_are_not_the_same_person(other: dict[str, str]):
    _, probability, _ = likeness(contact(**ANNA), contact("2", **other))
    assert probability < THRESHOLD


def test_companies_match_by_name_without_its_legal_form_and_by_website():
    met, probability, _ = likeness(
        contact(object_="company", company_name="Halvorsen Marine AS", domain="halvorsen-marine.no", city="Bergen"),
        contact("2", object_="company", company_name="Halvorsen Marine", website="https://www.halvorsen-marine.no/en"),
    )
    assert met
    assert probability >= THRESHOLD
    _, other, _ = likeness(
        contact(object_="company", company_name="Halvorsen Marine AS", domain="halvorsen-marine.no"),
        contact("2", object_="company", company_name="Bergen Marine AS", domain="bergen-marine.no"),
    )
    assert other < THRESHOLD


def test_a_contact_and_a_company_never_match():
    assert compare(Features("contact", email="a@b.example"), Features("company", email="a@b.example")) == (0.0, ())


def test_evidence_names_what_agrees_and_no_value_of_the_other_record():
    """INVARIANT: a duplicate may belong to another owner; evidence with its values would show them to everybody."""
    rows = duplicates.rows_of("fitting")[:60]
    known = [(row, found) for row in rows if (found := features(duplicates.snapshot_of(row)))]
    lines = [line for _, a in known for _, b in known if a is not b for line in compare(a, b)[1]]
    assert lines
    assert all(EVIDENCE.fullmatch(line) for line in lines)


def test_a_record_that_cannot_be_told_from_strangers_has_no_features():
    assert features(contact(first_name="Anna")) is None
    assert features(contact(first_name="Anna", city="Oslo")) is None
    assert features(contact(**ANNA).model_copy(update={"deleted": True})) is None
    assert features(contact(object_="deal", deal_name="X")) is None


def test_features_survive_being_written_down():
    found = features(contact(**ANNA))
    assert found is not None
    assert Features.from_json({**found.as_json(), "later": "field"}) == found


def test_a_salesforce_lead_is_compared_by_the_same_features():
    assert features(
        contact(crm="salesforce", object_="lead", first_name="Anna", last_name="Li", email="A@b.se")
    ) == Features("lead", "anna", "li", "a@b.se")


def test_on_the_half_that_nothing_was_fitted_on_f1_stays_above_nine_tenths():
    found = duplicates.measure("reported")
    assert found["f1"] >= 0.9
    assert found["precision"] >= 0.95


def test_the_halves_share_no_cluster():
    assert not {row["cluster"] for row in duplicates.rows_of("fitting")} & {
        row["cluster"] for row in duplicates.rows_of("reported")
    }


def test_giving_up_early_changes_no_judgement():
    """INVARIANT: `likely` is `compare` with the hopeless cases left out. If it fails, people miss duplicates for speed's sake."""
    known = [found for row in duplicates.rows_of("fitting")[:120] if (found := features(duplicates.snapshot_of(row)))]
    companies = [
        Features("company", company=name, domain=domain, city=city)
        for name in ("nordwind", "nordwind logistik", "sudwind")
        for domain in ("nordwind.de", "nordwind.com", "")
        for city in ("hamburg", "hamborg", "")
    ]
    judged = 0
    for a, b in [*itertools.combinations(known, 2), *itertools.product(companies, repeat=2)]:
        whole = compare(a, b)
        expected = whole if whole[0] >= THRESHOLD else None
        assert likely(a, b) == expected
        judged += expected is not None
    assert judged > 20
    assert likely(Features("contact", email="a@b.se"), Features("lead", email="a@b.se")) is None


@given(st.text("abcde", max_size=12), st.text("abcde", max_size=12))
def test_lost_letters_are_those_that_one_has_and_the_other_lacks(a: str, b: str):
    left, right = Counter(a), Counter(b)
    assert _lost(a, b) == max((left - right).total(), (right - left).total())
