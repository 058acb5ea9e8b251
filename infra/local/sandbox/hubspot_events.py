"""Changes as the events of HubSpot's webhooks, in the shapes that published deliveries show.

Law: one event a property; a creation is not first; ids, names and sources as HubSpot writes them. Sends nothing.
"""

from __future__ import annotations

import random
import zlib
from typing import Any, Literal

from infra.local.sandbox.activities import link_types
from infra.local.sandbox.identifiers import millis
from infra.local.sandbox.objects import HUBSPOT, PRIMARY_TYPES, HubSpotType
from infra.local.sandbox.state import Save

Form = Literal["generic", "legacy", "mixed"]
Event = dict[str, Any]
_PRIMARY = frozenset(PRIMARY_TYPES.values())


class EventWriter:
    """Writes one app's events."""

    def __init__(self, app_id: int, form: Form, ignored_prefixes: tuple[str, ...], chance: random.Random) -> None:
        self.app_id = app_id
        self.form = form
        self.ignored_prefixes = ignored_prefixes
        self.chance = chance

    def events(self, save: Save) -> list[Event]:
        """The events that one change causes; empty for one that this app is not subscribed to."""
        if save.kind == "associated":
            return self._associated(save)
        if save.kind == "touched":
            return []
        kind = HUBSPOT[save.record.type]
        events = [*self._changes(save, kind), *self._whole(save, kind)]
        if len(events) > 1:
            self.chance.shuffle(events)
            # HubSpot's own order is none; what must not be relied on is that the creation comes first.
            if "changeFlag" in events[0]:
                events.append(events.pop(0))
        return events

    def _changes(self, save: Save, kind: HubSpotType) -> list[Event]:
        """One event for each property that changed."""
        events = []
        for name, value in save.changed.items():
            if self.ignored_prefixes and name.startswith(self.ignored_prefixes):
                continue
            event = self._event(save, kind, "propertyChange", name)
            event |= {"propertyName": name, "propertyValue": _event_value(save, name, value)}
            if "objectTypeId" in event:
                event["isSensitive"] = False
            events.append(event)
        return events

    def _whole(self, save: Save, kind: HubSpotType) -> list[Event]:
        """What became of the record as a whole."""
        if save.kind == "erased":
            return self._erased(save, kind)
        if save.kind == "merged":
            primary = int(save.record.id)
            event = self._event(save, kind, "merge")
            event |= {
                "primaryObjectId": primary,
                "mergedObjectIds": [int(loser) for loser in save.details["merged"]],
                "newObjectId": primary,
                "numberOfPropertiesMoved": save.details["moved"],
            }
            return [event]
        action = {"created": "creation", "deleted": "deletion", "restored": "restore"}.get(save.kind)
        if action is None:
            return []
        event = self._event(save, kind, action)
        if save.kind != "restored":
            event["changeFlag"] = "CREATED" if save.kind == "created" else "DELETED"
        return [event]

    def _generic(self, kind: HubSpotType, action: str, name: str) -> bool:
        if not kind.legacy:
            return True
        if self.form == "mixed":
            # An app subscribes to a property in one form or the other, and that does not change from event to event.
            return zlib.crc32(f"{kind.plural}.{action}.{name}".encode()) % 2 == 0
        return self.form == "generic"

    def _event(self, save: Save, kind: HubSpotType, action: str, name: str = "") -> Event:
        generic = self._generic(kind, action, name)
        subscription = f"{'object' if generic else kind.legacy}.{action}"
        event: Event = {
            "eventId": self.chance.randrange(1, 4_294_967_295),
            "subscriptionId": 2_000_000
            + zlib.crc32(f"{self.app_id}.{kind.type_id}.{subscription}.{name}".encode()) % 6_000_000,
            "portalId": int(save.account.number),
            "appId": self.app_id,
            "occurredAt": save.at,
            "subscriptionType": subscription,
            "attemptNumber": 0,
            "objectId": int(save.record.id),
            "changeSource": save.actor.source,
            "sourceId": save.actor.source_id,
        }
        if generic:
            event["objectTypeId"] = kind.type_id
        return event

    def _erased(self, save: Save, kind: HubSpotType) -> list[Event]:
        deletion = {**self._event(save, kind, "deletion"), "changeFlag": "DELETED"}
        if not kind.legacy:
            return [deletion]
        erased = self._event(save, kind, "privacyDeletion")
        # There is no generic form of it.
        erased.pop("objectTypeId", None)
        erased["subscriptionType"] = f"{kind.legacy}.privacyDeletion"
        return [deletion, erased]

    def _associated(self, save: Save) -> list[Event]:
        """Both directions, since an app may be subscribed on either side."""
        events = []
        for one, other in ((save.record, save.details["other"]), (save.details["other"], save.record)):
            kind, other_kind = HUBSPOT[one.type], HUBSPOT[other.type]
            types = one.links.get(other.type, {}).get(other.id) or link_types(one.type, other.type)
            event = self._event(save, kind, "associationChange")
            event |= {
                "objectId": int(one.id),
                "associationType": f"{kind.canonical}_TO_{other_kind.canonical}".upper(),
                "fromObjectId": int(one.id),
                "toObjectId": int(other.id),
                "associationRemoved": save.details["removed"],
                "isPrimaryAssociation": types[0] in _PRIMARY,
            }
            if "objectTypeId" in event:
                event |= {
                    "fromObjectTypeId": kind.type_id,
                    "toObjectTypeId": other_kind.type_id,
                    "associationTypeId": types[0],
                    "associationCategory": "HUBSPOT_DEFINED",
                }
            events.append(event)
        return events


def _event_value(save: Save, name: str, value: Any) -> str:
    """Times are epoch milliseconds in webhooks, although the API shows them in ISO 8601."""
    text = "" if value is None else str(value)
    definition = save.account.catalogue[save.record.type].get(name)
    if definition is not None and definition.type in {"datetime", "date"}:
        moment = millis(text)
        return str(moment) if moment is not None else text
    return text
