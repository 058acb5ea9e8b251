"""Schemes of senders that many have, so that nobody copies them from a manual: `preset: github` in a declaration.

Law: data alone, in the words that a declaration itself would use; what the declaration says outweighs the preset.
Sources: GitHub, "Validating webhook deliveries"; Stripe, "Resolve webhook signature verification errors"; Slack, "Verifying
requests from Slack"; Meta, "Webhooks: Getting started"; standardwebhooks.com. `salesforce_callout` is our own: what docs/senders.md
shows in Apex.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "github": {
        "verify": {"scheme": "hmac", "header": "X-Hub-Signature-256", "prefix": "sha256="},
    },
    "stripe": {
        "verify": {
            "scheme": "hmac",
            "header": "Stripe-Signature",
            "elements": {"signature": "v1"},
            "timestamp": {"element": "t"},
            "signed": "{timestamp}.{body}",
        },
    },
    "slack": {
        "verify": {
            "scheme": "hmac",
            "header": "X-Slack-Signature",
            "prefix": "v0=",
            "timestamp": {"header": "X-Slack-Request-Timestamp"},
            "signed": "v0:{timestamp}:{body}",
        },
        "handshake": {"kind": "slack"},
    },
    "meta": {
        "verify": {"scheme": "hmac", "header": "X-Hub-Signature-256", "prefix": "sha256="},
    },
    "standard_webhooks": {
        "verify": {"scheme": "standard_webhooks"},
    },
    "salesforce_callout": {
        "verify": {
            "scheme": "hmac",
            "header": "X-Hookline-Signature",
            "prefix": "v1=",
            "timestamp": {"header": "X-Hookline-Timestamp", "unit": "ms"},
            "signed": "{timestamp}.{body}",
        },
        "changes": {
            "events": "body.changes",
            "account": "join(':', ['salesforce', body.organizationId])",
            "object": "event.sObject",
            "id": "event.id",
            "kind": "event.operation",
            "occurred_at": "event.occurredAt",
            "event_id": "event.eventId",
            "fields": "event.fields",
            "edited_by": "event.userId",
            "objects": {
                "Contact": "contact",
                "Account": "company",
                "Opportunity": "deal",
                "Lead": "lead",
                "Case": "ticket",
                "*": "ignore",
            },
            "kinds": {
                "insert": "created",
                "create": "created",
                "update": "updated",
                "delete": "deleted",
                "undelete": "restored",
            },
        },
    },
}


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what its preset says; `verify` and `changes` may differ from the preset in single fields.

    Raises ValueError for a preset that nobody knows.
    """
    name = given.get("preset")
    if name is None:
        return dict(given)
    preset = PRESETS.get(str(name))
    if preset is None:
        raise ValueError(f"preset is not known; there are {', '.join(sorted(PRESETS))}")
    found = {**preset, **given}
    for part in ("verify", "changes"):
        if isinstance(given.get(part), Mapping) and part in preset:
            found[part] = {**preset[part], **given[part]}
    return found
