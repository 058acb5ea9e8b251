"""The floor of the journey: five bare aiokafka hops and the same vendor-library calls, nothing else.

A request is published as it came and answered; four loops hand it on, `getmany` → `send` → `commit` a batch; the third
one reads the record through the vendor's library, the last one writes it. No signature, no encryption, no state, no
analysis: only what cannot be left out. Run by `bench.journey` in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
import uvicorn
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.stage import hops_topics
from infra.accounts import Account
from infra.crm.client import CrmClient, Read
from infra.plugins import load
from infra.settings import Settings

Hop = Callable[[list[dict]], Awaitable[list[dict]]]
OBJECTS = {"contact": "contact", "company": "company", "deal": "deal"}


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def loop_of(kafka: str, source: str, target: str | None, work: Hop) -> None:
    """One hop: all that waits, in one go, then the offsets."""
    consumer = AIOKafkaConsumer(
        source, bootstrap_servers=kafka, group_id=f"bench.{source}", enable_auto_commit=False, auto_offset_reset="latest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=0)
    await consumer.start()
    await producer.start()
    while True:
        batch = await consumer.getmany(timeout_ms=1000)
        messages = [orjson.loads(record.value) for records in batch.values() for record in records]
        if not messages:
            continue
        for future in [await producer.send(target, orjson.dumps(m), key=str(m["id"]).encode()) for m in await work(messages)] if target else [await work(messages)]:
            if target:
                await future
        await consumer.commit()


def hops(client: CrmClient, account: Account) -> list[Hop]:
    async def hand_on(messages: list[dict]) -> list[dict]:
        return messages

    async def split(messages: list[dict]) -> list[dict]:
        records = {(m["type"], m["id"]) for message in messages for m in events(message)}
        return [{"type": kind, "id": id_} for kind, id_ in sorted(records)]

    async def read(messages: list[dict]) -> list[dict]:
        by_type: dict[str, list[str]] = {}
        for message in messages:
            by_type.setdefault(message["type"], []).append(message["id"])
        found = await asyncio.gather(*(client.read(account, kind, ids) for kind, ids in by_type.items()))
        return [
            {"type": kind, "id": id_, "as_of": iso(one.modified_at), "fields": dict(one.fields)}
            for kind, records in zip(by_type, found, strict=True)
            for id_, one in records.items()
            if isinstance(one, Read)
        ]

    async def write(messages: list[dict]) -> list[dict]:
        by_type: dict[str, dict[str, dict[str, str]]] = {}
        for m in messages:
            by_type.setdefault(m["type"], {})[m["id"]] = {
                "score": "50",
                "summary": f"{len(m['fields'])} fields",
                "as_of": m["as_of"],
                "analyzed_at": iso(datetime.now(UTC)),
            }
        await asyncio.gather(*(client.write(account, kind, rows) for kind, rows in by_type.items()))
        return []

    return [hand_on, split, read, hand_on, write]


def events(message: dict) -> list[dict]:
    kinds = {"0-1": "contact", "0-2": "company", "0-3": "deal"}
    found = []
    for event in message["events"]:
        kind = event.get("subscriptionType", event.get("eventType", "")).split(".")[0]
        kind = kinds.get(event.get("objectTypeId", ""), kind)
        if kind in OBJECTS and not str(event.get("propertyName", "")).startswith("hookline_"):
            found.append({"type": kind, "id": str(event["objectId"])})
    return found


async def main(account: Account, settings: Settings, port: int) -> None:
    kafka = settings.kafka_url
    assert kafka
    client = load("infra.crm", CrmClient, ["hubspot"])["hubspot"].connect(settings)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    topics = hops_topics()

    async def app(scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        await producer.send_and_wait(topics[0], orjson.dumps({"id": 0, "events": orjson.loads(body)}))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="off"))
    loops = [
        loop_of(kafka, topics[i], topics[i + 1] if i + 1 < len(topics) else None, work)
        for i, work in enumerate(hops(client, account))
    ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(server.serve(), *loops)


if __name__ == "__main__":
    given = json.loads(os.environ["BENCH_HOPS"])
    uvloop.run(main(Account(**given["account"]), Settings(), given["port"]))
