"""`hookline topics`: what lies on the topics, decrypted for those who hold the master key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.table import Table

from console.reading import partitions_of, read, reader
from console.runtime import ConsoleError, need, out, registry, run
from infra.kafka.codec import Codec, Received
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.delivery import Delivery
from schemas.topics import ALL, BY_NAME, Topic

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
    topic: Annotated[str, typer.Argument(help="e.g. crm.insights")],
    count: Annotated[int, typer.Option("-n", help="How many of the newest per partition first.")] = 5,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as new ones come.")] = False,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    account: Annotated[str, typer.Option(help="Only this account's.")] = "",
) -> None:
    """Print messages, decrypted, one JSON object a line. It shows customers' data: mind the terminal."""
    if topic not in BY_NAME:
        raise ConsoleError(f"no topic {topic!r}: there are {', '.join(sorted(BY_NAME))}")

    async def command() -> None:
        async with registry() as (_, settings, _engine, keyring):
            need(settings, "kafka_url")
            async for line in _lines(settings, keyring, topic, count, follow=follow):
                if (not tenant or line["tenant"] == tenant) and (not account or line["account"] == account):
                    typer.echo(json.dumps(line, ensure_ascii=False))

    run(command)


async def _lines(
    settings: Settings, keyring: Keyring, name: str, count: int, *, follow: bool
) -> AsyncIterator[dict[str, Any]]:
    topic: Topic[Any] = BY_NAME[name]
    async for message in read(settings, Codec(keyring, "hookline/console"), topic, newest=count, follow=follow):
        if isinstance(message, Received):
            yield {
                "partition": message.partition,
                "offset": message.offset,
                "tenant": message.envelope.tenant,
                "account": message.envelope.account,
                "type": message.envelope.type,
                "time": message.envelope.time.isoformat(),
                "payload": _plain(message.payload),
            }
        else:
            raw, cause, detail = message
            headers = {key: value.decode(errors="replace") for key, value in raw.headers}
            yield {
                "partition": raw.partition,
                "offset": raw.offset,
                "tenant": headers.get("hl_tenant", ""),
                "account": headers.get("hl_account", ""),
                "unreadable": cause,
                "detail": detail,
            }


def _plain(payload: Any) -> Any:
    if isinstance(payload, Delivery):
        shown = payload.model_dump(mode="json", exclude={"body"})
        shown["body"] = payload.body.decode("utf-8", errors="backslashreplace")
        return shown
    return payload.model_dump(mode="json")
