"""The floor of the journey: five bare aiokafka hops and the same vendor-library calls, nothing else.

A request is published as it came and answered; five loops hand it on, each `getmany` → send → `commit`, a batch at a time.
The third one reads the records through the vendor's library, the last one writes them. No signature, no encryption, no
state, no analysis: only what cannot be left out. Run by `bench.journey` in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import uvicorn
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.accounts import Account
from infra.crm.client import CrmClient, Read, Written
from infra.crm.vendors import connect
from infra.settings import Settings

TOPICS = tuple(f"bench.hop-{number}" for number in range(1, 6))
GIVEN = "BENCH_HOPS"
"""Environment variable that holds this process's account and port, as JSON."""
READY = "ready"

Message = dict[str, Any]
Work = Callable[[list[bytes]], Awaitable[list[Message]]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TYPES = {"0-1": "contact", "0-2": "company", "0-3": "deal"}
_OBJECTS = frozenset(_TYPES.values())
_OURS = "hookline_"


class Hops:
    """What each of the five does with a batch."""

    def __init__(self, client: CrmClient, account: Account) -> None:
        self._client = client
        self._account = account

    def all(self) -> tuple[Work, ...]:
        """In the order of the topics that they consume."""
        return self.split, self.hand_on, self.read, self.hand_on, self.write

    async def split(self, bodies: list[bytes]) -> list[Message]:
        """Which records the deliveries are about; our own writes' echoes are dropped, or they would go round for ever."""
        records = {record for body in bodies for event in orjson.loads(body) if (record := _record(event)) is not None}
        return [{"type": kind, "id": one} for kind, one in sorted(records)]

    async def hand_on(self, bodies: list[bytes]) -> list[Message]:
        """Nothing."""
        return [orjson.loads(body) for body in bodies]

    async def read(self, bodies: list[bytes]) -> list[Message]:
        """The product's own read: the same calls of the vendor's library."""
        by_type: dict[str, list[str]] = {}
        for body in bodies:
            message = orjson.loads(body)
            by_type.setdefault(message["type"], []).append(message["id"])
        answers = await asyncio.gather(*(self._client.read(self._account, kind, ids) for kind, ids in by_type.items()))
        return [
            {"type": kind, "id": one, "as_of": _iso(found.modified_at), "fields": dict(found.fields)}
            for kind, records in zip(by_type, answers, strict=True)
            for one, found in records.items()
            if isinstance(found, Read)
        ]

    async def write(self, bodies: list[bytes]) -> list[Message]:
        """The product's own write, of values about as large as an insight's."""
        by_type: dict[str, dict[str, dict[str, str]]] = {}
        for body in bodies:
            message = orjson.loads(body)
            by_type.setdefault(message["type"], {})[message["id"]] = {
                "score": str(len(message["fields"])),
                "summary": ", ".join(message["fields"]),
                "as_of": message["as_of"],
                "analyzed_at": _iso(datetime.now(UTC)),
            }
        answers = await asyncio.gather(
            *(self._client.write(self._account, kind, rows) for kind, rows in by_type.items())
        )
        refused = [outcome for answer in answers for outcome in answer.values() if not isinstance(outcome, Written)]
        if refused:
            raise RuntimeError(f"the sandbox refused a write: {refused[0]}")
        return []


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _record(event: Message) -> tuple[str, str] | None:
    kind = _TYPES.get(event.get("objectTypeId", ""), str(event.get("subscriptionType", "")).split(".")[0])
    if kind not in _OBJECTS or str(event.get("propertyName", "")).startswith(_OURS):
        return None
    return kind, str(event["objectId"])


async def _joined(kafka: str, topic: str) -> AIOKafkaConsumer:
    """A consumer that has its partitions and stands at their end."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, group_id=topic, enable_auto_commit=False, auto_offset_reset="latest"
    )
    await consumer.start()
    # aiokafka tells by no event of its own that the group has come together.
    while not consumer.assignment():  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0.05)
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    return consumer


async def _producer(kafka: str) -> AIOKafkaProducer:
    """As durable as the product's: every in-sync replica has it, once."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    return producer


async def _hop(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, target: str | None, work: Work) -> None:
    """One hop, for ever: all that waits in one go, then what follows from it, then the offsets."""
    while True:
        batch = await consumer.getmany(timeout_ms=1_000)
        bodies = [record.value for records in batch.values() for record in records]
        if not bodies:
            continue
        results = await work(bodies)
        if target is not None:
            acks = [await producer.send(target, orjson.dumps(one), key=one["id"].encode()) for one in results]
            await asyncio.gather(*acks)
        await consumer.commit()


def _application(producer: AIOKafkaProducer) -> Any:
    async def application(_scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        await producer.send_and_wait(TOPICS[0], body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return application


async def main(account: Account, settings: Settings, port: int) -> None:
    """Serve until the process is ended."""
    kafka = settings.kafka_url
    assert kafka is not None
    client = connect(settings, ["hubspot"])["hubspot"]
    consumers = await asyncio.gather(*(_joined(kafka, topic) for topic in TOPICS))
    producers = await asyncio.gather(*(_producer(kafka) for _ in TOPICS))
    server = uvicorn.Server(
        uvicorn.Config(
            _application(producers[0]),
            host="127.0.0.1",
            port=port,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
    )
    targets: tuple[str | None, ...] = (*TOPICS[1:], None)
    loops = [
        asyncio.create_task(_hop(*parts))
        for parts in zip(consumers, producers, targets, Hops(client, account).all(), strict=True)
    ]
    loops.append(asyncio.create_task(server.serve()))
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    # The first to end ends the process: a floor that limps measures nothing.
    done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


if __name__ == "__main__":
    given = json.loads(os.environ[GIVEN])
    uvloop.run(main(Account(**given["account"]), Settings(), given["port"]))
