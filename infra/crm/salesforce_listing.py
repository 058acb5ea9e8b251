"""Salesforce: which org this is, how our fields stand there, and all records of a kind, page by page.

Law: reads only. Pages go by keyset (`Id > last`, ordered by Id), so that a page's `after` is good for as long as one likes: a
query locator ends after some days, and OFFSET at 2,000.
Sources: Salesforce's SOQL and SOSL reference (ORDER BY, LIMIT), REST API guide (Describe, Query), OpenID Connect UserInfo.
"""

from __future__ import annotations

from infra.accounts import Account, salesforce_id
from infra.crm import salesforce_shapes as shapes
from infra.crm.client import Page, Survey
from infra.crm.own_fields import OWN_FIELDS
from infra.crm.salesforce_org import Orgs, Rejected

PAGE = 200
"""As many as the hydrator reads in one call: so a backfill that is begun again repeats no more than that."""


async def identify(orgs: Orgs, account: Account) -> str:
    """See CrmClient."""
    try:
        found = await orgs.call(account, "userinfo", lambda sf: sf.oauth2("userinfo"))
    except Rejected as rejected:
        raise rejected.as_account_unavailable(account.id) from rejected
    number = str((found or {}).get("organization_id") or "")
    return f"salesforce:{salesforce_id(number)}" if number else "salesforce:"


async def survey(orgs: Orgs, account: Account, object_: str) -> Survey:
    """See CrmClient. What a permission set hides is, to us, not there."""
    sobject = shapes.SOBJECTS[object_]
    try:
        found = await orgs.call(account, "describe", lambda sf: sf.restful(f"sobjects/{sobject}/describe"))
    except Rejected as rejected:
        return Survey(readable=False, detail=rejected.code)
    ours = {
        str(each["name"]): each
        for each in (found or {}).get("fields") or ()
        if str(each.get("name", "")).lower().startswith(shapes.PREFIX.lower())
    }
    known = [shapes.OWN_NAMES[name] for name in OWN_FIELDS]
    return Survey(
        readable=bool((found or {}).get("queryable", True)),
        missing=tuple(name for name in known if name not in ours),
        unwritable=tuple(name for name in known if name in ours and not ours[name].get("updateable", True)),
        left_over=tuple(sorted(set(ours) - set(known))),
    )


async def count(orgs: Orgs, account: Account, object_: str) -> int | None:
    """See CrmClient."""
    text = f"SELECT COUNT() FROM {shapes.SOBJECTS[object_]}"  # noqa: S608 - SOQL of our own names
    try:
        found = await orgs.call(account, "count", lambda sf: sf.query(text))
    except Rejected:
        return None
    return int(found["totalSize"])


async def page(orgs: Orgs, account: Account, object_: str, after: str | None) -> Page:
    """See CrmClient."""
    last = shapes.normal(after) if after else None
    where = f"WHERE Id > '{last}' " if last else ""
    text = f"SELECT Id, LastModifiedDate FROM {shapes.SOBJECTS[object_]} {where}ORDER BY Id LIMIT {PAGE}"  # noqa: S608 - SOQL of our own names and a checked id
    try:
        found = await orgs.call(account, "page", lambda sf: sf.query(text))
    except Rejected as rejected:
        raise rejected.as_account_unavailable(account.id) from rejected
    rows = tuple((str(row["Id"]), shapes.modified_at(row)) for row in found["records"])
    # A page may hold fewer than asked for although there are more: only an empty one, or one that says so, is the last.
    return Page(rows, rows[-1][0] if rows and (len(rows) == PAGE or not found.get("done", True)) else None)
