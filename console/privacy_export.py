"""What is held on one person, as one JSON document.

Law: reads only. Says of each thing where it lies; what cannot be opened is named as such and never left out in silence.
Records that mention the person are given as far as they do: an association, a note, an address; the rest is others'.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from console.reading import Selection, read_range
from infra.kafka.codec import Codec, Received
from infra.keyring import Keyring, Undecryptable, key_id_of, open_sealed
from infra.privacy.calling import names_any
from infra.privacy.mentions import Mentions
from infra.privacy.people import People
from infra.privacy.wiping import held_on
from infra.settings import Settings
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS

OWN_TOPICS = (CHANGES, CHANGES_BULK, RECORDS, INSIGHTS, INSIGHTS_REDRIVEN, DEAD_LETTERS)
_SHORTEST_ID = 3
_PURPOSES = {"replay_results.sealed_insight": "analyst_state.sealed_insight"}
"""Where a column is sealed for another purpose than its own: results of a shadow move into the live state."""


@dataclass(frozen=True, slots=True)
class Held:
    """All of it."""

    content: dict[str, Any] = field(repr=False)
    counts: dict[str, int]


async def collected(settings: Settings, engine: AsyncEngine, keyring: Keyring, people: People, ref: RecordRef) -> Held:
    """Look everywhere. Raises KafkaError, and what the database raises."""
    await keyring.start()
    codec = Codec(keyring, "hookline/privacy")
    tables = {name: await _opened(keyring, name, rows) for name, rows in (await held_on(engine, ref)).items()}
    topics: dict[str, list[dict[str, Any]]] = {}
    for topic in OWN_TOPICS:
        selection = Selection(tenant=ref.tenant, record=ref)
        lines = [_line(each) async for each in read_range(settings, codec, topic, selection=selection)]
        if lines:
            topics[topic.name] = lines
    deliveries = await _deliveries(settings, codec, ref)
    mentions = Mentions(engine, keyring, people)
    forms = await mentions.values(ref)
    others = await _others(settings, codec, ref, frozenset(forms), await mentions.mentioning(ref, forms))
    content = {
        "person": ref._asdict(),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tables": tables,
        "topics": topics,
        "deliveries": deliveries,
        "mentioned_in": others,
    }
    counts = {
        **{name: len(rows) for name, rows in tables.items()},
        **{name: len(lines) for name, lines in topics.items()},
        **({DELIVERIES.name: len(deliveries)} if deliveries else {}),
        **({"mentioned_in": len(others)} if others else {}),
    }
    return Held(content, counts)


async def _opened(keyring: Keyring, table: str, rows: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    return [
        {name: await _plain(keyring, f"{table}.{name}", value) for name, value in row.items() if value is not None}
        for row in rows
    ]


async def _plain(keyring: Keyring, purpose: str, value: object) -> Any:
    if isinstance(value, bytes | memoryview):
        given = bytes(value)
        if ".sealed_" not in purpose:
            return {"hmac": base64.b64encode(given).decode()}
        opened = await _unsealed(keyring, purpose, given)
        return _read(opened) if opened else {"unreadable": "its key was destroyed, or it is sealed for another purpose"}
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _read(opened: bytes) -> Any:
    try:
        return orjson.loads(opened)
    except orjson.JSONDecodeError:
        return opened.decode("utf-8", "replace")


async def _unsealed(keyring: Keyring, purpose: str, sealed: bytes) -> bytes | None:
    try:
        key = (await keyring.by_id([key_id_of(sealed)])).get(key_id_of(sealed))
        return open_sealed(key, sealed, purpose=_PURPOSES.get(purpose, purpose)) if key else None
    except Undecryptable:
        return None


def _line(each: Any) -> dict[str, Any]:
    if isinstance(each, Received):
        place = {"partition": each.partition, "offset": each.offset}
        return {**place, "payload": each.payload.model_dump(mode="json")}
    raw, cause, _detail = each
    return {"partition": raw.partition, "offset": raw.offset, "unreadable": str(cause)}


async def _deliveries(settings: Settings, codec: Codec, ref: RecordRef) -> list[dict[str, Any]]:
    """Raw bodies that name the record's id; they may speak of others, too, who are not this person's to see: the ids are named."""
    wanted = ref.id.encode()
    if len(wanted) < _SHORTEST_ID:
        return []
    found = []
    async for each in read_range(settings, codec, DELIVERIES, selection=Selection(tenant=ref.tenant)):
        if isinstance(each, Received) and wanted in each.payload.body:
            delivery = each.payload
            events = _events(delivery.body, ref.id)
            place = {"request_id": delivery.request_id, "received_at": delivery.received_at.isoformat()}
            found.append({**place, "events": events} if events else {**place, "events": "named in its body"})
    return found


def _events(body: bytes, record_id: str) -> list[Any]:
    """The events of a JSON body that are about this record; empty for any other body."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    events = given if isinstance(given, list) else [given]
    return [event for event in events if isinstance(event, dict) and record_id in {str(v) for v in event.values()}]


async def _others(
    settings: Settings, codec: Codec, ref: RecordRef, forms: frozenset[str], refs: Sequence[RecordRef]
) -> list[dict[str, Any]]:
    newest: dict[RecordRef, RecordSnapshot] = {}
    wanted = set(refs)
    if wanted:
        selection = Selection(tenant=ref.tenant, account=ref.account)
        async for each in read_range(settings, codec, RECORDS, selection=selection):
            if isinstance(each, Received) and each.payload.ref in wanted:
                newest[each.payload.ref] = each.payload
    return [
        {
            "record": str(other),
            "associated": [
                each.model_dump(mode="json") for each in snapshot.related if (each.object, each.id) == ref[2:]
            ],
            "notes": [
                each.model_dump(mode="json")
                for each in snapshot.notes
                if names_any(
                    snapshot.model_copy(update={"fields": {}, "related": (), "notes": (each,), "concepts": {}}), forms
                )
            ],
        }
        for other, snapshot in sorted(newest.items())
    ]
