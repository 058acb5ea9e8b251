"""Everything of one object that was changed since a moment, as Changes.

Law: asks the CRM within `bulk_work()` and publishes nothing; whoever reads decides what becomes of it. Every record that was
changed between `since` and `until` (and not again after `until`) comes at least once, oldest first; none comes with values.
Times are the CRM's own: allow for its clock and for the delay of its search index by asking from a little earlier.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
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


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one call brought."""

    rows: tuple[Changed, ...]
    after: str | None
    """Where to go on, now or after a crash; None: all is there."""


async def stretches(
    client: Asks,
    account: Account,
    object: str,  # noqa: A002 - our word
    since: datetime,
    *,
    until: datetime | None = None,
    after: str | None = None,
) -> AsyncIterator[Stretch]:
    """Call by call. `after` goes on where an earlier reading, with the same `since`, stood.

    Raises AccountUnavailable and CrmUnavailable; what was given until then holds.
    """
    until = until or datetime.now(UTC)
    while True:
        # Around the call alone: a context variable set across a `yield` would leak into whoever reads.
        with bulk_work():
            page = await client.changed(account, object, since, until, after)
        yield Stretch(page.records, page.next)
        if page.next is None:
            return
        after = page.next


async def changed_since(
    client: Asks,
    account: Account,
    object: str,  # noqa: A002 - our word
    since: datetime,
    *,
    until: datetime | None = None,
) -> AsyncIterator[Change]:
    """Each record of the object that was changed from `since` to `until` (by default: now), with the reason `reconcile`.

    For `note` and `email` these are changes of the activity itself; the hydrator looks up what it hangs on. Raises
    AccountUnavailable and CrmUnavailable; may be begun again from any earlier moment, since to repeat a change is harmless.
    """
    async for stretch in stretches(client, account, object, since, until=until):
        for row in stretch.rows:
            for change in changes_of(account, object, row):
                yield change


def changes_of(account: Account, object: str, row: Changed) -> list[Change]:  # noqa: A002 - our word
    """What one row says: the record itself, and those that went into it."""
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
