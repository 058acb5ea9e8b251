"""How many calls of a CRM's API a refresh takes, and how many of its day an account has left for that.

Law: reckons, and asks no CRM: what is left of a day is what the gate of CRM calls keeps in Redis, as its vendor last said it.
What is read beside a record is told by the very tables that the clients read by. Published numbers of a vendor stand in only
where an account has not told its own yet, and are named as such.

Sources: HubSpot, "API usage guidelines and limits" (private apps: 250,000 calls a day, more with an add-on); Salesforce,
"API Request Limits and Allocations" (Enterprise: 100,000 and 1,000 a user, in 24 hours).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from redis.asyncio import Redis
from redis.exceptions import RedisError

from infra.accounts import Account
from infra.crm import hubspot_shapes as hubspot
from infra.crm import salesforce_shapes as salesforce
from infra.crm.limits import policy_of
from infra.crm.limits_gate import Standing, standing
from infra.settings import Settings

PUBLISHED = {"hubspot": 250_000, "salesforce": 100_000}
"""Calls a day."""
HUBSPOT_BATCH = 100
SALESFORCE_BATCH, SALESFORCE_PAGES, SALESFORCE_CONTACTS = 200, 3, 20
"""As the clients have them, whose modules take their vendors' libraries with them; a test holds that they are the same."""
_ACTIVITIES = frozenset({"note", "email"})
_FULLEST = "deal"
"""The kind of record beside which most is read: what a note hangs on is reckoned as one."""
_TEXTS = 4
"""Salesforce's tasks, classic notes, links to newer notes, and those."""


def calls_for(crm: str, object_: str, records: int) -> int:
    """Calls for one page of up to 100 records of one kind, where of what hangs on them each kind fits into one."""
    if not records:
        return 0
    if object_ in _ACTIVITIES:
        # What they hang on is looked up, and then read.
        return _lookups(crm) + calls_for(crm, _FULLEST, records)
    if crm == "hubspot":
        # The records, what hangs on them, and each kind of that.
        return 1 + 2 * len(_capped(object_))
    deal, person = object_ == "deal", object_ in {"contact", "lead"}
    # The records, texts (a person's e-mails are tasks), companies, and the roles and contacts of deals.
    return 2 + _TEXTS + (not person) + 2 * deal


def most_calls_for(crm: str, object_: str, records: int) -> int:
    """The same where each record has as much on it as is read of it, and was written to while it was read."""
    if not records:
        return 0
    if object_ in _ACTIVITIES:
        return _lookups(crm) + most_calls_for(crm, _FULLEST, records)
    # Which fields there are, the records, and those again that a newer note shows to be late.
    first = 3
    if crm == "hubspot":
        caps = _capped(object_)
        return first + len(caps) + sum(ceil(records * cap / HUBSPOT_BATCH) for cap in caps.values())
    deal, person = object_ == "deal", object_ in {"contact", "lead"}
    notes = ceil(records * salesforce.MAX_NOTES / SALESFORCE_BATCH) * SALESFORCE_PAGES
    queries = SALESFORCE_PAGES * (_TEXTS - 1 + (not person) + deal)
    contacts = ceil(records * SALESFORCE_CONTACTS / SALESFORCE_BATCH) if deal else 0
    # Companies, and what the missing were merged into.
    return first + notes + queries + contacts + 1 + (not deal)


def _capped(object_: str) -> dict[str, int]:
    """Kinds of what is read beside HubSpot's records, and at most how many of each."""
    if object_ not in hubspot.RELATED:
        return {}
    return {**dict.fromkeys(hubspot.ACTIVITIES, hubspot.MAX_NOTES), **hubspot.RELATED[object_]}


def _lookups(crm: str) -> int:
    return len(hubspot.SINGULARS) if crm == "hubspot" else _TEXTS


@dataclass(frozen=True, slots=True)
class Budget:
    """What one account's day has for bulk work, which a refresh is."""

    a_day: int
    """Everybody's calls, as the narrowest limit has them; 0: not known."""
    left: int | None
    """Of it, what bulk work may still make today; None: not known."""
    bulk_share: float
    """Part of the day from which on bulk work stops."""
    said_by: str
    """Who sets `a_day`, for people."""


def published(account: Account | None) -> int:
    """Calls a day as the vendor publishes them; 0: not known."""
    return 0 if account is None else PUBLISHED.get(account.crm, 0)


async def budget_of(settings: Settings, redis: Redis, account: Account) -> Budget:
    """As the gate keeps it; without Redis what is published."""
    try:
        found: Standing | None = await standing(redis, account.id)
    except RedisError:
        found = None
    return budget(settings, account, found)


def budget(settings: Settings, account: Account, found: Standing | None) -> Budget:
    """The narrowest of the limits by which the gate lets bulk work through."""
    share = 1 - policy_of(settings, account.crm).bulk_free_share
    ours = found.calls_today if found else 0
    limits: list[tuple[int, int, str]] = []
    if found and found.day_limit:
        limits.append((found.day_limit, found.day_used or 0, f"{account.crm} last said"))
    elif account.crm in PUBLISHED:
        limits.append(
            (PUBLISHED[account.crm], ours, f"{account.crm} publishes, for the account has not told its own yet")
        )
    if settings.crm_daily_calls:
        limits.append((settings.crm_daily_calls, ours, "HOOKLINE_CRM_DAILY_CALLS says"))
    if not limits:
        return Budget(0, None, share, "")
    room, a_day, said_by = min((max(0, floor(a_day * share) - used), a_day, said_by) for a_day, used, said_by in limits)
    return Budget(a_day, room, share, said_by)
