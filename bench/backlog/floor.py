"""The floor: one bare loop a stage, `getmany` → send → `commit`, a batch at a time, and nothing that could be left out.

No encryption, no state in a database, no duplicates dropped, no analysis. The same reads and writes as Hookline's: the
translator's loop parses a delivery and sends a message per changed record; the hydrator's makes the same calls of
HubSpot's library and sends what has changed, which it remembers in a dictionary; the analyst's sends as many insights
of the same shape per record; the last one upserts the newest and keeps every version, in tables of the same columns and
indexes, by the fastest statement that we know. Payloads are those of the product (`shapes.py`) with its headers, and as
many bytes more as sealing adds.
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
from datetime import UTC, datetime
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
SEALING = b" " * 45
"""What sealing adds to a payload; JSON may end in blanks."""

Message = tuple[bytes, bytes]
"""Key and value."""
Work = Callable[[Sequence[Any]], Awaitable[list[Message]]]

_TABLES = """
    CREATE TABLE IF NOT EXISTS bench_insights (LIKE insights INCLUDING ALL);
    CREATE TABLE IF NOT EXISTS bench_history (LIKE insight_history INCLUDING ALL);
"""
_COLUMNS = {
    "tenant": "text", "account": "text", "object": "text", "id": "text", "analysis": "text", "epoch": "int",
    "snapshot_offset": "bigint", "generation": "int", "crm": "text", "as_of": "timestamptz", "analyzed_at": "timestamptz",
    "model": "text", "prompt_version": "text", "score": "int", "grade": "text",
}  # fmt: skip
_KEY = "tenant, account, object, record_id, analysis"
_VERSION = "epoch, snapshot_offset, generation"
_KEPT = "as_of, analyzed_at, model, prompt_version, score, grade, payload"
_UPSERT = f"""
    WITH given AS MATERIALIZED (
      SELECT * FROM ROWS FROM (unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _COLUMNS.items())}),
                               jsonb_array_elements(%(payload)s::jsonb))
        AS g ({_KEY}, {_VERSION}, crm, {_KEPT})
    ), history AS (
      INSERT INTO bench_history ({_KEY}, {_VERSION}, {_KEPT}) SELECT {_KEY}, {_VERSION}, {_KEPT} FROM given
      ON CONFLICT DO NOTHING
    )
    INSERT INTO bench_insights AS i ({_KEY}, {_VERSION}, crm, {_KEPT})
    SELECT DISTINCT ON ({_KEY}) {_KEY}, {_VERSION}, crm, {_KEPT} FROM given
    ORDER BY {_KEY}, epoch DESC, snapshot_offset DESC, generation DESC
    ON CONFLICT ({_KEY}) DO UPDATE SET ({_VERSION}, {_KEPT}) = ROW (
      EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation, EXCLUDED.as_of, EXCLUDED.analyzed_at, EXCLUDED.model,
      EXCLUDED.prompt_version, EXCLUDED.score, EXCLUDED.grade, EXCLUDED.payload)
    WHERE (EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation) > (i.epoch, i.snapshot_offset, i.generation)
"""


class Translate:
    """One message per event's record."""

    def __init__(self, key: str, change: dict[str, Any]) -> None:
        """`key`: of an account's records; `change`: what one says beside its record, and when."""
        self._key = key
        self._change = change

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        found = []
        for record in records:
            for event in orjson.loads(record.value):
                kind, one = PLURALS[event["objectTypeId"]], str(event["objectId"])
                at = datetime.fromtimestamp(event["occurredAt"] / 1000, UTC).isoformat(timespec="milliseconds")
                change = {
                    **self._change,
                    "object": kind,
                    "id": one,
                    "occurred_at": at,
                    "properties": [event["propertyName"]],
                }
                found.append((f"{self._key}/{kind}/{one}".encode(), orjson.dumps(change) + SEALING))
        return found


class Hydrate:
    """Reads each record once a batch; sends those that differ from what was sent last."""

    def __init__(self, given: dict[str, Any]) -> None:
        """`given`: what this process is told; among it what the product asks of each kind of record, and of what hangs on it."""
        portal = given["portal"]
        self._key = given["key"]
        self._snapshots = given["snapshots"]
        self._silent = given["silent"]
        self._api = HubSpot(access_token="bench").crm.objects.batch_api.api_client
        self._api.configuration.host = portal
        self._properties = given["properties"]
        self._kinds = given["kinds"]
        self._threads = ThreadPoolExecutor(16)
        self._sent: dict[str, bytes] = {}

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        wanted: dict[str, dict[str, None]] = {}
        for record in records:
            change = orjson.loads(record.value)
            wanted.setdefault(change["object"], {})[change["id"]] = None
        pages = [
            (kind, ids)
            for kind, names in wanted.items()
            for every in [list(names)]
            for ids in (every[start : start + 100] for start in range(0, len(every), 100))
        ]
        found: list[Message] = []
        for kind, rows in await asyncio.gather(*(self._page(kind, ids) for kind, ids in pages)):
            for row in rows:
                name, fields = f"{self._key}/{kind}/{row['id']}", orjson.dumps(row)
                digest = hashlib.blake2b(fields, digest_size=16).digest()
                if self._sent.get(name) != digest:
                    self._sent[name] = digest
                    # With `properties` as they are, the nulls apart: the product's has them as `fields`.
                    shown = {each: value for each, value in row["properties"].items() if value}
                    value = {**self._snapshots[kind], "object": kind, "id": row["id"], "fields": shown}
                    found.append((name.encode(), orjson.dumps(value) + SEALING))
        return [] if self._silent else found

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


class Analyse:
    """As many messages as there would be insights, of the same shape."""

    def __init__(self, insights: dict[str, list[dict[str, Any]]]) -> None:
        """`insights`: those of one record, by its kind."""
        self._insights = insights

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        found = []
        for record in records:
            snapshot = orjson.loads(record.value)
            for each in self._insights[snapshot["object"]]:
                insight = {**each, "id": snapshot["id"], "version": [1, record.offset, 1]}
                found.append((record.key + b"/" + each["analysis"].encode(), orjson.dumps(insight) + SEALING))
        return found


class Upsert:
    """The newest of each, and all of them."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def __call__(self, records: Sequence[Any]) -> list[Message]:
        """See Work."""
        rows = [_row(orjson.loads(record.value)) for record in records]
        given = {name: "{" + ",".join([row[name] for row in rows]) + "}" for name in _COLUMNS}
        payloads = b"[" + b",".join([row["payload"] for row in rows]) + b"]"
        await self._connection.execute(_UPSERT, {**given, "payload": payloads.decode()})
        return []


def _row(insight: dict[str, Any]) -> dict[str, Any]:
    """The columns, as PostgreSQL writes arrays."""
    payload = insight["payload"]
    epoch, offset, generation = insight["version"]
    told = {name: f'"{insight[name]}"' for name in _COLUMNS if name in insight}
    score = payload.get("score")
    return {
        **told,
        "epoch": str(epoch),
        "snapshot_offset": str(offset),
        "generation": str(generation),
        "score": "NULL" if score is None else str(score),
        "grade": payload.get("grade") or "NULL",
        "payload": orjson.dumps(payload),
    }


async def _loop(
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    target: str | None,
    headers: list[tuple[str, bytes]],
    work: Work,
) -> None:
    partitions = len(await producer.partitions_for(target)) if target else 0
    while True:
        batch = await consumer.getmany(timeout_ms=500, max_records=MOST)
        records = [record for found in batch.values() for record in found]
        if not records:
            continue
        results = await work(records)
        if target is not None:
            acks = [
                await producer.send(target, value, key=key, partition=zlib.crc32(key) % partitions, headers=headers)
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
        work = Translate(given["key"], given["change"])
    elif stage == "hydrator":
        work = Hydrate(given)
    elif stage == "analyst":
        work = Analyse(given["insights"])
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
    headers = [(name, value.encode()) for name, value in given["headers"].get(stage, {}).items()]
    await _loop(consumer, producer, target, headers, work)


if __name__ == "__main__":
    uvloop.run(main(json.loads(os.environ[GIVEN])))
