"""`hookline topics`: what lies on the topics, decrypted for those who hold the master key."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.table import Table

from console.payloads import plain
from console.reading import Unreadable, partitions_of, raw_range, reader
from console.runtime import need, out, registry, run
from console.topics_asyncapi import asyncapi
from console.topics_export import export
from console.topics_import import import_
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
from infra.kafka.codec import Codec, Received
from infra.kafka.raw import Raw
from infra.settings import Settings
from schemas.topics import ALL

NEWEST = 5

app = typer.Typer(help="What lies on the topics.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Every topic: partitions, messages, how long they stay."""

    async def command() -> list[tuple[str, str, str, str]]:
        async with registry() as (_, settings, *_rest):
            need(settings, "kafka_url")
            async with reader(settings) as consumer:
                rows = []
                for topic in ALL:
                    partitions = await partitions_of(consumer, topic.name)
                    if not partitions:
                        rows.append((topic.name, "-", "missing: `hookline migrate`", ""))
                        continue
                    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
                    kept = "newest per key" if topic.compacted else f"{topic.retention_ms // 3_600_000} h"
                    rows.append(
                        (topic.name, str(len(partitions)), str(sum(ends[p] - begins[p] for p in partitions)), kept)
                    )
                return rows

    table = Table("topic", "partitions", "messages", "kept")
    for row in run(command):
        table.add_row(*row)
    out.print(table)


@app.command("tail")
def tail(
    topic: TopicName,
    count: Annotated[
        int | None, typer.Option("-n", help=f"The newest per partition that match; {NEWEST}, or all of a given range.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as new ones come.")] = False,
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
    """Print messages, decrypted, one JSON object a line. It shows customers' data: mind the terminal."""
    wanted = asked(topic, tenant, account, object_, record, partition, start, stop, since, until)

    async def command() -> None:
        async with registry() as (_, settings, _engine, keyring):
            need(settings, "kafka_url")
            newest = count if count is not None or wanted.ranged else NEWEST
            async for message in _messages(settings, Codec(keyring, "hookline/console"), wanted, newest, follow=follow):
                typer.echo(json.dumps(line(message), ensure_ascii=False))

    run(command)


async def _messages(
    settings: Settings, codec: Codec, wanted: Asked, newest: int | None, *, follow: bool
) -> AsyncIterator[Received[Any] | Unreadable]:
    async with reader(settings) as consumer:
        ranges = await wanted.ranges(consumer)
        ends = {place.partition: end for place, end in (await _ends(consumer, wanted)).items()}
        looked_at = ranges
        if newest is not None and not wanted.filtered:
            # What nobody asks for need not be read at all.
            looked_at = {number: span[-newest:] if newest else span[:0] for number, span in ranges.items()}
        kept: dict[int, deque[Raw]] = {}
        async for page in raw_range(consumer, wanted.topic.name, looked_at, selection=wanted.selection):
            if newest is None:
                async for message in _opened(codec, wanted, page):
                    yield message
            else:
                for raw in page:
                    kept.setdefault(raw.partition, deque(maxlen=newest)).append(raw)
        async for message in _opened(codec, wanted, [raw for number in sorted(kept) for raw in kept[number]]):
            yield message
        if follow:
            coming = {number: range(end, end) for number, end in ends.items()}
            async for page in raw_range(consumer, wanted.topic.name, coming, selection=wanted.selection, follow=True):
                async for message in _opened(codec, wanted, page):
                    yield message


async def _ends(consumer: Any, wanted: Asked) -> dict[Any, int]:
    partitions = [
        place
        for place in await partitions_of(consumer, wanted.topic.name)
        if wanted.partitions is None or place.partition in wanted.partitions
    ]
    found: dict[Any, int] = await consumer.end_offsets(partitions) if partitions else {}
    return found


async def _opened(codec: Codec, wanted: Asked, page: list[Raw]) -> AsyncIterator[Received[Any] | Unreadable]:
    opened, failed = await codec.open(wanted.topic, page)
    for message in opened:
        yield message
    for unreadable in failed:
        yield unreadable


def line(message: Received[Any] | Unreadable) -> dict[str, Any]:
    """One message as `tail` prints it."""
    if isinstance(message, Received):
        return {
            "partition": message.partition,
            "offset": message.offset,
            "tenant": message.envelope.tenant,
            "account": message.envelope.account,
            "type": message.envelope.type,
            "time": message.envelope.time.isoformat(),
            "payload": plain(message.payload),
        }
    raw, cause, detail = message
    headers = {key: value.decode(errors="replace") for key, value in raw.headers}
    return {
        "partition": raw.partition,
        "offset": raw.offset,
        "tenant": headers.get("hl_tenant", ""),
        "account": headers.get("hl_account", ""),
        "unreadable": cause,
        "detail": detail,
    }


app.command("export")(export)
app.command("import")(import_)
app.command("asyncapi")(asyncapi)
