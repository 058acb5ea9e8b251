"""Salesforce's change events in our words.

Law: pure; the schema has to be in `ingress/pubsub/avro.py` by then. An echo is dropped only where who wrote it is us *and* every field
that changed is ours or the system's: a person's edit, or an automation's, in the same transaction always passes.
Source: "Change Event Header Fields", "Gap Events" and "Overflow Events" of Salesforce's Change Data Capture guide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ingress.dialects.salesforce import OBJECTS, PREFIXES, long_id, parents_of
from ingress.pubsub.avro import KNOWN, Schema
from ingress.pubsub.bitmaps import names
from ingress.pubsub.frame import Frame
from ingress.sources.source import Event, Ignored, Resync, Translated, Untranslatable
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import ObjectType, Reason

if TYPE_CHECKING:
    from infra.accounts import Endpoint

HEADER: Final = "ChangeEventHeader"
OWN_PREFIX: Final = "hookline_"
OWN_CLIENT: Final = "hookline"
SYSTEM_FIELDS: Final = frozenset({"LastModifiedDate", "LastModifiedById", "SystemModstamp"})
"""Move with every save, whoever saves."""
BEFORE: Final = timedelta(minutes=15)
"""A transaction may last; what it wrote first carries a time so much before its commit, at most ten minutes."""
KINDS: Final[dict[str, ChangeKind]] = {
    "CREATE": "created",
    "UPDATE": "updated",
    "DELETE": "deleted",
    "UNDELETE": "restored",
}
_GAP: Final = "GAP_"
_WILDCARD: Final = re.compile(r"([A-Za-z0-9]{3})\*+")
_CLIENT: Final = re.compile(r"(?:^|;)\s*client=([^;]*)")


def translate(delivery: Delivery, endpoint: Endpoint) -> Iterator[Translated]:
    """The records that one event names."""
    try:
        frame = Frame.unpack(delivery.body)
    except ValueError as error:
        yield Untranslatable(Cause.UNPARSABLE, f"no event of a stream: {error}")
        return
    schema = KNOWN.get(endpoint.id, frame.schema_id)
    if schema is None:
        yield Untranslatable(Cause.UNKNOWN_VERSION, "the event's schema is not kept any more", None, frame.account)
        return
    try:
        event = schema.decode(frame.payload)
        yield from _Reading(frame, schema, event).translated()
    except ValueError as error:
        yield Untranslatable(Cause.MALFORMED_BODY, str(error), 0, frame.account)


def committed_at(event: Mapping[str, Any]) -> datetime:
    """When the event's transaction was committed; raises ValueError."""
    header = event.get(HEADER)
    return _moment(header.get("commitTimestamp") if isinstance(header, Mapping) else None, "commitTimestamp")


class _Reading:
    """One event being understood. Raises ValueError, without content, for what no change event holds."""

    def __init__(self, frame: Frame, schema: Schema, event: Mapping[str, Any]) -> None:
        header = event.get(HEADER)
        if not isinstance(header, Mapping):
            raise ValueError("no change event: it has no ChangeEventHeader")  # noqa: TRY004 - of the sender's doing, not a caller's
        self._frame = frame
        self._schema = schema
        self._event = event
        self._header = header
        self._committed = committed_at(event)

    def translated(self) -> Iterator[Translated]:
        entity, change = _text(self._header, "entityName"), _text(self._header, "changeType")
        found = OBJECTS.get(entity)
        if found is None:
            # An admin may select more on a channel than analyses read; a channel of its own leaves it out.
            yield Ignored("unread_object", self._frame.account)
            return
        if change == "GAP_OVERFLOW":
            yield self._resync(found, change)
            return
        kind = KINDS.get(change.removeprefix(_GAP))
        if kind is None:
            yield Untranslatable(Cause.UNSUPPORTED_EVENT, "an unknown changeType", 0, self._frame.account)
            return
        reason: Reason = "gap" if change.startswith(_GAP) else "webhook"
        changed = self._changed() if reason == "webhook" else []
        foreign = [name for name in changed if name not in SYSTEM_FIELDS]
        if kind == "updated" and reason == "webhook" and changed and self._is_ours() and all(map(_is_own, foreign)):
            yield Ignored("own_property", self._frame.account)
            return
        yield from self._records(found, kind, reason, tuple(foreign))

    def _records(
        self, about: ObjectType, kind: ChangeKind, reason: Reason, properties: tuple[str, ...]
    ) -> Iterator[Translated]:
        ids = self._header.get("recordIds")
        if not isinstance(ids, list) or not ids:
            raise ValueError("recordIds is missing or empty")
        resynced: set[ObjectType] = set()
        for given in ids:
            wild = _WILDCARD.fullmatch(given) if isinstance(given, str) else None
            if wild is not None:
                those = PREFIXES.get(wild[1], about)
                if those not in resynced:
                    resynced.add(those)
                    yield self._resync(those, "WILDCARD")
                continue
            try:
                record_id = long_id(given)
            except (ValueError, TypeError):
                raise ValueError("recordIds holds what is no Salesforce id") from None
            is_new_activity = about in {"note", "email"} and kind == "created" and reason == "webhook"
            parents = parents_of(self._event) if is_new_activity else []
            if parents:
                # What a new task or e-mail says is read with the record it hangs on, so that one is what changed.
                for parent, parent_id in parents:
                    yield self._change(parent, parent_id, "associated", reason, ())
            else:
                yield self._change(about, record_id, kind, reason, properties)

    def _change(
        self, about: ObjectType, record_id: str, kind: ChangeKind, reason: Reason, properties: tuple[str, ...]
    ) -> Event:
        user = self._header.get("commitUser")
        return Event(
            account=self._frame.account,
            key=self._frame.key,
            position=0,
            object=about,
            id=record_id,
            kind=kind,
            occurred_at=self._occurred_at(reason),
            properties=properties,
            edited_by=_user(user),
            reason=reason,
        )

    def _occurred_at(self, reason: Reason) -> datetime:
        """The record's own time where the event has it: the commit may come seconds after the save that it commits."""
        saved = self._event.get("LastModifiedDate")
        if reason == "webhook" and isinstance(saved, int | datetime):
            return min(_moment(saved, "LastModifiedDate"), self._committed)
        return self._committed

    def _changed(self) -> list[str]:
        bitmaps: list[str] = []
        for name in ("changedFields", "nulledFields", "diffFields"):
            given = self._header.get(name)
            bitmaps += given if isinstance(given, list) else []
        return names(bitmaps, self._schema)

    def _is_ours(self) -> bool:
        origin = _CLIENT.search(str(self._header.get("changeOrigin") or ""))
        if origin is not None and origin[1].strip().lower() == OWN_CLIENT:
            return True
        ours = self._frame.integration_user
        return bool(ours) and _user(self._header.get("commitUser")) == _user(ours)

    def _resync(self, about: ObjectType, cause: str) -> Resync:
        return Resync(self._frame.account, about, self._committed - BEFORE, self._frame.key, cause)


def _is_own(name: str) -> bool:
    return name.lower().startswith(OWN_PREFIX)


def _user(given: Any) -> str | None:
    """A Salesforce id in its long form, or None."""
    try:
        return long_id(given)
    except (ValueError, TypeError):
        return None


def _text(header: Mapping[str, Any], name: str) -> str:
    found = header.get(name)
    if not isinstance(found, str) or not found:
        raise ValueError(f"{name} is missing")
    return found


def _moment(given: Any, name: str) -> datetime:
    """Milliseconds since 1970, or what Avro's logical type made of them."""
    if isinstance(given, datetime):
        return given
    try:
        return datetime.fromtimestamp(given / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"{name} is missing or no time") from None
