"""How many calls of a CRM's API a refresh takes, and how many an account may make a day.

Law: reckons, asks nobody. A page is one batch read with what hangs on its records; the numbers are upper bounds, for a kind
of note that no record of a page has is not fetched.

Sources: HubSpot, "API usage guidelines and limits" (private apps: 250,000 calls a day, more with an add-on); Salesforce,
"API Request Limits and Allocations" (Enterprise: 100,000 and 1,000 a user, in 24 hours). An account's own number goes
into its configuration as `daily_calls`.
"""

from __future__ import annotations

from infra.accounts import Account

BUDGETS = {"hubspot": 250_000, "salesforce": 100_000}
_RELATED = {"hubspot": {"contact": 1, "company": 0, "deal": 2, "lead": 2, "ticket": 0}}
_ACTIVITIES = 3
"""Notes, e-mails and tasks."""


def calls_for(crm: str, object_: str, records: int) -> int:
    """Calls for one page of up to 100 records of one kind."""
    if not records:
        return 0
    if crm == "hubspot":
        kinds = _ACTIVITIES + _RELATED["hubspot"].get(object_, 0)
        # The records, what hangs on them, and each kind of that.
        return 1 + 2 * kinds
    # The records, four kinds of texts, and the companies and contacts of deals.
    return 5 + (3 if object_ == "deal" else 1)


def budget_of(account: Account | None) -> int:
    """Calls a day; 0: not known."""
    if account is None:
        return 0
    return int(account.config.get("daily_calls") or BUDGETS.get(account.crm, 0))
