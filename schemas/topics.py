"""The topics: name, payload and key bound once. Everything else asks here.

Law: a topic's partition count is never changed in place; topics are created by `hookline migrate` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from schemas.change import Change
from schemas.dead_letter import DeadLetter
from schemas.delivery import Delivery
from schemas.insight import Insight
from schemas.record import RecordSnapshot

P = TypeVar("P", bound=BaseModel)

HOURS = 3_600_000
DAYS = 24 * HOURS


@dataclass(frozen=True, slots=True)
class Topic(Generic[P]):
    """One topic. `key` goes into the Kafka key in the clear; `partition_by` decides the partition."""

    name: str
    payload: type[P]
    type: str
    """The CloudEvents type that its messages carry."""
    key: Callable[[P], str]
    partition_by: Callable[[P], str]
    scope: Literal["delivery", "record", "tenant"]
    """Which kind of data key seals it: one per endpoint and hour, per CRM record, or per tenant."""
    compacted: bool = False
    retention_ms: int = 7 * DAYS
    settings: dict[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, str]:
        """The topic's Kafka configuration."""
        if self.compacted:
            # 7 days of every version: a replay "as it was" is complete within the compaction lag.
            policy = {
                "cleanup.policy": "compact",
                "min.compaction.lag.ms": str(7 * DAYS),
                "delete.retention.ms": str(7 * DAYS),
            }
        else:
            policy = {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}
        return {**policy, **self.settings}


def by_record(payload: Any) -> str:
    """The record's name, as `str(RecordRef)`: what keeps all that is said of it on one partition."""
    return f"{payload.tenant}/{payload.account}/{payload.object}/{payload.id}"


DELIVERIES: Topic[Delivery] = Topic(
    "crm.deliveries",
    Delivery,
    "hookline.delivery.v1",
    # Without the endpoint: for a sender that signs nothing, its id is the secret, and keys are in the clear.
    key=lambda d: f"{d.tenant}/{d.request_id}",
    partition_by=lambda d: d.request_id,
    scope="delivery",
    retention_ms=72 * HOURS,
)
CHANGES: Topic[Change] = Topic(
    "crm.changes", Change, "hookline.change.v1", key=by_record, partition_by=by_record, scope="record"
)
CHANGES_BULK: Topic[Change] = Topic(
    "crm.changes.bulk", Change, "hookline.change.v1", key=by_record, partition_by=by_record, scope="record"
)
RECORDS: Topic[RecordSnapshot] = Topic(
    "crm.records",
    RecordSnapshot,
    "hookline.record.v1",
    key=by_record,
    partition_by=by_record,
    scope="record",
    compacted=True,
)
INSIGHTS: Topic[Insight] = Topic(
    "crm.insights",
    Insight,
    "hookline.insight.v1",
    key=lambda i: f"{by_record(i)}/{i.analysis}",
    # All insights of a record on one partition: a destination sees them in order and can write them together.
    partition_by=by_record,
    scope="record",
    compacted=True,
)
INSIGHTS_REDRIVEN: Topic[Insight] = Topic(
    # Beside `crm.insights`, whose compaction would keep the redriven insight and drop a newer one. Header `hl_destination` says
    # for whom it is; without it, for all.
    "crm.insights.redriven",
    Insight,
    "hookline.insight.v1",
    key=lambda i: f"{by_record(i)}/{i.analysis}",
    partition_by=by_record,
    scope="record",
)
DEAD_LETTERS: Topic[DeadLetter] = Topic(
    "crm.dead-letters",
    DeadLetter,
    "hookline.dead-letter.v1",
    key=lambda d: f"{d.tenant}/{d.account or '-'}/{d.object or '-'}/{d.record_id or '-'}",
    partition_by=lambda d: f"{d.original_topic}/{d.original_partition}",
    # The wrapper holds no content of its own, and the original inside stays sealed as it was, so it outlives that one's key.
    scope="tenant",
    retention_ms=30 * DAYS,
)

ALL: tuple[Topic[Any], ...] = (DELIVERIES, CHANGES, CHANGES_BULK, RECORDS, INSIGHTS, INSIGHTS_REDRIVEN, DEAD_LETTERS)
BY_NAME: dict[str, Topic[Any]] = {topic.name: topic for topic in ALL}
