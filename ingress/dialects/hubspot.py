"""HubSpot's events in our words.

Law: one bad event never costs the others of its delivery; details name a field and a position, never a value.
Source: "Webhooks API" of HubSpot's developer documentation; both the typed (`contact.creation`) and the generic form
(`object.creation` with `objectTypeId`) are read, and `eventType` is taken where `subscriptionType` is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from infra.crm.own_fields import is_echo
from ingress.sources.source import Event, Ignored, Translated, Untranslatable
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import ObjectType

if TYPE_CHECKING:
    from infra.accounts import Endpoint

OWN_PREFIXES = ("hookline_",)
"""Our own properties: an event on one is the echo of our own write and is dropped unread, unless people write there."""

OBJECT_TYPES: dict[str, ObjectType] = {
    "0-1": "contact",
    "0-2": "company",
    "0-3": "deal",
    "0-5": "ticket",
    "0-46": "note",
    "0-49": "email",
    "0-136": "lead",
}
"""objectTypeId → our name. Every other one, custom objects (`2-...`) included, is an object that nothing reads."""

_NOUNS: dict[str, ObjectType] = {name: name for name in OBJECT_TYPES.values()}
_UNREAD = frozenset(
    (
        *("product", "line_item", "conversation", "quote", "call", "meeting", "task", "communication", "postal_mail"),
        *("invoice", "order", "cart", "subscription", "payment", "commerce_payment", "discount", "fee", "tax", "user"),
        *(
            "marketing_event",
            "feedback_submission",
            "goal_target",
            "service",
            "course",
            "listing",
            "appointment",
            "project",
        ),
    )
)
"""Other objects that HubSpot has: harmless, dropped and counted."""

_HANGS_ON: dict[str, ObjectType] = {name: name for name in OBJECT_TYPES.values() if name not in {"note", "email"}}
"""Records that look different once something is associated with them; a note by itself does not."""

_SIMPLE: dict[str, ChangeKind] = {
    "creation": "created",
    "deletion": "deleted",
    "restore": "restored",
    "privacyDeletion": "erased",
}
MAX_MERGED = 1_000
_BULK = frozenset({"IMPORT", "MIGRATION"})
_IDENTITY: tuple[str, ...] = ("portalId", "subscriptionId", "eventId", "objectId", "propertyName", "occurredAt")
_NESTED = (dict, list)
_LAST_MOMENT_MS = 253_402_300_799_999


class _BadEventError(ValueError):
    """What is wrong with one event, in words that hold none of it."""


@dataclass(slots=True)
class _Reader:
    """One event and what stands beside it."""

    event: dict[str, Any]
    position: int
    account: str
    received_at: datetime

    def read(self) -> Iterable[Translated]:
        """What the event says; raises _BadEventError, after having given what it could."""
        name = self.event.get("subscriptionType", self.event.get("eventType"))
        if not isinstance(name, str) or "." not in name:
            raise _BadEventError("subscriptionType is not of the form object.action")
        noun, _, action = name.partition(".")
        if action == "associationChange":
            yield from self._association()
            return
        found = self._object(noun)
        if found is None:
            yield self._unsupported("subscriptionType names an object that we do not know")
        elif found == "other":
            yield Ignored("unread_object", self.account)
        elif action == "propertyChange":
            yield self._property_change(found)
        elif action == "merge":
            yield from self._merge(found)
        elif action in _SIMPLE:
            yield self._made(found, _whole(self.event, "objectId"), _SIMPLE[action])
        else:
            yield self._unsupported("subscriptionType names an action that we do not know")

    def _property_change(self, found: ObjectType) -> Translated:
        field = self.event.get("propertyName")
        if not isinstance(field, str) or not 0 < len(field) <= 255:
            raise _BadEventError("propertyName is not a text of 1 to 255 characters")
        if is_echo(field, OWN_PREFIXES):
            return Ignored("own_property", self.account)
        return self._made(found, _whole(self.event, "objectId"), "updated", properties=(field,))

    def _merge(self, found: ObjectType) -> Iterable[Translated]:
        primary = _whole(self.event, "primaryObjectId")
        survivor = _whole(self.event, "newObjectId") if self.event.get("newObjectId") is not None else primary
        gone = self.event.get("mergedObjectIds", [])
        if not isinstance(gone, list) or len(gone) > MAX_MERGED:
            raise _BadEventError(f"mergedObjectIds is not an array of at most {MAX_MERGED}")
        # A merge may leave a record of a new id; then the primary one is gone as well.
        all_ids = (*(_number(one, "mergedObjectIds") for one in gone), primary)
        merged = tuple(dict.fromkeys(one for one in all_ids if one != survivor))
        yield self._made(found, survivor, "merged", merged_ids=merged)
        for one in merged:
            yield self._made(found, one, "deleted")

    def _association(self) -> Iterable[Translated]:
        """A change for each end that looks different now; the note or e-mail at the other end does not."""
        legacy = self.event.get("associationType")
        halves = legacy.lower().split("_to_") if isinstance(legacy, str) else []
        touched = False
        for index, end in enumerate(("from", "to")):
            type_id = self.event.get(f"{end}ObjectTypeId")
            if isinstance(type_id, str):
                noun: str = OBJECT_TYPES.get(type_id, "other")
            elif len(halves) == 2:
                noun = halves[index]
            else:
                raise _BadEventError(f"{end}ObjectTypeId and associationType are both missing")
            found = _HANGS_ON.get(noun)
            if found is not None:
                touched = True
                yield self._made(found, _whole(self.event, f"{end}ObjectId"), "associated")
        if not touched:
            yield Ignored("unread_object", self.account)

    def _object(self, noun: str) -> ObjectType | None:
        """Our name; `other` for what nothing reads; None for a word that HubSpot did not have when this was written."""
        if noun == "object":
            type_id = self.event.get("objectTypeId")
            if not isinstance(type_id, str):
                raise _BadEventError("objectTypeId is missing, and subscriptionType is a generic one")
            return OBJECT_TYPES.get(type_id, "other")
        return _NOUNS.get(noun, "other" if noun in _UNREAD else None)

    def _unsupported(self, detail: str) -> Untranslatable:
        return Untranslatable(Cause.UNSUPPORTED_EVENT, detail, self.position, self.account)

    def _made(
        self,
        found: ObjectType,
        record_id: str,
        kind: ChangeKind,
        *,
        properties: tuple[str, ...] = (),
        merged_ids: tuple[str, ...] = (),
    ) -> Event:
        source, change_source = self.event.get("sourceId"), self.event.get("changeSource")
        return Event(
            account=self.account,
            key=_key(self.event),
            position=self.position,
            object=found,
            id=record_id,
            kind=kind,
            occurred_at=_moment(self.event.get("occurredAt"), self.received_at),
            properties=properties,
            merged_ids=merged_ids,
            edited_by=source
            if isinstance(source, str) and source.startswith("userId:") and len(source) <= 64
            else None,
            bulk=isinstance(change_source, str) and change_source in _BULK,
        )


def translate(delivery: Delivery, endpoint: Endpoint) -> Iterator[Translated]:
    """Each event of the array; a body that is no array of objects is one dead letter."""
    try:
        events = orjson.loads(delivery.body)
    except orjson.JSONDecodeError as error:
        yield Untranslatable(Cause.MALFORMED_BODY, f"not JSON: byte {error.pos}")
        return
    if not isinstance(events, list):
        yield Untranslatable(Cause.MALFORMED_BODY, f"expected an array of events, found {_kind(events)}")
        return
    if not events:
        yield Ignored("empty")
    app = str(endpoint.config.get("app_id") or "")
    for position, event in enumerate(events):
        if not isinstance(event, dict):
            yield Untranslatable(Cause.MALFORMED_BODY, f"expected an object, found {_kind(event)}", position)
            continue
        account: str | None = None
        try:
            account = f"hubspot:{_whole(event, 'portalId')}"
            if app and event.get("appId") is not None and _whole(event, "appId") != app:
                yield Untranslatable(
                    Cause.FOREIGN_ACCOUNT, "the event belongs to another app than the endpoint", position, account
                )
            else:
                yield from _Reader(event, position, account, delivery.received_at).read()
        except _BadEventError as error:
            yield Untranslatable(Cause.MALFORMED_BODY, str(error), position, account)


def _key(event: dict[str, Any]) -> str:
    """Without attemptNumber, because that is what differs when the same event comes again.

    `eventId` alone is not unique, and some events have none; then what else tells two events apart takes its place.
    """
    names = _IDENTITY
    if event.get("eventId") is None:
        names = (*names, "subscriptionType", "eventType", "objectTypeId", "propertyValue")
    if event.get("objectId") is None:
        names = (
            *names,
            "fromObjectId",
            "toObjectId",
            "associationType",
            "associationTypeId",
            "associationRemoved",
            "primaryObjectId",
        )
    values = [event.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, _NESTED):
            raise _BadEventError(f"{name} is neither a text nor a number")
    return orjson.dumps(values).decode()


def _whole(event: dict[str, Any], name: str) -> str:
    if name not in event:
        raise _BadEventError(f"{name} is missing")
    return _number(event[name], name)


def _number(value: Any, name: str) -> str:
    """HubSpot's ids are positive 64-bit numbers; a text of digits is taken too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise _BadEventError(f"{name} is not a positive whole number")
    return str(value)


def _moment(value: Any, received_at: datetime) -> datetime:
    if value is None:
        return received_at
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LAST_MOMENT_MS:
        raise _BadEventError("occurredAt is not a time in milliseconds")
    return datetime.fromtimestamp(value / 1000, UTC)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )
