"""The body that we ask of any other sender, in our words.

Law: the shape below is all there is; what else a body holds is not read.
One object or an array of at most 100:
`{"account": "hubspot:33", "object": "deal", "id": "42", "kind": "updated", "occurred_at": "2026-11-22T10:00:00Z",
"properties": ["amount"]}`; `kind`, `occurred_at` and `properties` may be left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import orjson

from infra.crm.own_fields import is_echo
from ingress.sources.source import Event, Ignored, Translated, Untranslatable
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery
from schemas.record import ObjectType

if TYPE_CHECKING:
    from infra.accounts import Endpoint

MAX_EVENTS = 100
OWN_PREFIXES = ("hookline_", "Hookline_")
_ACCOUNT = re.compile(r"[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_OBJECTS: dict[str, ObjectType] = {name: name for name in get_args(ObjectType) if name != "other"}
_KINDS: dict[str, ChangeKind] = {name: name for name in get_args(ChangeKind)}


def translate(delivery: Delivery, endpoint: Endpoint) -> Iterator[Translated]:
    """Each event of the body."""
    del endpoint
    try:
        body = orjson.loads(delivery.body)
    except orjson.JSONDecodeError as error:
        yield Untranslatable(Cause.MALFORMED_BODY, f"not JSON: byte {error.pos}")
        return
    events = body if isinstance(body, list) else [body]
    if not events:
        yield Ignored("empty")
    if len(events) > MAX_EVENTS:
        yield Untranslatable(Cause.MALFORMED_BODY, f"more than {MAX_EVENTS} events in one body")
        return
    for position, event in enumerate(events):
        try:
            yield _event(event, position, delivery.received_at)
        except ValueError as error:
            yield Untranslatable(Cause.MALFORMED_BODY, str(error), position)


def _event(event: Any, position: int, received_at: datetime) -> Translated:
    if not isinstance(event, dict):
        raise ValueError("expected an object with account, object and id")  # noqa: TRY004 - one kind of error for all that is wrong with a body
    account = event.get("account")
    if not isinstance(account, str) or not _ACCOUNT.fullmatch(account):
        raise ValueError("account is not of the form crm:id")
    record_id = event.get("id")
    if not isinstance(record_id, str) or not _ID.fullmatch(record_id):
        raise ValueError("id is not a text of 1 to 64 letters, digits, dots, colons and dashes")
    found = _OBJECTS.get(_word(event, "object", ""))
    kind = _KINDS.get(_word(event, "kind", "updated"))
    if found is None or kind is None:
        raise ValueError("object or kind is none that we know")
    properties = event.get("properties", [])
    if not isinstance(properties, list) or not all(isinstance(one, str) and 0 < len(one) <= 255 for one in properties):
        raise ValueError("properties is not an array of names")
    foreign = tuple(dict.fromkeys(one for one in properties if not is_echo(one, OWN_PREFIXES)))
    if properties and not foreign:
        return Ignored("own_property", account)
    occurred_at = _moment(event.get("occurred_at"), received_at)
    content = orjson.dumps([account, found, record_id, kind, event.get("occurred_at"), properties])
    return Event(
        account=account,
        # The sender's webhook-id does not reach us, and an event that says the same of the same moment is the same.
        # Without a moment nothing tells two events apart, so then each delivery counts as new.
        key=hashlib.sha256(
            content if "occurred_at" in event else content + received_at.isoformat().encode()
        ).hexdigest(),
        position=position,
        object=found,
        id=record_id,
        kind=kind,
        occurred_at=occurred_at,
        properties=foreign,
    )


def _word(event: dict[str, Any], name: str, default: str) -> str:
    value = event.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")  # noqa: TRY004 - one kind of error for all that is wrong with a body
    return value


def _moment(value: Any, received_at: datetime) -> datetime:
    if value is None:
        return received_at
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("occurred_at is not a time in ISO 8601") from None
