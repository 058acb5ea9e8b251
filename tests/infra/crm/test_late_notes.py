from datetime import UTC, datetime, timedelta

import pytest

from infra.crm.late_notes import outdated

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("record", "notes", "expected"),
    [
        (at(-10), [], False),
        (at(-10), [at(-5)], True),
        (at(-10), [at(-500), at(-9.9)], True),
        (at(-10), [at(-10)], False),
        (at(-10), [at(-20)], False),
        (at(-500), [at(-61)], False),
    ],
    ids=["none", "after it", "the newest counts", "with it", "before it", "long ago"],
)
def test_a_record_is_outdated_by_a_note_that_came_just_now_and_after_it(record, notes, expected):
    assert outdated(record, notes, NOON) is expected
