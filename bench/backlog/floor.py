"""The floor: one bare loop a stage, `getmany` → send → `commit`, a batch at a time, and nothing that could be left out.

No encryption, no state in a database, no duplicates dropped, no analysis. The same reads and writes as Hookline's: the
translator's loop parses a delivery and sends a message per changed record; the hydrator's makes the same calls of
HubSpot's library and sends what has changed, which it remembers in a dictionary; the analyst's sends as many messages of
the same size per record; the last one upserts the newest and keeps every version, by the fastest statement that we know.
Run by `bench.backlog` in a process of its own, one stage each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import psycopg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from hubspot import HubSpot

DELIVERIES, CHANGES, RECORDS, INSIGHTS = (f"bench.{name}" for name in ("deliveries", "changes", "records", "insights"))
TOPICS = (DELIVERIES, CHANGES, RECORDS, INSIGHTS)
GIVEN = "BENCH_FLOOR"
"""Environment variable with this process's stage and addresses, as JSON."""
READY = "ready"
BEGIN = signal.SIGUSR1
"""Sent when it may consume: until then it is a member of its group and waits."""
MOST = 500
PLURALS = {"0-1": "contacts", "0-2": "companies", "0-3": "deals"}
INSIGHTS_A_RECORD = 2
INSIGHT_BYTES = 1_200

Message = tuple[bytes, bytes]
"""Key and value."""
Work = Callable[[Sequence[Any]], Awaitable[list[Message]]]

_TABLES = """
    CREATE TABLE IF NOT EXISTS bench_insights (record text, analysis text, version bigint, payload jsonb,
                                               PRIMARY KEY (record, analysis));
    CREATE TABLE IF NOT EXISTS bench_history (record text, analysis text, version bigint, payload jsonb,
                                              PRIMARY KEY (record, analysis, version));
"""
_UPSERT = """
    WITH given AS MATERIALIZED (
      SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::text[]) AS g (record, analysis, version, payload)
    ), history AS (
      INSERT INTO bench_history SELECT record, analysis, version, payload::jsonb FROM given ON CONFLICT DO NOTHING
    )
    INSERT INTO bench_insights AS i
    SELECT DISTINCT ON (record, analysis) record, analysis, version, payload::jsonb FROM given
    ORDER BY record, analysis, version DESC
    ON CONFLICT (record, analysis) DO UPDATE SET version = EXCLUDED.version, payload = EXCLUDED.payload
    WHERE EXCLUDED.version > i.version
"""


async def translate(records: Sequence[Any]) -> list[Message]:
    """One message per event's record."""
    found = []
    for record in records:
        for event in orjson.loads(record.value):
            kind, one = PLURALS[event["objectTypeId"]], event["objectId"]
            change = {"kind": kind, "id": one, "at": event["occurredAt"], "properties": [event["propertyName"]]}
            found.append((f"bench/{kind}/{one}".encode(), orjson.dumps(change)))
    return found


class Hydrate:
    """Reads each record once a batch; sends those that differ from what was sent last."""

    def __init__(self, portal: str, properties: dict[str, list[str]], kinds: dict[str, list[str]]) -> None:
        """`properties` and `kinds`: what the product asks of each kind of record, and of what hangs on it."""
        self._api = HubSpot(access_token="bench").crm.objects.batch_api.api_client
        self._api.configuration.host = portal
        self._properties = properties
        self._kinds = kinds
        self._threads = ThreadPoolExecutor(16)
        self._sent: dict[str, bytes] = {}

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        wanted: dict[str, dict[str, None]] = {}
        for record in records:
            change = orjson.loads(record.value)
            wanted.setdefault(change["kind"], {})[str(change["id"])] = None
        pages = [
            (kind, ids)
            for kind, names in wanted.items()
            for every in [list(names)]
            for ids in (every[start : start + 100] for start in range(0, len(every), 100))
        ]
        found: list[Message] = []
        for kind, rows in await asyncio.gather(*(self._page(kind, ids) for kind, ids in pages)):
            for row in rows:
                name, value = f"bench/{kind}/{row['id']}", orjson.dumps(row)
                digest = hashlib.blake2b(value, digest_size=16).digest()
                if self._sent.get(name) != digest:
                    self._sent[name] = digest
                    found.append((name.encode(), value))
        return found

    async def _page(self, kind: str, ids: list[str]) -> tuple[str, list[dict[str, Any]]]:
        inputs = [{"id": one} for one in ids]
        body = {"properties": self._properties[kind], "propertiesWithHistory": [], "inputs": inputs}
        calls = [
            self._call(f"/crm/v3/objects/{kind}/batch/read", body),
            *(
                self._call(f"/crm/v4/associations/{kind}/{each}/batch/read", {"inputs": inputs})
                for each in self._kinds[kind]
            ),
        ]
        answers = await asyncio.gather(*calls)
        return kind, answers[0]["results"]

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._post, path, body)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._api.call_api(
            path,
            "POST",
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["oauth2"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        found: dict[str, Any] = orjson.loads(answer.data)
        return found


async def analyse(records: Sequence[Any]) -> list[Message]:
    """As many messages as there would be insights, about as large."""
    found = []
    for record in records:
        orjson.loads(record.value)
        for number in range(INSIGHTS_A_RECORD):
            insight = {"record": record.key.decode(), "analysis": f"a{number}", "version": record.offset}
            insight["payload"] = {"text": "x" * INSIGHT_BYTES}
            found.append((record.key + b"/a%d" % number, orjson.dumps(insight)))
    return found


class Upsert:
    """The newest of each, and all of them."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        rows = [orjson.loads(record.value) for record in records]
        columns = [[row[name] for row in rows] for name in ("record", "analysis", "version")]
        await self._connection.execute(_UPSERT, [*columns, [orjson.dumps(row["payload"]).decode() for row in rows]])
        return []


async def _loop(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, target: str | None, work: Work) -> None:
    partitions = len(await producer.partitions_for(target)) if target else 0
    while True:
        batch = await consumer.getmany(timeout_ms=500, max_records=MOST)
        records = [record for found in batch.values() for record in found]
        if not records:
            continue
        results = await work(records)
        if target is not None:
            acks = [
                await producer.send(target, value, key=key, partition=zlib.crc32(key) % partitions)
                for key, value in results
            ]
            if acks:
                await asyncio.gather(*acks)
        await consumer.commit()


async def main(given: dict[str, Any]) -> None:
    """Consume for ever."""
    stage = given["stage"]
    source = dict(zip(("translator", "hydrator", "analyst", "postgres"), TOPICS, strict=True))[stage]
    target = {"translator": CHANGES, "hydrator": RECORDS, "analyst": INSIGHTS}.get(stage)
    work: Work
    if stage == "translator":
        work = translate
    elif stage == "hydrator":
        work = Hydrate(given["portal"], given["properties"], given["kinds"])
    elif stage == "analyst":
        work = analyse
    else:
        connection = await psycopg.AsyncConnection.connect(given["database"], autocommit=True)
        await connection.execute(_TABLES)
        work = Upsert(connection)
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=given["kafka"],
        group_id=f"bench.{stage}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=given["kafka"], acks="all", enable_idempotence=True, max_batch_size=512 * 1024
    )
    begin = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(BEGIN, begin.set)
    await producer.start()
    await consumer.start()
    # aiokafka tells by no event of its own that the group has come together.
    while not consumer.assignment():  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0.05)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    await begin.wait()
    await _loop(consumer, producer, target, work)


if __name__ == "__main__":
    uvloop.run(main(json.loads(os.environ[GIVEN])))
