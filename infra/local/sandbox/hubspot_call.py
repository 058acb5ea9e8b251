"""What HubSpot's calls have in common: the call itself, its object type, and the making of one record.

Law: raises HubSpot's own errors; answers nothing.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.activities import associate
from infra.local.sandbox.hubspot_errors import HubSpotError, bad_request, invalid_properties
from infra.local.sandbox.hubspot_values import accept, by_property
from infra.local.sandbox.limits import Fault
from infra.local.sandbox.objects import HUBSPOT_ACTIVITIES, HubSpotType, hubspot_type
from infra.local.sandbox.state import Account, Record, Token, World
from infra.local.sandbox.web import Request


class Call:
    """One authenticated call: the request, whose it is, and the fault it meets."""

    __slots__ = ("account", "body", "fault", "request", "token")

    def __init__(self, request: Request, account: Account, token: Token, fault: Fault | None) -> None:
        self.request = request
        self.account = account
        self.token = token
        self.fault = fault
        self.body: dict[str, Any] = request.json() if request.body else {}

    @property
    def failing_rows(self) -> int:
        """How many of the first rows of a batch a planted fault lets fail."""
        return self.fault.rows if self.fault is not None and self.fault.kind == "207" else 0


def kind_of(name: str) -> HubSpotType:
    """The object type of a path, or HubSpot's 400."""
    kind = hubspot_type(name)
    if kind is None:
        raise bad_request(f"Unable to infer object type from: {name}")
    return kind


def create_one(world: World, account: Account, kind: HubSpotType, row: dict[str, Any], token: Token) -> Record:
    """Create a record with its associations, or raise HubSpot's error for what is wrong with it."""
    values, problems = accept(account, kind.plural, row.get("properties", {}))
    if problems:
        raise invalid_properties(problems)
    email = str(values.get("email") or "")
    if kind.plural == "contacts" and email and (other := by_property(account, "contacts", "email", email)):
        raise HubSpotError(409, "CONFLICT", f"Contact already exists. Existing ID: {other.id}")
    partners = []
    for association in row.get("associations") or ():
        target = str(association.get("to", {}).get("id", ""))
        partner = next(
            (found for rows in account.records.values() if (found := rows.get(target)) and not found.archived), None
        )
        if partner is None:
            raise bad_request(f"One or more associations are not valid: no object {target}")
        partners.append(partner)
    if kind.plural in HUBSPOT_ACTIVITIES and not values.get("hs_timestamp"):
        raise bad_request(
            "Error creating engagement. Some required properties were not set.",
            context={"properties": ["hs_timestamp"]},
        )
    record = world.create(account, kind.plural, values, token.actor)
    for partner in partners:
        associate(world, account, record, partner, token.actor)
    return record
