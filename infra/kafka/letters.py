"""What becomes of a dead letter when it is redriven: the message that goes to where it failed, or why there is none.

Law: decides and builds, publishes nothing. A redriven message must be harmless twice:

- a delivery goes back to `crm.deliveries`: of its events those that passed are dropped as seen, those that failed pass;
- a change goes to `crm.changes.bulk` as it was: it is a trigger, and the CRM is read anew (what one asks for beyond that, it gets
  once: `processors/redriven.py`);
- a snapshot is never published again (its topic keeps the last one of a record, and this is an old one): a change with the
  reason `redrive` has the record read anew, and the analyst makes what is missing;
- an insight goes to `crm.insights.redriven`, for the one destination that refused it, which takes it only if it is newer.

Three headers go along, in the clear: which letter it was, the how-manieth attempt this is, and for which destination.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.kafka.codec import Outgoing
from infra.kafka.raw import Raw, RawMessage
from schemas.change import Change
from schemas.dead_letter import DeadLetter
from schemas.record import RecordRef
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS, Topic

LETTER = "hl_letter"
ATTEMPT = "hl_attempt"
DESTINATION = "hl_destination"
_OURS = frozenset({LETTER, ATTEMPT, DESTINATION})
_SINK = "sink:"

GOES_TO: dict[str, Topic[Any]] = {
    DELIVERIES.name: DELIVERIES,
    CHANGES.name: CHANGES_BULK,
    CHANGES_BULK.name: CHANGES_BULK,
    RECORDS.name: CHANGES_BULK,
    INSIGHTS.name: INSIGHTS_REDRIVEN,
    INSIGHTS_REDRIVEN.name: INSIGHTS_REDRIVEN,
}
"""Topic of the original → topic that a redrive publishes to."""


class NotRedrivableError(ValueError):
    """This letter cannot be redriven; the text says why, without content."""


@dataclass(frozen=True, slots=True)
class Again:
    """What a redrive publishes: sealed bytes as they were, or a trigger that is yet to be sealed."""

    topic: Topic[Any]
    sealed: Outgoing | None = None
    trigger: Change | None = None


def original(letter: DeadLetter) -> RawMessage:
    """The message that failed, as it lay on its topic."""
    return RawMessage(
        letter.original_topic,
        letter.original_partition,
        letter.original_offset,
        letter.original_key or None,
        letter.original_value or None,
        letter.original_headers,
        int(letter.at.timestamp() * 1000),
    )


def again(letter: DeadLetter, letter_id: str, value: bytes) -> Again:
    """What redriving this letter publishes; `value` is the original's sealed bytes. Raises NotRedrivableError.

    Whether the key of `value` still exists is for the caller to ask.
    """
    topic = GOES_TO.get(letter.original_topic)
    if topic is None:
        raise NotRedrivableError(f"nothing reads {letter.original_topic[:80]} again")
    if letter.original_topic == RECORDS.name:
        return Again(topic, trigger=_trigger(letter))
    if not value:
        raise NotRedrivableError("its bytes were too large to be kept, and are no longer at their original offset")
    key = letter.original_key
    headers = [(name, found) for name, found in letter.original_headers if name not in _OURS]
    headers += [(LETTER, letter_id.encode()), (ATTEMPT, str(letter.attempt + 1).encode())]
    if topic is INSIGHTS_REDRIVEN and letter.stage.startswith(_SINK):
        headers.append((DESTINATION, letter.stage.removeprefix(_SINK).encode()))
    # Stamped with now: retention and lag count from when it was published.
    return Again(topic, Outgoing(key, value, headers, _partition_key(topic, key), _now_ms()))


def attempt_of(raw: Raw) -> int:
    """The how-manieth attempt this message is; 1 for what was never redriven."""
    found = _header(raw, ATTEMPT)
    return int(found) if found and found.isdigit() and len(found) < 10 else 1


def is_redriven(raw: Raw) -> bool:
    """Whether an operator sent it again: that it fails again says nothing about the release."""
    return _header(raw, LETTER) is not None


def is_for(raw: Raw, destination: str) -> bool:
    """Whether this insight is meant for `destination`: all are, but for what was redriven to another."""
    found = _header(raw, DESTINATION)
    return found is None or found == destination


def _trigger(letter: DeadLetter) -> Change:
    try:
        ref = RecordRef.parse(letter.original_key.decode())
        return Change.model_validate(
            {**ref._asdict(), "kind": "updated", "occurred_at": letter.at, "reason": "redrive"}
        )
    except ValueError:
        raise NotRedrivableError("its key names no record") from None


def _partition_key(topic: Topic[Any], key: bytes) -> bytes:
    """As `Topic.partition_by` would have it, from the clear key alone."""
    if topic is DELIVERIES:
        return key.rpartition(b"/")[2]
    return b"/".join(key.split(b"/")[:4]) if topic is INSIGHTS_REDRIVEN else key


def _header(raw: Raw, wanted: str) -> str | None:
    return next((bytes(value or b"").decode("ascii", "replace") for name, value in raw.headers if name == wanted), None)


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
