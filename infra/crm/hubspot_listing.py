"""HubSpot: which portal this is, how our properties stand there, and all records of a kind, page by page.

Law: reads only. Pages are the list endpoint's, ordered by id, so that a page's `after` is good for as long as one likes; the
search endpoint, which knows the total, ends at 10,000 and is asked for the number alone.
Sources: HubSpot's CRM objects v3 ("List", "Search"), properties v3, account information v3.
"""

from __future__ import annotations

from infra.accounts import Account
from infra.crm import hubspot_shapes as shapes
from infra.crm.client import Page, Survey
from infra.crm.hubspot_portal import Portals, Rejected
from infra.crm.own_fields import OWN_FIELDS

PAGE = 100
_OBJECTS = "/crm/v3/objects"


async def identify(portals: Portals, account: Account) -> str:
    """See CrmClient."""
    try:
        found = await portals.call(account, "GET", "/account-info/v3/details")
    except Rejected as rejected:
        raise rejected.as_account_unavailable(account.id) from rejected
    return f"hubspot:{found.get('portalId')}"


async def survey(portals: Portals, account: Account, object_: str) -> Survey:
    """See CrmClient."""
    plural = shapes.PLURALS[object_]
    try:
        await portals.call(account, "GET", f"{_OBJECTS}/{plural}", query={"limit": "1"})
        found = await portals.call(account, "GET", f"/crm/v3/properties/{plural}")
    except Rejected as rejected:
        return Survey(readable=False, detail=rejected.category)
    ours = {
        str(each.get("name")): each
        for each in found.get("results") or ()
        if str(each.get("name")).startswith(shapes.PREFIX)
    }
    known = [shapes.PREFIX + name for name in OWN_FIELDS]
    return Survey(
        readable=True,
        missing=tuple(name for name in known if name not in ours),
        unwritable=tuple(
            name
            for name in known
            if name in ours and (ours[name].get("modificationMetadata") or {}).get("readOnlyValue")
        ),
        left_over=tuple(sorted(set(ours) - set(known))),
    )


async def count(portals: Portals, account: Account, object_: str) -> int | None:
    """See CrmClient."""
    plural = shapes.PLURALS[object_]
    try:
        found = await portals.call(account, "POST", f"{_OBJECTS}/{plural}/search", {"limit": 1, "filterGroups": []})
    except Rejected:
        return None
    return int(found.get("total") or 0)


async def page(portals: Portals, account: Account, object_: str, after: str | None) -> Page:
    """See CrmClient."""
    plural = shapes.PLURALS[object_]
    query = {"limit": str(PAGE), "properties": "hs_lastmodifieddate,lastmodifieddate"}
    if after:
        query["after"] = after
    try:
        found = await portals.call(account, "GET", f"{_OBJECTS}/{plural}", query=query)
    except Rejected as rejected:
        raise rejected.as_account_unavailable(account.id) from rejected
    rows = tuple((str(row["id"]), shapes.modified_at(row)) for row in found.get("results") or ())
    following = ((found.get("paging") or {}).get("next") or {}).get("after")
    return Page(rows, str(following) if following else None)
