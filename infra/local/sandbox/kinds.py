"""Which of a vendor's object types a control call or a page's address means.

Law: pure lookup.
"""

from __future__ import annotations

from infra.local.sandbox.objects import SALESFORCE, hubspot_type, salesforce_type
from infra.local.sandbox.state import Account


class ControlError(ValueError):
    """A control call that cannot be carried out; the message says what to give instead."""


_NATIVE = {
    "lead": "Lead",
    "contact": "Contact",
    "company": "Account",
    "deal": "Opportunity",
    "note": "Task",
    "email": "EmailMessage",
}


def kind_name(account: Account, name: str) -> str:
    """A vendor's own type name from it or from the journal's name; raises ControlError for what is neither."""
    if account.vendor == "hubspot":
        kind = hubspot_type(name)
        if kind is not None:
            return kind.plural
    else:
        found = salesforce_type(name if name in SALESFORCE else _NATIVE.get(name.lower(), name))
        if found is not None:
            return found.name
    raise ControlError(f"{account.key} has no object {name!r}: use contact, company, deal, lead, note or email")
