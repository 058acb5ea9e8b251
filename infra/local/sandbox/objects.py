"""The kinds of CRM objects: their names in each vendor's API, in webhooks and in the journal.

Law: the journal says `contact`, `company`, `deal`, `lead`, `ticket`, `note`, `email` or `other` for either vendor.
"""

from __future__ import annotations

from typing import NamedTuple


class HubSpotType(NamedTuple):
    """One HubSpot object type."""

    plural: str
    canonical: str
    type_id: str
    legacy: str
    """The prefix of its older webhook subscriptions, or an empty string where there are none."""
    created: str
    """The property that holds when it was created."""
    modified: str
    """The property that holds when it was last modified."""
    defaults: tuple[str, ...]
    """What a read returns when no properties are named."""


class SalesforceType(NamedTuple):
    """One Salesforce object type."""

    name: str
    canonical: str
    prefix: str
    parent: str
    """The field that links an activity to the record it is about, or an empty string."""


HUBSPOT: dict[str, HubSpotType] = {
    kind.plural: kind
    for kind in (
        HubSpotType(
            "contacts",
            "contact",
            "0-1",
            "contact",
            "createdate",
            "lastmodifieddate",
            ("firstname", "lastname", "email"),
        ),
        HubSpotType("companies", "company", "0-2", "company", "createdate", "hs_lastmodifieddate", ("name", "domain")),
        HubSpotType(
            "deals",
            "deal",
            "0-3",
            "deal",
            "createdate",
            "hs_lastmodifieddate",
            ("dealname", "amount", "closedate", "dealstage", "pipeline"),
        ),
        HubSpotType(
            "tickets",
            "ticket",
            "0-5",
            "ticket",
            "createdate",
            "hs_lastmodifieddate",
            ("subject", "content", "hs_pipeline", "hs_pipeline_stage"),
        ),
        HubSpotType("leads", "lead", "0-136", "", "hs_createdate", "hs_lastmodifieddate", ()),
        HubSpotType("notes", "note", "0-46", "", "hs_createdate", "hs_lastmodifieddate", ()),
        HubSpotType("emails", "email", "0-49", "", "hs_createdate", "hs_lastmodifieddate", ()),
        HubSpotType("tasks", "note", "0-27", "", "hs_createdate", "hs_lastmodifieddate", ()),
    )
}
HUBSPOT_ACTIVITIES = frozenset({"notes", "emails", "tasks"})

_HUBSPOT_NAMES: dict[str, str] = {
    alias: kind.plural
    for kind in HUBSPOT.values()
    for alias in (kind.plural, kind.type_id, "task" if kind.plural == "tasks" else kind.canonical)
}


def hubspot_type(name: str) -> HubSpotType | None:
    """A type by its plural, singular or type id (`contacts`, `contact`, `0-1`), as HubSpot's paths allow."""
    plural = _HUBSPOT_NAMES.get(name.lower())
    return HUBSPOT[plural] if plural else None


SALESFORCE: dict[str, SalesforceType] = {
    kind.name: kind
    for kind in (
        SalesforceType("Lead", "lead", "00Q", ""),
        SalesforceType("Contact", "contact", "003", ""),
        SalesforceType("Account", "company", "001", ""),
        SalesforceType("Opportunity", "deal", "006", ""),
        SalesforceType("Task", "note", "00T", "WhatId"),
        SalesforceType("EmailMessage", "email", "02s", "RelatedToId"),
        SalesforceType("Note", "note", "002", "ParentId"),
        SalesforceType("ContentNote", "note", "069", ""),
        SalesforceType("OpportunityContactRole", "other", "00K", ""),
        SalesforceType("User", "other", "005", ""),
        SalesforceType("Organization", "other", "00D", ""),
    )
}
_SALESFORCE_NAMES = {name.lower(): name for name in SALESFORCE}
_SALESFORCE_PREFIXES = {kind.prefix: kind for kind in SALESFORCE.values()}


def salesforce_type(name: str) -> SalesforceType | None:
    """A type by its API name in any case, as Salesforce allows."""
    found = _SALESFORCE_NAMES.get(name.lower())
    return SALESFORCE[found] if found else None


def salesforce_type_of_id(record_id: str) -> SalesforceType | None:
    """The type that an id's first three characters name."""
    return _SALESFORCE_PREFIXES.get(record_id[:3])


# HubSpot's own association types, `associationTypeId` by (from, to); the primary ones beside the plain ones.
ASSOCIATION_TYPES: dict[tuple[str, str], int] = {
    ("contacts", "companies"): 279,
    ("companies", "contacts"): 280,
    ("contacts", "deals"): 4,
    ("deals", "contacts"): 3,
    ("companies", "deals"): 342,
    ("deals", "companies"): 341,
    ("notes", "contacts"): 202,
    ("contacts", "notes"): 201,
    ("notes", "companies"): 190,
    ("companies", "notes"): 189,
    ("notes", "deals"): 214,
    ("deals", "notes"): 213,
    ("emails", "contacts"): 198,
    ("contacts", "emails"): 197,
    ("emails", "companies"): 186,
    ("companies", "emails"): 185,
    ("emails", "deals"): 210,
    ("deals", "emails"): 209,
    ("tasks", "contacts"): 204,
    ("contacts", "tasks"): 203,
    ("tasks", "companies"): 192,
    ("companies", "tasks"): 191,
    ("tasks", "deals"): 216,
    ("deals", "tasks"): 215,
    ("leads", "contacts"): 578,
    ("contacts", "leads"): 579,
    ("leads", "companies"): 610,
    ("companies", "leads"): 611,
    ("tickets", "contacts"): 16,
    ("contacts", "tickets"): 15,
    ("tickets", "companies"): 339,
    ("companies", "tickets"): 340,
    ("deals", "tickets"): 27,
    ("tickets", "deals"): 28,
}
PRIMARY_TYPES: dict[tuple[str, str], int] = {
    ("contacts", "companies"): 1,
    ("companies", "contacts"): 2,
    ("deals", "companies"): 5,
    ("companies", "deals"): 6,
}
