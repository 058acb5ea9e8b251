"""What a backfill would do: so many records of each kind, so many calls, so long.

Law: asks the CRM for totals, one call a kind, and changes nothing there. Kinds that our credentials may not read are left out
and named.
"""

from __future__ import annotations

from collections.abc import Sequence

from console.backfill.store import Backfill, Backfills
from console.replay.crm_cost import calls_for, published
from console.runtime import ConsoleError
from infra.accounts import Account
from infra.crm.client import CrmClient
from infra.settings import Settings

ORDER = ("company", "contact", "lead", "deal")
"""Companies first: a contact is understood better when its company is known."""
HYDRATED = 100
"""Records that the hydrator reads at once."""


def calls_of(crm: str, object_: str, records: int) -> int:
    """Calls that so many records take, listing and reading, where each kind of what hangs on a page fits into one."""
    pages = -(-records // HYDRATED)
    return pages * (1 + calls_for(crm, object_, HYDRATED))


async def plan(
    settings: Settings,
    backfills: Backfills,
    client: CrmClient,
    account: Account,
    *,
    objects: Sequence[str] = (),
    rate: float | None = None,
    calls_per_day: int | None = None,
    by: str = "",
) -> Backfill:
    """A planned one. Raises ConsoleError where there is nothing to read, AccountUnavailable, CrmUnavailable."""
    unknown = sorted(set(objects) - set(client.own_objects))
    if unknown:
        raise ConsoleError(
            f"no records of kind {', '.join(unknown)}: choose of {', '.join(sorted(client.own_objects))}"
        )
    counted: dict[str, dict[str, int]] = {}
    for object_ in sorted(objects or client.own_objects, key=ORDER.index):
        records = await client.count(account, object_)
        if records is not None:
            counted[object_] = {"records": records, "calls": calls_of(account.crm, object_, records)}
    if not counted:
        raise ConsoleError(
            f"{account.id}: none of these kinds of records may be read with its credentials: `hookline account check {account.id}`"
        )
    share = max(1, int(published(account) * settings.backfill_daily_share))
    return await backfills.create(
        tenant=account.tenant,
        account=account.id,
        objects=list(counted),
        planned=counted,
        rate=rate or settings.backfill_records_per_second,
        calls_per_day=calls_per_day or share,
        created_by=by,
    )
