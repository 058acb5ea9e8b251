"""A CRM that fails while changes flow: nothing is lost, nothing is written twice, and each trouble has its name."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from infra.database.tables import set_aside
from infra.local.sandbox.reconciliation import Reconciliation
from tests.journeys.house import House, until
from tests.journeys.place import Place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

FAULTS = {
    "hubspot": [
        ("objects.batch_read", "429", 2, 0),
        ("objects.batch_read", "500", 8, 0),
        ("objects.batch_read", "timeout", 1, 2_500),
        ("objects.batch_update", "429", 2, 0),
        ("objects.batch_update", "500", 2, 0),
        ("objects.batch_update", "207", 1, 0),
        ("objects.batch_update", "timeout", 1, 2_500),
    ],
    "salesforce": [
        ("*", "500", 2, 0),
        ("*", "503", 2, 0),
        ("collections.update", "207", 1, 0),
        ("collections.update", "timeout", 1, 2_500),
    ],
}
"""Operation, fault, how many calls meet it, and for how many ms."""
NAMED = {
    "hubspot": {"429", "500", "ReadTimeoutError", "sink:hubspot INTERNAL_ERROR"},
    "salesforce": {"UNKNOWN_EXCEPTION", "SERVER_UNAVAILABLE", "ReadTimeout"},
}
"""By these names an operator sees them: as outcomes of CRM calls among the metrics, or as causes of setting aside."""
NAMES = {
    "hubspot": {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": "Buyer"},
    "salesforce": {"FirstName": "Ada", "LastName": "Lovelace", "Email": "ada@engines.example", "Title": "Buyer"},
}
TITLE = {"hubspot": "jobtitle", "salesforce": "Title"}


def outcomes_of_calls(house: House, crm: str) -> set[str]:
    """How calls to the CRM ended so far."""
    return set(
        re.findall(rf'hookline_crm_calls_total{{crm="{crm}",operation="[^"]*",outcome="([^"]*)"}}', house.metrics())
    )


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
async def test_nothing_is_lost_while_the_crm_fails(both: Place, crm: str):
    """INVARIANT: a failing CRM costs time alone. If it breaks, a rep trusts an insight that missed the last change."""
    account = both.account(crm)
    ids = [both.controls.create_record(account, "contact", NAMES[crm])["id"] for _ in range(2)]
    await until("both have an insight", both.settled)
    seen: set[tuple[str, str]] = set()
    for place, (operation, kind, count, ms) in enumerate(FAULTS[crm]):
        both.controls.plant_fault(account, operation, kind, count, ms=ms)
        for one in ids:
            both.controls.save(account, "contact", one, {TITLE[crm]: f"Title {place}"})

        async def through() -> bool:
            seen.update(await both.aside())
            await both.hurry()
            return both.settled()

        await until(f"the changes are on the records in spite of {kind} at {operation}", through, 40)
        both.controls.clear_faults()
    result: Reconciliation = both.reconciled()
    assert (result.unsettled, result.backwards) == ([], [])
    assert await both.dead_letters() == []
    assert result.duplicate_effects == []
    assert outcomes_of_calls(both.house, crm) | {" ".join(each) for each in seen} >= NAMED[crm]


async def test_a_revoked_token_stops_one_account_until_it_is_connected_again(hubspot: Place):
    """INVARIANT: what people change while we have no access is not lost. If it breaks, an expired token costs insights."""
    ids = [hubspot.controls.create_record(hubspot.portal, "contact", NAMES["hubspot"])["id"] for _ in range(3)]
    await until("all have an insight", hubspot.settled)
    hubspot.controls.revoke_token(hubspot.token)
    hubspot.controls.save(hubspot.portal, "contact", ids[0], {"jobtitle": "Director"})

    async def state() -> str:
        return (await hubspot.registry.account(hubspot.portal)).state

    async def disconnected() -> bool:
        return await state() == "disconnected"

    await until("the account is set aside", disconnected)
    reason = (await hubspot.registry.account(hubspot.portal)).state_reason
    assert reason, "an admin reads why"
    hubspot.controls.save(hubspot.portal, "contact", ids[1], {"jobtitle": "Head of Research"})

    async def both_wait() -> bool:
        async with hubspot.engine.connect() as connection:
            rows = await connection.execute(
                sa.select(set_aside.c.record_id).where(
                    set_aside.c.account == hubspot.portal, set_aside.c.cause == "TOKEN_REVOKED"
                )
            )
            return {row.record_id for row in rows} == set(ids[:2])

    await until("both records wait by name", both_wait)
    assert len(hubspot.reconciled().unsettled) == 2

    hubspot.controls.revoke_token(hubspot.token, revoked=False)
    await hubspot.reconnect()
    # Nobody moves a clock here: connecting again is what they waited for.
    await until("both changes are on their records", hubspot.settled, 15)
    assert hubspot.reconciled().duplicate_effects == []
    assert await hubspot.dead_letters() == []
    assert await state() == "active"
