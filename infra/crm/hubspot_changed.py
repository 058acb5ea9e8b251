"""HubSpot: records of a kind that were changed since a moment, by its search endpoint.

Law: reads only. Search takes one sort rule, at most 10,000 results a query and five calls a second, so: sorted by last modified,
each page begins with the moment at which the one before ended; where one moment fills a whole page (an import), its records
are walked by id, and the walk goes on behind it. No page number is ever used. The calls of one account are paced here.
Sources: HubSpot's "CRM search" (sorting, paging, rate limits): one sort per search, 200 rows a page, 10,000 a query, 5 per second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from infra.accounts import Account
from infra.crm import hubspot_shapes as shapes
from infra.crm.changed import Changed, ChangedPage, Place, to_millis
from infra.crm.hubspot_portal import Portals, Rejected

PAGE: Final = 100
SECONDS_BETWEEN: Final = 0.25
"""Four a second: backfills' counts and the customer's own searches share the fifth."""
_MILLISECOND: Final = timedelta(milliseconds=1)


class Pace:
    """At most one search per account in `seconds`, whoever asks in this process."""

    def __init__(
        self,
        seconds: float = SECONDS_BETWEEN,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._free_at: dict[str, float] = {}

    async def turn(self, account: str) -> None:
        """Wait for it; first come, first served."""
        now = self._clock()
        mine = max(now, self._free_at.get(account, 0.0))
        self._free_at[account] = mine + self._seconds
        if mine > now:
            await self._sleep(mine - now)


def modified_property(object_: str) -> str:
    """What search orders by: contacts have the older name of it."""
    return "lastmodifieddate" if object_ == "contact" else "hs_lastmodifieddate"


async def changed(
    portals: Portals,
    pace: Pace,
    account: Account,
    object_: str,
    *,
    since: datetime,
    until: datetime,
    after: str | None,
) -> ChangedPage:
    """See CrmClient. HubSpot's search does not know deleted records."""
    place = Place.parse(after) if after else Place(since)
    by = modified_property(object_)
    body = _query(place, until, by)
    await pace.turn(account.id)
    try:
        found = await portals.call(account, "POST", f"/crm/v3/objects/{shapes.PLURALS[object_]}/search", body)
    except Rejected as rejected:
        raise rejected.as_account_unavailable(account.id) from rejected
    rows = tuple(_row(record, by) for record in found.get("results") or ())
    full = len(rows) == PAGE
    if place.id is not None:
        # Walking one moment by id: then on behind that moment.
        return ChangedPage(rows, str(replace(place, id=rows[-1].id) if full else Place(place.at + _MILLISECOND)))
    if not full:
        return ChangedPage(rows, None)
    last = rows[-1].modified_at
    if last > rows[0].modified_at:
        return ChangedPage(rows, str(Place(last)))
    # The whole page is of one moment: which of its records search has shown so far is nobody's promise.
    return ChangedPage((), str(Place(last, "0")))


def _query(place: Place, until: datetime, by: str) -> dict[str, Any]:
    at = str(to_millis(place.at))
    if place.id is None:
        filters = [
            {"propertyName": by, "operator": "GTE", "value": at},
            {"propertyName": by, "operator": "LTE", "value": str(to_millis(until))},
        ]
        order = by
    else:
        filters = [
            {"propertyName": by, "operator": "EQ", "value": at},
            {"propertyName": "hs_object_id", "operator": "GT", "value": place.id},
        ]
        order = "hs_object_id"
    return {
        "filterGroups": [{"filters": filters}],
        "sorts": [{"propertyName": order, "direction": "ASCENDING"}],
        "properties": [by, shapes.MERGED],
        "limit": PAGE,
    }


def _row(record: dict[str, Any], by: str) -> Changed:
    properties = record.get("properties") or {}
    # No editor: what HubSpot tells of the last one need not be whom this time came from (an app's write keeps a person's name).
    return Changed(
        id=str(record["id"]),
        modified_at=shapes.moment(properties.get(by)) or shapes.modified_at(record),
        merged_ids=tuple(shapes.merged_ids(record)),
    )
