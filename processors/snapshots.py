"""From what the CRM says to a snapshot: what is foreign in it, what differs from the last one, and what fits.

Law: pure. Our own fields and fields that change without anybody's doing never decide whether a record changed. Hashes
are keyed per record, so that equal values of two records do not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import overload

import orjson

from infra.crm.client import Read
from infra.crm.own_fields import is_reps
from schemas.record import MAX_SNAPSHOT_BYTES, Note, RecordRef, RecordSnapshot, Related

DELETED = b"deleted"
"""`Standing.content` of a record that is gone."""
NOTES, RELATED, FEEDBACK = "notes", "related", "feedback"
"""Parts beside the fields, as `RecordSnapshot.changed` names them; a mark's name starts with `#`, a field's never does."""

_VOLATILE = """
    lastmodifieddate hs_lastmodifieddate last_synced_at external_sync_hash marketing_touch_count
    hs_analytics_last_timestamp hs_analytics_last_visit_timestamp hs_analytics_num_page_views hs_analytics_num_visits
    hs_last_sales_activity_timestamp hs_last_sales_activity_date hs_sales_email_last_opened hs_updated_by_user_id
    hs_object_source hs_object_source_id hs_object_source_label hs_latest_source_timestamp
    notes_last_updated notes_last_contacted num_notes num_contacted_notes num_associated_contacts num_associated_deals
    lastmodifiedbyid systemmodstamp lastactivitydate lastvieweddate lastreferenceddate lastcurequestdate lastcuupdatedate
"""
VOLATILE = frozenset(_VOLATILE.split())
"""Fields of either vendor, in lower case and without `__c`, that change by themselves or with every touch. What people did
shows in other fields, in notes or in relations. One that a concept names stays readable in the snapshot."""

LONGEST_NOTE = 32 * 1024
"""Characters of one note's text, once the whole does not fit."""
MOST_NAMES = 200
"""Names in `omitted`; the rest is counted."""


class SnapshotTooLargeError(Exception):
    """Even without notes, relations and its largest fields the record does not fit."""


@dataclass(frozen=True, slots=True)
class Content:
    """The foreign part of a record, hashed."""

    digests: dict[str, str]
    """Part → short keyed hash."""
    whole: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """What a read says beside the snapshot before."""

    changed: tuple[str, ...]
    """Empty for a first snapshot, too."""
    since: dict[str, datetime]
    """Field → since when it has had its value."""
    marks: str
    """For `Standing.marks`."""


def is_volatile(name: str) -> bool:
    """Whether a field changes without meaning anything."""
    return name.lower().removesuffix("__c") in VOLATILE


@lru_cache(maxsize=65_536)  # asked of every field of every read; names are few
def is_foreign(name: str, own_prefix: str) -> bool:
    """Whether a change of this field is news: neither ours (but for what people write there) nor volatile."""
    if name.lower().startswith(own_prefix.lower()):
        return is_reps(name, own_prefix)
    return not is_volatile(name)


def repaired(read: Read) -> Read:
    """`read` without halves of characters (lone surrogates, which JSON can carry and UTF-8 cannot), each shown as �."""
    return replace(
        read,
        fields={_whole(name): _whole(value) for name, value in read.fields.items()},
        notes=tuple(
            note.model_copy(
                update={"text": _whole(note.text), "subject": _whole(note.subject), "author": _whole(note.author)}
            )
            for note in read.notes
        ),
        feedback={name: _whole(value) for name, value in read.feedback.items()},
        related=tuple(
            each.model_copy(update={"fields": {_whole(name): _whole(value) for name, value in each.fields.items()}})
            for each in read.related
        ),
    )


def digest(key: bytes, read: Read, own_prefix: str) -> Content:
    """Hash everything foreign in `read` under the record's own `key` (at most 64 bytes).

    Raises UnicodeEncodeError or orjson.JSONEncodeError for text that no UTF-8 can hold: see `repaired`.
    """
    digests: dict[str, str] = {}
    keyed = blake2b(key=key, digest_size=8)
    for name, value in read.fields.items():
        if is_foreign(name, own_prefix):
            # A copy of what holds the key: two thirds of what a new one costs, and this is most of a read that changed nothing.
            mark = keyed.copy()
            mark.update(f"{name}\0{value}".encode())
            digests[name] = mark.hexdigest()
    if read.notes:
        notes = sorted(
            (note.id, note.kind, _millis(note.at), note.author, note.subject, note.text) for note in read.notes
        )
        digests[f"#{NOTES}"] = _short(key, notes)
    if read.related:
        related = sorted(
            (
                each.object,
                each.id,
                sorted((name, value) for name, value in each.fields.items() if is_foreign(name, own_prefix)),
            )
            for each in read.related
        )
        digests[f"#{RELATED}"] = _short(key, related)
    if read.feedback:
        digests[f"#{FEEDBACK}"] = _short(key, sorted(read.feedback.items()))
    whole = blake2b(orjson.dumps(digests, option=orjson.OPT_SORT_KEYS), key=key, digest_size=32).digest()
    return Content(digests, whole)


def compare(content: Content, marks: str | None, named: Mapping[str, datetime], modified_at: datetime) -> Difference:
    """Hold `content` against the marks of the last snapshot (None: there was none).

    `named` says when the CRM says that a field changed; a field that differs unannounced has its value since `modified_at`,
    and one that did not change keeps its time.
    """
    before: dict[str, list[object]] = orjson.loads(marks) if marks else {}
    after: dict[str, tuple[str, int]] = {}
    changed: list[str] = []
    modified = _millis(modified_at)
    for name, now in content.digests.items():
        then = before.get(name)
        if then is not None and then[0] == now:
            after[name] = (now, int(str(then[1])))
            continue
        after[name] = (now, _millis(named[name]) if name in named else modified)
        changed.append(name)
    changed.extend(name for name in before if name not in after)
    moments = {millis: datetime.fromtimestamp(millis / 1000, UTC) for millis in {mark[1] for mark in after.values()}}
    since = {name: moments[mark[1]] for name, mark in after.items() if not name.startswith("#")}
    return Difference(
        tuple(sorted(name.removeprefix("#") for name in changed)) if marks else (), since, orjson.dumps(after).decode()
    )


def build(
    ref: RecordRef,
    crm: str,
    read: Read,
    difference: Difference,
    *,
    own_prefix: str,
    read_at: datetime,
    edited_by: str | None,
    reason: str,
    limit: int = MAX_SNAPSHOT_BYTES,
) -> RecordSnapshot:
    """The snapshot, within `limit` bytes. Raises SnapshotTooLargeError."""
    readable = set(read.concepts.values())
    fields = {
        name: value
        for name, value in read.fields.items()
        if not name.lower().startswith(own_prefix.lower()) and (name in readable or not is_volatile(name))
    }
    snapshot = RecordSnapshot.model_validate(
        {
            **ref._asdict(),
            "crm": crm,
            "fields": fields,
            "known_fields": tuple(
                name for name in read.known_fields if is_foreign(name, own_prefix) or name in readable
            ),
            "concepts": dict(read.concepts),
            # What `since_when` says anyway need not be sent.
            "since": {name: since for name, since in difference.since.items() if since != read.modified_at},
            "changed": difference.changed,
            "notes": read.notes,
            "feedback": dict(read.feedback),
            "related": read.related,
            "modified_at": read.modified_at,
            "read_at": read_at,
            "owner": read.owner,
            "edited_by": edited_by,
            "omitted": read.omitted,
            "reason": reason,
        }
    )
    return fit(snapshot, limit)


def gone(
    ref: RecordRef, crm: str, *, at: datetime, read_at: datetime, reason: str, merged_into: str | None = None
) -> RecordSnapshot:
    """The snapshot of a record that is no more."""
    return RecordSnapshot.model_validate(
        {
            **ref._asdict(),
            "crm": crm,
            "modified_at": at,
            "read_at": read_at,
            "deleted": True,
            "merged_into": merged_into,
            "reason": reason,
        }
    )


def fit(snapshot: RecordSnapshot, limit: int = MAX_SNAPSHOT_BYTES) -> RecordSnapshot:
    """Cut `snapshot` to `limit` bytes of JSON, naming what goes: the ends of very long notes, then the oldest notes, what
    relations hold, and at last the largest fields. Raises SnapshotTooLargeError.
    """
    if _at_most(snapshot) <= limit:
        return snapshot
    excess = len(snapshot.model_dump_json()) - limit
    if excess <= 0:
        return snapshot
    cut: list[str] = []
    notes = [_shorten(note, cut) for note in sorted(snapshot.notes, key=lambda note: (note.at, note.id))]
    excess -= _weight(snapshot.notes) - _weight(notes)
    room = limit // 8  # for the names of what goes
    while notes and excess + room > 0:
        oldest = notes.pop(0)
        excess -= _weight([oldest])
        cut.append(f"{oldest.kind}:{oldest.id}")
    related = list(snapshot.related)
    for place, each in enumerate(related):
        if excess + room > 0 and each.fields:
            related[place] = Related(object=each.object, id=each.id)
            excess -= len(orjson.dumps(each.fields)) - 2
            cut.append(f"related:{each.object}:{each.id}")
    fields = dict(snapshot.fields)
    for name in sorted(fields, key=lambda name: len(fields[name]), reverse=True):
        if excess + room <= 0:
            break
        excess -= len(orjson.dumps({name: fields.pop(name)})) - 1
        cut.append(name)
    names = [*snapshot.omitted, *cut]
    if len(names) > MOST_NAMES:
        names = [*names[:MOST_NAMES], f"and {len(names) - MOST_NAMES} more"]
    smaller = snapshot.model_copy(
        update={
            "notes": tuple(notes),
            "related": tuple(related),
            "fields": fields,
            "since": {name: since for name, since in snapshot.since.items() if name in fields},
            "omitted": tuple(names),
        }
    )
    size = len(smaller.model_dump_json())
    if size > limit:
        raise SnapshotTooLargeError(f"{size} bytes after cutting, {limit} allowed")
    return smaller


def _at_most(snapshot: RecordSnapshot) -> int:
    """An upper bound of its size in bytes, cheaply: JSON spends at most six bytes on a character."""
    characters = 2_000 + _characters(snapshot.fields) + _characters(snapshot.fields.values()) + 6 * len(snapshot.fields)
    characters += sum(
        len(note.text) + len(note.subject or "") + len(note.author or "") + len(note.id) + 120
        for note in snapshot.notes
    )
    characters += sum(len(name) + len(value) + 6 for name, value in snapshot.feedback.items())
    characters += sum(
        60 + sum(len(name) + len(value) + 6 for name, value in each.fields.items()) for each in snapshot.related
    )
    for names, more in (
        (snapshot.known_fields, 3),
        (snapshot.changed, 3),
        (snapshot.omitted, 3),
        (snapshot.since, 34),
        (snapshot.concepts, 6),
    ):
        characters += _characters(names) + more * len(names)
    return 6 * (characters + _characters(snapshot.concepts.values()))


def _characters(texts: Iterable[str]) -> int:
    return sum(map(len, texts))


def _shorten(note: Note, cut: list[str]) -> Note:
    if len(note.text) <= LONGEST_NOTE:
        return note
    cut.append(f"{note.kind}:{note.id} (its end)")
    return note.model_copy(update={"text": note.text[:LONGEST_NOTE]})


def _weight(notes: Sequence[Note]) -> int:
    return sum(len(note.model_dump_json()) + 1 for note in notes)


def _short(key: bytes, value: object) -> str:
    return blake2b(orjson.dumps(value), key=key, digest_size=8).hexdigest()


@overload
def _whole(text: str) -> str: ...
@overload
def _whole(text: str | None) -> str | None: ...
def _whole(text: str | None) -> str | None:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if text else text


def _millis(at: datetime) -> int:
    return round(at.timestamp() * 1000)
