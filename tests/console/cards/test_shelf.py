"""What becomes of a rep's words at the CRM."""

from __future__ import annotations

import pytest

from console.cards.refusals import Refused
from console.cards.shelf import CrmShelf
from infra.crm.client import AccountUnavailable, Busy, CrmUnavailable, Gone, Written
from infra.crm.client import Refused as RefusedByCrm
from tests.console.cards.signed import account


class Crm:
    """Keeps the contract of CrmClient.write."""

    def __init__(self, outcome) -> None:
        self.outcome = outcome
        self.rows: list = []

    async def write(self, at, object_, rows):
        self.rows.append((at.id, object_, rows))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return dict.fromkeys(rows, self.outcome)


async def test_the_thumb_and_the_note_are_written_and_nothing_else() -> None:
    crm = Crm(Written())
    await CrmShelf(None, crm).feedback(account(), "deal", "51", "down", "Wrong person.")
    assert crm.rows == [(account().id, "deal", {"51": {"feedback": "down", "feedback_note": "Wrong person."}})]


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (Gone(), "RECORD_GONE"),
        (Busy("LOCKED"), "TRY_LATER"),
        (RefusedByCrm("VALIDATION_ERROR"), "NOT_WRITTEN"),
        (AccountUnavailable("hubspot:1", "TOKEN_REVOKED"), "ACCOUNT_UNAVAILABLE"),
        (CrmUnavailable("hubspot"), "TRY_LATER"),
    ],
)
async def test_what_the_crm_will_not_do_has_a_name(outcome, cause) -> None:
    with pytest.raises(Refused) as refused:
        await CrmShelf(None, Crm(outcome)).feedback(account(), "contact", "51", "up", "")
    assert refused.value.cause == cause
