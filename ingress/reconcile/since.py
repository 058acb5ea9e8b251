"""Everything of one object that was changed in a stretch of time, page by page, and what a row says as Changes.

Law: asks the CRM within `bulk_work()` and publishes nothing; whoever reads decides what becomes of it. Every record that was
changed between `since` and `until` (and not again after `until`) comes at least once, oldest first; none comes with values.
Times are the CRM's own: allow for its clock and for the delay of its search index by asking from a little earlier.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

from infra.accounts import Account
from infra.crm.changed import Changed, ChangedPage
from infra.crm.limits import bulk_work
from schemas.change import Change

OBJECTS: tuple[str, ...] = ("company", "contact", "lead", "deal", "note", "email")
"""What analyses read, companies first: a contact is understood better when its company is known."""


class Asks(Protocol):
    """The side of `infra.crm.client.CrmClient` that is needed here."""

    async def changed(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        since: datetime,
        until: datetime,
        after: str | None,
    ) -> ChangedPage:
        """See CrmClient; raises AccountUnavailable and CrmUnavailable."""
        ...


async def stretches(
    client: Asks,
    account: Account,
    object: str,  # noqa: A002 - our word
    since: datetime,
    *,
    until: datetime,
    after: str | None = None,
) -> AsyncIterator[ChangedPage]:
    """Call by call. `after` goes on where an earlier reading, with the same `since`, stood, now or after a crash.

    Raises AccountUnavailable and CrmUnavailable; what was given until then holds.
    """
    while True:
        # Around the call alone: a context variable set across a `yield` would leak into whoever reads.
        with bulk_work():
            page = await client.changed(account, object, since, until, after)
        yield page
        if page.next is None:
            return
        after = page.next


def changes_of(account: Account, object: str, row: Changed) -> list[Change]:  # noqa: A002 - our word
    """What one row says, with the reason `reconcile`: the record itself, and those that went into it.

    Of `note` and `email` these are changes of the activity itself; the hydrator looks up what it hangs on.
    """
    common: dict[str, Any] = {
        "tenant": account.tenant,
        "account": account.id,
        "object": object,
        "occurred_at": row.modified_at,
        "reason": "reconcile",
    }
    if row.deleted:
        return [Change(id=row.id, kind="deleted", **common)]
    found = [Change(id=row.id, kind="updated", edited_by=row.edited_by, **common)]
    found += [Change(id=one, kind="deleted", **common) for one in row.merged_ids]
    return found
