"""Salesforce: records of a kind that were changed since a moment, by SystemModstamp, deleted ones included.

Law: reads only. Pages go by keyset (SystemModstamp, then Id): stamps are whole seconds, so many records share one. `queryAll`
shows what lies in the recycle bin; what was emptied out of it shows nowhere.
Sources: Salesforce's SOQL reference (ORDER BY, LIMIT, dateTime literals), REST API guide (QueryAll), object reference (system fields:
SystemModstamp is indexed and moves with automatic processes, too).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from infra.accounts import Account
from infra.crm import salesforce_shapes as shapes
from infra.crm.changed import Changed, ChangedPage, Place
from infra.crm.salesforce_org import Orgs, Rejected

PAGE: Final = 1_000
"""One call's worth that is held in memory; a result of up to 2,000 rows comes in one answer."""
ACTIVITIES: Final[dict[str, tuple[str, ...]]] = {"note": ("Task", "Note", "ContentNote"), "email": ("EmailMessage",)}
"""Our notes and e-mails are several of Salesforce's objects."""


def sobjects(object_: str) -> tuple[str, ...]:
    """Salesforce's names of what is one object to us."""
    return ACTIVITIES.get(object_) or (shapes.SOBJECTS[object_],)


async def changed(
    orgs: Orgs,
    account: Account,
    object_: str,
    *,
    since: datetime,
    until: datetime,
    after: str | None,
) -> ChangedPage:
    """See CrmClient. An object that the org lacks, or hides from us, has no changes."""
    names = sobjects(object_)
    name, _, cursor = (after or names[0]).partition("@")
    if name not in names:
        raise ValueError(f"{name[:40]!r} is no cursor of changed records")
    place = Place.parse(cursor) if cursor else Place(since)
    text = _query(name, place, until)
    try:
        found = await orgs.call(account, f"changed {name}", lambda sf: sf.query(text, include_deleted=True))
    except Rejected as rejected:
        if object_ not in ACTIVITIES or rejected.code not in shapes.NO_SUCH:
            raise rejected.as_account_unavailable(account.id) from rejected
        found = {"records": []}
    rows = tuple(_row(record) for record in found["records"])
    if len(rows) == PAGE or not found.get("done", True):
        return ChangedPage(rows, f"{name}@{Place(rows[-1].modified_at, rows[-1].id)}")
    following = names[names.index(name) + 1 :]
    return ChangedPage(rows, following[0] if following else None)


def _query(name: str, place: Place, until: datetime) -> str:
    at = _literal(place.at)
    since = (
        f"SystemModstamp >= {at}"
        if place.id is None
        else f"(SystemModstamp > {at} OR (SystemModstamp = {at} AND Id > '{place.id}'))"
    )
    columns = "Id, SystemModstamp, LastModifiedById, IsDeleted"
    if name in shapes.MERGEABLE:
        columns += ", MasterRecordId"
    return (
        f"SELECT {columns} FROM {name} WHERE {since} AND SystemModstamp <= {_literal(until)} "  # noqa: S608 - SOQL of our own names, times and a checked id
        f"ORDER BY SystemModstamp, Id LIMIT {PAGE}"
    )


def _literal(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(record: dict[str, Any]) -> Changed:
    return Changed(
        id=str(record["Id"]),
        modified_at=shapes.moment(record.get("SystemModstamp")) or shapes.modified_at(record),
        edited_by=record.get("LastModifiedById") or None,
        deleted=bool(record.get("IsDeleted")),
        merged_into=record.get("MasterRecordId") or None,
    )
