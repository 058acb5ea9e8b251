from datetime import UTC, datetime

import pytest

from infra.crm import hubspot_shapes as shapes
from infra.crm.client import Busy, Gone, Refused


def prop(name, custom=False, hidden=False):
    return {"name": name, "hubspotDefined": not custom, "hidden": hidden}


def test_standard_fields_with_a_meaning_and_the_portals_own_are_read():
    fields = shapes.chosen_fields(
        "contact",
        [
            prop("email"),
            prop("hs_unheard_of"),
            prop("budget", custom=True),
            prop("secret", custom=True, hidden=True),
            prop("hookline_score", custom=True),
        ],
    )
    assert fields.read == ("email", "budget")
    assert fields.own == {"hookline_score"}


def test_too_many_custom_fields_are_named():
    fields = shapes.chosen_fields("contact", [prop(f"c{number:03}", custom=True) for number in range(200)])
    assert len(fields.read) == shapes.MAX_CUSTOM_FIELDS
    assert fields.omitted == tuple(f"c{number:03}" for number in range(150, 200))


def test_our_own_and_volatile_fields_are_not_shown():
    given = {
        "email": "a@b.example",
        "phone": "",
        "city": None,
        "HOOKLINE_score": "1",
        "lastmodifieddate": "x",
        "hs_updated_by_user_id": "7",
    }
    assert shapes.shown_fields(given) == {"email": "a@b.example"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-02T10:00:00.123Z", datetime(2026, 11, 2, 10, 0, 0, 123000, UTC)),
        ("1762077600123", datetime(2025, 11, 2, 10, 0, 0, 123000, UTC)),
        ("2026-11-02", datetime(2026, 11, 2, tzinfo=UTC)),
        ("", None),
        (None, None),
        ("soon", None),
        ("9" * 40, None),
    ],
)
def test_times_are_read_as_hubspot_writes_them(text, found):
    assert shapes.moment(text) == found


def test_the_primary_company_comes_first_and_each_once():
    v4 = [
        {"toObjectId": 1, "associationTypes": [{"label": None}]},
        {"toObjectId": 2, "associationTypes": [{"label": "Primary"}]},
        {"toObjectId": 1, "associationTypes": [{"label": None}]},
    ]
    assert shapes.primary_first(v4, 5) == ["2", "1"]
    v3 = [{"id": "1", "type": "contact_to_company_unlabeled"}, {"id": "2", "type": "contact_to_company"}]
    assert shapes.primary_first(v3, 1) == ["2"]


def test_newest_ids_are_the_greatest():
    assert shapes.newest_ids(["9", "100", "20", "20"], 2) == (["100", "20"], True)


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("OBJECT_NOT_FOUND", Gone),
        ("INTERNAL_ERROR", Busy),
        ("RATE_LIMITS", Busy),
        ("VALIDATION_ERROR", Refused),
        ("NEW_ONE", Refused),
    ],
)
def test_rows_outcomes(category, kind):
    assert isinstance(shapes.row_outcome({"category": category}), kind)


def test_a_refusal_names_fields_and_codes_and_no_value():
    error = {
        "category": "VALIDATION_ERROR",
        "message": 'Property values were not valid: [{"message":"\\"ALICE\\" was not a valid number"}]',
        "errors": [
            {"message": "ALICE was not", "code": "INVALID_LONG", "context": {"propertyName": ["hookline_score"]}},
            {"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["hookline_grade"]}},
        ],
    }
    found = shapes.row_outcome(error)
    assert found == Refused(
        "VALIDATION_ERROR", "INVALID_LONG hookline_score; PROPERTY_DOESNT_EXIST hookline_grade", ("hookline_grade",)
    )


def test_an_email_without_text_or_subject_is_none():
    assert shapes.note("emails", {"id": "1", "properties": {"hs_email_html": "<p></p>"}}) is None
    found = shapes.note(
        "emails", {"id": "1", "properties": {"hs_email_html": "<p>Hi</p>", "hs_email_direction": "INCOMING_EMAIL"}}
    )
    assert (found.text, found.author) == ("Hi", "INCOMING_EMAIL")
