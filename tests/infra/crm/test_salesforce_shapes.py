from datetime import UTC, datetime

import pytest

from infra.crm import salesforce_shapes as shapes
from infra.crm.client import Busy, Gone, Refused
from infra.crm.own_fields import OWN_FIELDS


def test_values_become_text_as_people_write_them():
    assert [shapes.text(value) for value in (True, 1200.0, 12.5, None, {"a": 1}, "x", 7)] == [
        "true",
        "1200",
        "12.5",
        "",
        "",
        "x",
        "7",
    ]


def test_our_own_and_volatile_fields_are_not_shown():
    given = {
        "Email": "a@b.example",
        "IsConverted": False,
        "hookline_score__c": 1,
        "LastModifiedDate": "x",
        "attributes": {},
        "Phone": None,
    }
    assert shapes.shown_fields(given) == {"Email": "a@b.example", "IsConverted": "false"}


def test_compound_fields_are_not_read():
    fields = shapes.chosen_fields(
        "lead",
        [
            {"name": "Email", "type": "email"},
            {"name": "Where__c", "type": "location", "custom": True},
            {"name": "Size__c", "type": "double", "custom": True},
        ],
    )
    assert fields.read == ("Email", "Size__c")


def test_times_are_read_as_salesforce_writes_them():
    assert shapes.moment("2026-11-02T10:00:00.000+0000") == datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert shapes.moment("2026-11-02") == datetime(2026, 11, 2, tzinfo=UTC)
    assert shapes.moment("soon") is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ENTITY_IS_DELETED", Gone),
        ("INVALID_CROSS_REFERENCE_KEY", Gone),
        ("UNABLE_TO_LOCK_ROW", Busy),
        ("FIELD_CUSTOM_VALIDATION_EXCEPTION", Refused),
        ("NEW_ONE", Refused),
    ],
)
def test_rows_outcomes(code, kind):
    assert isinstance(shapes.row_outcome([{"statusCode": code, "message": "ALICE", "fields": []}]), kind)


def test_a_refusal_names_fields_and_codes_and_no_value():
    error = {
        "statusCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION",
        "message": "ALICE is too old",
        "fields": ["Hookline_Score__c"],
    }
    assert shapes.row_outcome([error]) == Refused(
        "FIELD_CUSTOM_VALIDATION_EXCEPTION", "FIELD_CUSTOM_VALIDATION_EXCEPTION Hookline_Score__c"
    )


def test_a_missing_field_of_ours_is_found_in_the_message():
    error = {"errorCode": "INVALID_FIELD", "message": "No such column 'Hookline_Score__c' on sobject of type Lead"}
    assert shapes.refused([error]).unknown_fields == ("Hookline_Score__c",)


def test_numbers_are_numbers_and_an_empty_text_clears():
    assert [shapes.json_value(OWN_FIELDS["score"], value) for value in ("72", "72.5", "")] == [72, 72.5, None]
    assert shapes.json_value(OWN_FIELDS["summary"], "72") == "72"


def test_an_email_task_is_an_email():
    assert shapes.task({"Id": "1", "Subject": "Hi", "TaskSubtype": "Email"}).kind == "email"
    assert shapes.task({"Id": "1", "Subject": "Hi", "TaskSubtype": "Call"}).kind == "task"
    assert shapes.task({"Id": "1"}) is None
