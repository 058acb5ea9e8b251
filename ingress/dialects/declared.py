"""A declared sender's bodies in our words: JMESPath finds what a Change needs.

Law: one bad event never costs the others of its delivery; details name a field of the declaration, never a value of the body.
What an expression may cost is bounded for the delivery as a whole (`ingress/declared/bounded.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args
from urllib.parse import parse_qsl

import orjson

from infra.accounts import RegistryError, account_id
from infra.crm.own_fields import is_echo
from ingress.declared.bounded import Budget, ExpressionError
from ingress.declared.declaration import Changes
from ingress.dialects.salesforce import long_id
from ingress.sources.source import Event, Ignored, Translated, Untranslatable
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import ObjectType

MAX_EVENTS = 1_000
MAX_FIELDS = 500
OWN_PREFIXES = ("hookline_", "Hookline_")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_EDITOR = re.compile(r"[A-Za-z0-9._:@+-]{1,64}")
_OBJECTS: dict[str, ObjectType] = {name: name for name in get_args(ObjectType) if name != "other"}
_KINDS: dict[str, ChangeKind] = {name: name for name in get_args(ChangeKind)}
_LAST_SECOND = 253_402_300_799
_MILLISECONDS_FROM = 100_000_000_000
"""A number this large is milliseconds: in seconds it would be the year 5138."""

T = TypeVar("T")


class _BadEventError(ValueError):
    """What is wrong with one event, in words that hold none of it."""


def translate(delivery: Delivery, changes: Changes) -> Iterator[Translated]:
    """Each event that the declaration finds."""
    try:
        body = _parsed(delivery.body, changes.format)
    except ValueError as error:
        yield Untranslatable(Cause.MALFORMED_BODY, str(error))
        return
    reader = _Reader(changes, body, delivery.received_at)
    try:
        events = reader.find("events", {"body": body})
    except _BadEventError as error:
        yield Untranslatable(Cause.MALFORMED_BODY, str(error))
        return
    listed = events if isinstance(events, list) else [] if events is None else [events]
    if not listed:
        yield Ignored("empty")
    if len(listed) > MAX_EVENTS:
        yield Untranslatable(Cause.MALFORMED_BODY, f"changes.events: more than {MAX_EVENTS} events in one body")
        return
    for position, event in enumerate(listed):
        try:
            yield reader.read(event, position)
        except _BadEventError as error:
            yield Untranslatable(Cause.MALFORMED_BODY, str(error), position)


def _parsed(body: bytes, form: str) -> Any:
    if form == "json":
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: byte {error.pos}") from None
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=1_000, errors="strict")
    except ValueError:
        raise ValueError("no form that can be read") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


class _Reader:
    """One delivery being read."""

    def __init__(self, changes: Changes, body: Any, received_at: datetime) -> None:
        self._changes = changes
        self._body = body
        self._received_at = received_at
        self._budget = Budget()

    def find(self, name: str, data: Mapping[str, Any]) -> Any:
        expression = self._changes.expression(name)
        if expression is None:
            return None
        try:
            return expression.search(data, self._budget)
        except ExpressionError as error:
            raise _BadEventError(f"changes.{name}: {error}") from None

    def read(self, event: Any, position: int) -> Translated:
        data = {"body": self._body, "event": event, "position": position}
        if self._changes.when is not None and not _true(self.find("when", data)):
            return Ignored("not_wanted")
        account = self._account(data)
        found = self._word("object", self._changes.objects, _OBJECTS, data)
        if found is None:
            return Untranslatable(
                Cause.UNSUPPORTED_EVENT,
                "changes.object: a word that neither changes.objects nor we know",
                position,
                account,
            )
        kind = self._word("kind", self._changes.kinds, _KINDS, data) if self._changes.kind is not None else "updated"
        if kind is None:
            return Untranslatable(
                Cause.UNSUPPORTED_EVENT,
                "changes.kind: a word that neither changes.kinds nor we know",
                position,
                account,
            )
        if found == "ignore" or kind == "ignore":
            return Ignored("unread_object", account)
        fields = self._fields(data)
        foreign = tuple(dict.fromkeys(one for one in fields if not is_echo(one, OWN_PREFIXES)))
        if fields and not foreign:
            return Ignored("own_property", account)
        record_id = self._id(data, account)
        occurred_at = _moment(self.find("occurred_at", data), self._received_at)
        editor = _text(self.find("edited_by", data))
        return Event(
            account=account,
            key=self._key(event, data),
            position=position,
            object=found,
            id=record_id,
            kind=kind,
            occurred_at=occurred_at,
            properties=foreign,
            edited_by=editor if editor is not None and _EDITOR.fullmatch(editor) else None,
        )

    def _account(self, data: Mapping[str, Any]) -> str:
        if self._changes.expression("account") is None:
            return self._changes.account
        value = _text(self.find("account", data))
        try:
            return account_id(value or "")
        except RegistryError:
            raise _BadEventError(
                "changes.account: gives nothing of the form hubspot:<portal id> or salesforce:<org id>"
            ) from None

    def _id(self, data: Mapping[str, Any], account: str) -> str:
        value = _text(self.find("id", data))
        if value is None or not _ID.fullmatch(value):
            raise _BadEventError("changes.id: gives no text of 1 to 64 letters, digits, dots, colons and dashes")
        if account.startswith("salesforce:"):
            try:
                return long_id(value)
            except ValueError as error:
                raise _BadEventError(f"changes.id: {error}") from None
        return value

    def _word(self, name: str, given: Mapping[str, T], ours: Mapping[str, T], data: Mapping[str, Any]) -> T | None:
        value = _text(self.find(name, data))
        if value is None:
            raise _BadEventError(f"changes.{name}: gives no text")
        if not given:
            return ours.get(value)
        return given.get(value, given.get("*"))

    def _fields(self, data: Mapping[str, Any]) -> list[str]:
        value = self.find("fields", data)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if len(listed) > MAX_FIELDS or not all(isinstance(one, str) and 0 < len(one) <= 255 for one in listed):
            raise _BadEventError(f"changes.fields: gives no list of at most {MAX_FIELDS} names")
        return listed

    def _key(self, event: Any, data: Mapping[str, Any]) -> str:
        if self._changes.event_id is not None:
            value = _text(self.find("event_id", data))
            if value is None or not 0 < len(value) <= 512:
                raise _BadEventError("changes.event_id: gives no text of 1 to 512 characters")
            return f"id {value}"
        # Without an id an event that says the same of the same moment is the same; without a moment each delivery counts as new.
        content = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
        if self._changes.occurred_at is None:
            content += self._received_at.isoformat().encode()
        return "content " + hashlib.sha256(content).hexdigest()


def _true(value: Any) -> bool:
    """As JMESPath has it: null, false and what is empty are false; 0 is true."""
    return bool(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: Any) -> str | None:
    """A text, or a number as a text: ids come as both."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _moment(value: Any, received_at: datetime) -> datetime:
    if value is None:
        return received_at
    try:
        if isinstance(value, str) and not value.isdigit():
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
        seconds = number / 1000 if number >= _MILLISECONDS_FROM else number
        if 0 <= seconds <= _LAST_SECOND:
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        pass
    raise _BadEventError("changes.occurred_at: gives no time in ISO 8601, seconds or milliseconds")
