"""What needs no database of the table of what was set aside; the rest is in tests/connected/test_set_aside.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from infra.set_aside import LEASE_SECONDS, LONGEST_DELAY_SECONDS, MEMORY_SECONDS, Aside
from schemas.record import RecordRef

REF = RecordRef("t", "hubspot:1", "contact", "7")


def test_a_moment_becomes_seconds_from_now():
    found = Aside.until(REF, "analyst", "QUOTA_SPENT", datetime.now(UTC) + timedelta(minutes=10))
    assert found.retry_after is not None
    assert 598 < found.retry_after <= 600


def test_a_moment_that_has_passed_is_tried_soon_rather_than_in_a_loop():
    assert Aside.until(REF, "analyst", "QUOTA_SPENT", datetime(2020, 1, 1, tzinfo=UTC)).retry_after == 1.0


def test_attempts_are_remembered_for_longer_than_the_longest_delay():
    """INVARIANT: a shorter memory would start every delay from half a minute again, and never grow to an hour."""
    assert MEMORY_SECONDS > 1.2 * LONGEST_DELAY_SECONDS + LEASE_SECONDS
