"""`hookline status`: how far each role is behind, what is set aside and why, and each account's last sign of life."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

import sqlalchemy as sa
import typer
from aiokafka.admin import AIOKafkaAdminClient
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.reading import partitions_of, reader
from console.runtime import need, out, registry, run
from infra.accounts import Account
from infra.database.tables import set_aside
from infra.kafka.connection import options
from infra.settings import Settings
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_BULK_GROUP, HYDRATOR_GROUP
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, RECORDS
from sinks.app import group_of

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    TRANSLATOR_GROUP: ("translator", (DELIVERIES.name,)),
    HYDRATOR_GROUP: ("hydrator", (CHANGES.name,)),
    HYDRATOR_BULK_GROUP: ("hydrator", (CHANGES_BULK.name,)),
    ANALYST_GROUP: ("analyst", (RECORDS.name,)),
}


def groups(settings: Settings) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Consumer group → role and topics; one more group for each enabled destination."""
    return {**GROUPS, **{group_of(name): ("sinks", (INSIGHTS.name,)) for name in settings.destinations}}


@dataclass(frozen=True)
class Lag:
    """How far one consumer group is behind on one topic."""

    role: str
    group: str
    topic: str
    messages: int
    seconds: float
    """Age of the oldest message that waits; 0 when none does."""
    members: int


async def lags(settings: Settings) -> list[Lag]:
    """Lag of every role's group, in messages and seconds; raises KafkaError when the brokers do not answer."""
    admin = AIOKafkaAdminClient(**options(settings))
    try:
        await admin.start()
        async with reader(settings) as consumer:
            found = []
            known = groups(settings)
            described = dict.fromkeys(known, 0)
            for group in known:
                # One at a time: aiokafka 0.14 misreads an answer about several (it reads v3 as v2).
                for response in await admin.describe_consumer_groups([group]):
                    for entry in response.groups:
                        described[entry[1]] = len(entry[5])
            for group, (role, topics) in known.items():
                committed = await admin.list_consumer_group_offsets(group)
                for topic in topics:
                    partitions = await partitions_of(consumer, topic)
                    begins = await consumer.beginning_offsets(partitions)
                    ends = await consumer.end_offsets(partitions)
                    at = {p: max(committed[p].offset if p in committed else -1, begins[p]) for p in partitions}
                    behind = {p: ends[p] - at[p] for p in partitions if ends[p] > at[p]}
                    oldest = 0.0
                    if behind:
                        consumer.assign(list(behind))
                        for partition in behind:
                            consumer.seek(partition, at[partition])
                        batch = await consumer.getmany(timeout_ms=1000, max_records=len(behind))
                        stamps = [records[0].timestamp for records in batch.values() if records]
                        oldest = max(0.0, time.time() - min(stamps) / 1000) if stamps else 0.0
                    found.append(Lag(role, group, topic, sum(behind.values()), round(oldest, 1), described[group]))
            return found
    finally:
        await admin.close()


async def waiting(engine: AsyncEngine) -> list[tuple[str, str, str, int, datetime]]:
    """What is set aside: account, stage, cause, how many records, when the next is due."""
    columns = (set_aside.c.account, set_aside.c.stage, set_aside.c.cause)
    async with engine.connect() as connection:
        rows = await connection.execute(
            sa.select(*columns, sa.func.count(), sa.func.min(set_aside.c.due_at))
            .where(set_aside.c.emitted_at.is_(None))
            .group_by(*columns)
            .order_by(*columns)
        )
        return [tuple(row) for row in rows]


def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Lag per role, what is set aside and why, and each account's last delivery and insight."""

    async def command() -> tuple[list[Lag], list[tuple[str, str, str, int, datetime]], list[Account]]:
        async with registry() as (found, settings, engine, _):
            need(settings, "kafka_url")
            return await lags(settings), await waiting(engine), list(await found.accounts())

    behind, aside, accounts = run(command)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "roles": [asdict(lag) for lag in behind],
                    "set_aside": [
                        {
                            "account": account,
                            "stage": stage,
                            "cause": cause,
                            "records": count,
                            "next": f"{due:%Y-%m-%dT%H:%M:%SZ}",
                        }
                        for account, stage, cause, count, due in aside
                    ],
                    "accounts": [
                        {
                            "account": a.id,
                            "tenant": a.tenant,
                            "state": a.state,
                            "last_delivery_at": a.last_delivery_at and a.last_delivery_at.isoformat(),
                            "last_insight_at": a.last_insight_at and a.last_insight_at.isoformat(),
                        }
                        for a in accounts
                    ],
                }
            )
        )
        return
    roles = Table("role", "topic", "behind", "oldest waiting", "members")
    for lag in behind:
        members = (
            str(lag.members) if lag.members else "[bold red]0: nobody reads; start `hookline serve " + lag.role + "`[/]"
        )
        roles.add_row(lag.role, lag.topic, str(lag.messages), f"{lag.seconds:.1f} s" if lag.messages else "-", members)
    out.print(roles)
    if aside:
        table = Table("account", "stage", "set aside because", "records", "next try")
        for account, stage, cause, count, due in aside:
            table.add_row(account, stage, cause, str(count), f"{due:%H:%M:%S}")
        out.print(table)
    table = Table("account", "tenant", "state", "last delivery", "last insight")
    for a in accounts:
        table.add_row(
            a.id,
            a.tenant,
            a.state + (f": {a.state_reason}" if a.state_reason else ""),
            f"{a.last_delivery_at:%H:%M:%S}" if a.last_delivery_at else "never",
            f"{a.last_insight_at:%H:%M:%S}" if a.last_insight_at else "never",
        )
    out.print(table if accounts else "No accounts yet: `hookline account add`.")
