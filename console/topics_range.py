"""Which messages of a topic a command means: its options, said once for `tail` and `export`.

Law: tells what is wrong before a broker is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaConsumer

from console.reading import Selection, ranges_of
from console.runtime import ConsoleError
from console.times import moment
from schemas.record import RecordRef
from schemas.topics import BY_NAME, DELIVERIES, Topic

TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="e.g. crm.insights")]
Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Account = Annotated[str, typer.Option(help="Only this account's.")]
Object = Annotated[str, typer.Option("--object", help="Only of this kind: contact, company, deal, ...")]
Record = Annotated[str, typer.Option(help="Only this record's: tenant/account/object/id.")]
Partition = Annotated[list[int] | None, typer.Option(help="Only this partition; may be given again.")]
Start = Annotated[int | None, typer.Option("--from", help="From this offset on, in each partition.")]
Stop = Annotated[int | None, typer.Option("--to", help="Up to this offset, which does not count.")]
Since = Annotated[str, typer.Option(help="Published from then on: 2026-11-23T14:00Z, or 2h ago.")]
Until = Annotated[str, typer.Option(help="Published before then.")]


def topic_named(name: str) -> Topic[Any]:
    """Raises ConsoleError that names those there are."""
    if name not in BY_NAME:
        raise ConsoleError(f"no topic {name!r}: there are {', '.join(sorted(BY_NAME))}")
    return BY_NAME[name]


@dataclass(frozen=True, slots=True)
class Asked:
    """Offsets, times and owners."""

    topic: Topic[Any]
    selection: Selection
    partitions: Sequence[int] | None
    start: int | None
    stop: int | None
    since: datetime | None
    until: datetime | None

    @property
    def ranged(self) -> bool:
        """Whether a place or a time was given; else the newest are meant."""
        return any(each is not None for each in (self.start, self.stop, self.since, self.until))

    @property
    def filtered(self) -> bool:
        """Whether not every message of the range is meant."""
        chosen = self.selection
        return bool(chosen.tenant or chosen.account or chosen.object or chosen.record)

    async def ranges(self, consumer: AIOKafkaConsumer) -> dict[int, range]:
        """As they are now. Raises KafkaError."""
        return await ranges_of(
            consumer,
            self.topic.name,
            partitions=self.partitions,
            start=self.start,
            stop=self.stop,
            since=self.since,
            until=self.until,
        )


def asked(
    topic: str, tenant: str, account: str, object_: str, record: str, partitions: Sequence[int] | None,
    start: int | None, stop: int | None, since: str, until: str,
) -> Asked:  # fmt: skip
    """From options; raises ConsoleError."""
    found = topic_named(topic)
    if found is DELIVERIES and (account or object_ or record):
        raise ConsoleError(
            "a delivery belongs to an endpoint and may speak of several accounts and records: filter by --tenant"
        )
    ref: RecordRef | None = None
    if record:
        try:
            ref = RecordRef.parse(record)
        except ValueError as error:
            raise ConsoleError(str(error)) from error
    after, before = moment(since), moment(until)
    selection = Selection(tenant, account, object_, ref, _ms(after), _ms(before))
    return Asked(found, selection, partitions or None, start, stop, after, before)


def _ms(at: datetime | None) -> int | None:
    return int(at.timestamp() * 1000) if at else None
