"""What a refresh takes of a CRM's day, and what the day has left."""

from __future__ import annotations

from typing import Any

import pytest

from console.replay import crm_cost
from console.replay.crm_cost import budget, calls_for, most_calls_for
from infra.accounts import Account
from infra.crm import hubspot, hubspot_shapes, salesforce
from infra.crm.limits_gate import Standing
from infra.settings import Settings


def account(crm: str = "hubspot") -> Account:
    return Account(f"{crm}:1", "acme", crm, "Acme", {}, None)


def heard(**more: Any) -> Standing:
    given: dict[str, Any] = {
        "calls_today": 0, "held_back_today": 0, "day_used": None, "day_limit": None, "limit": None, "window_seconds": None,
        "in_window": 0,
    }  # fmt: skip
    return Standing(**{**given, **more})


def settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **more)  # type: ignore[call-arg]  # pydantic-settings' own argument


def test_what_a_page_takes_is_told_by_the_tables_that_the_client_reads_by() -> None:
    kinds = len(hubspot_shapes.ACTIVITIES) + len(hubspot_shapes.RELATED["deal"])
    assert calls_for("hubspot", "deal", 100) == 1 + 2 * kinds
    full = sum(hubspot_shapes.RELATED["deal"].values()) + len(hubspot_shapes.ACTIVITIES) * hubspot_shapes.MAX_NOTES
    assert most_calls_for("hubspot", "deal", 100) == 3 + kinds + full
    assert crm_cost.HUBSPOT_BATCH == hubspot.BATCH
    assert (crm_cost.SALESFORCE_BATCH, crm_cost.SALESFORCE_PAGES, crm_cost.SALESFORCE_CONTACTS) == (
        salesforce.BATCH, salesforce.MAX_PAGES, salesforce.MAX_RELATED_CONTACTS,
    )  # fmt: skip


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
@pytest.mark.parametrize("object_", ["contact", "company", "deal", "lead", "ticket", "note", "email"])
def test_at_most_is_never_less_than_about(crm: str, object_: str) -> None:
    assert calls_for(crm, object_, 0) == most_calls_for(crm, object_, 0) == 0
    for records in (1, 7, 100):
        assert 0 < calls_for(crm, object_, records) <= most_calls_for(crm, object_, records)


def test_a_note_costs_looking_up_what_it_hangs_on_and_reading_that() -> None:
    assert calls_for("hubspot", "note", 10) == len(hubspot_shapes.SINGULARS) + calls_for("hubspot", "deal", 10)


def test_the_day_is_what_the_vendor_told_the_gate_and_bulk_work_stops_at_its_share() -> None:
    found = budget(settings(crm_bulk_free_share=0.4), account(), heard(day_limit=1_000, day_used=250))
    assert (found.a_day, found.left, found.bulk_share) == (1_000, 350, pytest.approx(0.6))
    assert "hubspot last said" in found.said_by


def test_a_limit_of_ones_own_binds_where_it_is_the_narrower_one() -> None:
    own = settings(crm_daily_calls=100)
    found = budget(own, account(), heard(day_limit=1_000, day_used=0, calls_today=20))
    assert (found.a_day, found.left) == (100, 30)
    assert "HOOKLINE_CRM_DAILY_CALLS" in found.said_by
    found = budget(own, account(), heard(day_limit=1_000, day_used=490, calls_today=20))
    assert (found.a_day, found.left) == (1_000, 10)
    assert budget(own, account(), heard(calls_today=90)).left == 0, "never less than nothing"


def test_what_is_published_stands_in_and_is_named_as_such() -> None:
    found = budget(settings(), account("salesforce"), heard(calls_today=1_000))
    assert (found.a_day, found.left) == (100_000, 49_000)
    assert "publishes" in found.said_by
    assert budget(settings(), account("another"), None).left is None
