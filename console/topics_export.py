"""`hookline topics export`: a piece of a topic as JSON Lines.

Law: the file is its owner's alone (mode 600) and is never written over. Decoded, it holds customers' data in the clear; sealed,
what the topic holds: keys and headers in the clear, payloads that open only with this installation's keys.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from console.payloads import plain
from console.private_file import made
from console.reading import raw_range, reader
from console.runtime import err, need, registry, run
from console.topics_range import (
    Account,
    Asked,
    Object,
    Partition,
    Record,
    Since,
    Start,
    Stop,
    Tenant,
    TopicName,
    Until,
    asked,
)
from infra.kafka.codec import Codec
from infra.kafka.raw import Raw
from infra.settings import Settings

Out = Annotated[Path, typer.Option("--out", "-o", help="The file; it must not exist yet.")]
Sealed = Annotated[bool, typer.Option("--sealed", help="Leave payloads as they are encrypted.")]


def export(
    topic: TopicName,
    file: Out,
    sealed: Sealed = False,
    tenant: Tenant = "",
    account: Account = "",
    object_: Object = "",
    record: Record = "",
    partition: Partition = None,
    start: Start = None,
    stop: Stop = None,
    since: Since = "",
    until: Until = "",
) -> None:
    """Write messages of a topic to a file, one JSON object a line; `hookline topics import` reads it back."""
    wanted = asked(topic, tenant, account, object_, record, partition, start, stop, since, until)
    counts: Counter[str] = Counter()

    async def command() -> None:
        async with registry() as (_, settings, _engine, keyring):
            need(settings, "kafka_url")
            with made(file) as written:
                async for line in _lines(settings, Codec(keyring, "hookline/console"), wanted, sealed=sealed):
                    written.write(json.dumps(line, ensure_ascii=False) + "\n")
                    counts["unreadable" if "unreadable" in line else "messages"] += 1

    run(command)
    err.print(f"{counts['messages']} messages written to {file}, which only you may read (mode 600).")
    if counts["unreadable"]:
        err.print(f"{counts['unreadable']} more cannot be read by anyone (their lines say why).")
    if sealed:
        err.print(
            "Payloads are encrypted; keys and headers name tenants, accounts and record ids. Useless without this installation's keys."
        )
    else:
        err.print(
            "It holds customers' data in the clear: keep it as you keep the CRM, and delete it when you are done."
        )


async def _lines(settings: Settings, codec: Codec, wanted: Asked, *, sealed: bool) -> AsyncIterator[dict[str, Any]]:
    async with reader(settings) as consumer:
        ranges = await wanted.ranges(consumer)
        async for page in raw_range(consumer, wanted.topic.name, ranges, selection=wanted.selection):
            if sealed:
                for raw in page:
                    yield {**_clear(raw), "sealed": raw.value and base64.b64encode(raw.value).decode()}
                continue
            opened, refused = await codec.open(wanted.topic, page)
            payloads = {each.offset: each.payload for each in opened}
            why = {raw.offset: (cause, detail) for raw, cause, detail in refused}
            for raw in page:
                if raw.offset in payloads:
                    yield {**_clear(raw), "payload": plain(payloads[raw.offset])}
                elif raw.offset in why:
                    cause, detail = why[raw.offset]
                    yield {**_clear(raw), "unreadable": cause, "detail": detail}
                else:
                    yield {**_clear(raw), "payload": None}  # a tombstone


def _clear(raw: Raw) -> dict[str, Any]:
    """What anybody can read of it."""
    return {
        "topic": raw.topic,
        "partition": raw.partition,
        "offset": raw.offset,
        "timestamp_ms": raw.timestamp,
        "key": (raw.key or b"").decode(errors="backslashreplace"),
        "headers": {name: bytes(value or b"").decode(errors="backslashreplace") for name, value in raw.headers},
    }
