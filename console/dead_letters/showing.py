"""Letters for people: tables, one letter with its original opened, and JSON.

Law: a list holds names, ids and causes alone; only `show` opens an original, and says so where nobody can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from console.dead_letters.index import Count, Entry
from console.payloads import plain
from infra.kafka.codec import Codec, Received
from infra.kafka.letters import GOES_TO, original
from infra.kafka.raw import RawMessage
from schemas.dead_letter import REMEDIES, Cause, DeadLetter
from schemas.topics import BY_NAME

KINDS = {"poison": "the pipeline failed", "account": "for whoever runs the account"}


def remedy(cause: str) -> str:
    """What to do about a cause; for one of a newer release, who knows."""
    return REMEDIES[Cause(cause)] if cause in Cause.__members__ else "A newer release knows this cause: upgrade."


def counts_table(counts: Sequence[Count]) -> Table:
    """By cause, poison first, with what to do."""
    table = Table("cause", "kind", "stage", "letters", "oldest", "what to do")
    for count in sorted(counts, key=lambda one: (one.kind != "poison", -one.letters)):
        table.add_row(
            count.cause, count.kind, count.stage, str(count.letters), f"{count.oldest:%m-%d %H:%M}", remedy(count.cause)
        )
    return table


def entries_table(entries: Sequence[Entry]) -> Table:
    """One line a letter."""
    table = Table("id", "at", "tenant", "account", "record", "stage", "cause", "detail", "state")
    for entry in entries:
        record = f"{entry.object}/{entry.record_id}" if entry.record_id else "-"
        state = entry.state + (f", attempt {entry.attempt}" if entry.attempt > 1 else "")
        table.add_row(
            str(entry.id), f"{entry.at:%m-%d %H:%M:%S}", entry.tenant, entry.account or "-", record, entry.stage,
            entry.cause, Text(entry.detail), state,
        )  # fmt: skip
    return table


def entry_json(entry: Entry) -> dict[str, Any]:
    """As `list --json` prints it."""
    return {
        "id": str(entry.id),
        "at": entry.at.isoformat(),
        "tenant": entry.tenant,
        "account": entry.account or None,
        "object": entry.object or None,
        "record": entry.record_id or None,
        "stage": entry.stage,
        "cause": entry.cause,
        "kind": entry.kind,
        "detail": entry.detail,
        "attempt": entry.attempt,
        "state": entry.state,
        "redrives": entry.redrives,
        "handled_by": entry.handled_by or None,
    }


def count_json(count: Count) -> dict[str, Any]:
    """As `list --json` and `status --json` print it."""
    return {
        "cause": count.cause,
        "kind": count.kind,
        "stage": count.stage,
        "letters": count.letters,
        "oldest": count.oldest.isoformat(),
        "newest": count.newest.isoformat(),
        "remedy": remedy(count.cause),
    }


async def opened(codec: Codec, letter: DeadLetter, value: bytes) -> tuple[dict[str, Any] | None, str]:
    """The original's payload, or None and why nobody can read it. Raises Unavailable when keys are needed and Postgres is away."""
    topic = BY_NAME.get(letter.original_topic)
    if topic is None:
        return None, f"{letter.original_topic[:80]} is no topic of this release"
    if not value:
        return None, "its bytes were too large to be kept, and are no longer at their original offset"
    raw = original(letter)
    found, refused = await codec.open(
        topic, [RawMessage(raw.topic, raw.partition, raw.offset, raw.key, value, raw.headers, raw.timestamp)]
    )
    if found:
        return plain(found[0].payload), ""
    return None, f"{refused[0][1]}: {refused[0][2]}"


def letter_json(
    entry: Entry, received: Received[DeadLetter], payload: dict[str, Any] | None, why_not: str
) -> dict[str, Any]:
    """As `show --json` prints it."""
    letter = received.payload
    return {
        **entry_json(entry),
        "remedy": remedy(entry.cause),
        "redrive_to": destination_of(letter),
        "trace": received.envelope.traceparent or None,
        "original": {
            "topic": letter.original_topic,
            "partition": letter.original_partition,
            "offset": letter.original_offset,
            "key": letter.original_key.decode(errors="backslashreplace"),
            "headers": {name: value.decode(errors="backslashreplace") for name, value in letter.original_headers},
            "bytes": len(letter.original_value),
            "payload": payload,
            "unreadable": why_not or None,
        },
    }


def destination_of(letter: DeadLetter) -> str | None:
    """Which topic a redrive publishes to, and for whom."""
    topic = GOES_TO.get(letter.original_topic)
    if topic is None:
        return None
    return f"{topic.name} for {letter.stage}" if letter.stage.startswith("sink:") else topic.name
