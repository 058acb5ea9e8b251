"""What of the HubSpot project app follows from what we read: scopes and webhook subscriptions, as source files.

Law: written from the scopes that we ask for and the properties that we read, so that an app hears of what matters and of
nothing else; never of our own properties. A test compares the files with what this makes. Run
`python -m infra.crm.hubspot_project` after a new concept or scope.
Sources: HubSpot's developer platform 2026.09, "App configuration" and "Configure a webhook subscription".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.crm.concepts import MAPS
from infra.crm.hubspot_shapes import PREFIX
from infra.crm.oauth import HUBSPOT_OPTIONAL_SCOPES, HUBSPOT_SCOPES

SOURCE = Path(__file__).parents[1] / "crm_apps" / "hubspot" / "src" / "app"
OBJECTS = ("contact", "company", "deal", "ticket")
NOTE_PROPERTIES = ("hs_note_body",)
AT_ONCE = 10
"""Requests that HubSpot may have open to us at a time: its own default."""
_DERIVED = frozenset({"num_notes", "num_associated_deals", "num_associated_contacts", "notes_last_updated"})
"""Counters and times that HubSpot moves by itself whenever a note or an association does: those have events of their own."""


def files() -> dict[str, str]:
    """Every file that follows from what we read: its path below the source folder, and its text."""
    return {"app-hsmeta.json": _text(_app()), "webhooks/webhooks-hsmeta.json": _text(_webhooks())}


def write(folder: Path = SOURCE) -> list[Path]:
    """Write them. Blocking."""
    made = {folder / name: text for name, text in files().items()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sorted(made)


def _app() -> dict[str, Any]:
    return {
        "uid": "hookline_app",
        "type": "app",
        "config": {
            "name": "Hookline",
            "description": "Scores records and says why, collects what customers ask for, and finds what to mend in their data.",
            "distribution": "private",
            "auth": {
                "type": "oauth",
                "redirectUrls": ["${HOOKLINE_API_URL}/oauth/hubspot/callback"],
                "requiredScopes": list(HUBSPOT_SCOPES),
                "optionalScopes": list(HUBSPOT_OPTIONAL_SCOPES),
                "conditionallyRequiredScopes": [],
            },
            "permittedUrls": {"fetch": ["${HOOKLINE_API_URL}"], "iframe": [], "img": []},
        },
    }


def _webhooks() -> dict[str, Any]:
    return {
        "uid": "hookline_webhooks",
        "type": "webhooks",
        "config": {
            "settings": {"targetUrl": "${HOOKLINE_ENDPOINT_URL}", "maxConcurrentRequests": AT_ONCE},
            "subscriptions": {
                "crmObjects": list(_subscriptions()),
                "legacyCrmObjects": [],
                "hubEvents": [{"subscriptionType": "contact.privacyDeletion", "active": True}],
            },
        },
    }


def _subscriptions() -> Iterator[dict[str, Any]]:
    for name in OBJECTS:
        for action in ("creation", "deletion", "merge", "restore", "associationChange"):
            yield _one(action, name)
        for field in sorted(set(MAPS["hubspot"][name].values()) - _DERIVED):
            if not field.startswith(PREFIX):
                yield _one("propertyChange", name, field)
    for action in ("creation", "deletion", "restore", "associationChange"):
        yield _one(action, "note")
    for field in NOTE_PROPERTIES:
        yield _one("propertyChange", "note", field)


def _one(action: str, name: str, field: str | None = None) -> dict[str, Any]:
    named = {} if field is None else {"propertyName": field}
    return {"subscriptionType": f"object.{action}", "objectType": name, **named, "active": True}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=4) + "\n"


if __name__ == "__main__":
    for written in write():
        sys.stdout.write(f"{written}\n")
