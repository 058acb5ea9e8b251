"""A replay from deliveries or changes: each record that they name is triggered once, and the hydrator reads the CRM anew.

Law: it passes no duplicate check, because it publishes changes whose reason is `replay`, which pass; what people see is
still decided by versions. Such a change carries no property and no author: when they changed was told when they did. Who
was erased is not triggered, whatever old deliveries say of them: nobody could open such a trigger, for no key is kept for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from console.replay.index import Decode, Item
from console.replay.snapshots import Fetched
from infra.accounts import Directory
from infra.database.tables import data_keys, hydrator_state
from infra.kafka.broker import Publisher
from infra.kafka.codec import Received
from infra.kafka.raw import Raw
from infra.privacy.people import People
from ingress.fold import fold
from ingress.sources.source import Event, Source
from processors.replay.seams import CountingCodec, Tally
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.record import RecordRef
from schemas.topics import CHANGES_BULK, DELIVERIES, Topic

_ASKED_AT_ONCE = 1_000


def from_changes(codec: CountingCodec, topic: Topic[Change]) -> Decode:
    """Changes as they lie there."""

    async def decode(raws: Sequence[Raw]) -> list[tuple[Raw, Change]]:
        opened, _ = await codec.open(topic, raws)
        return [(each.raw, each.payload) for each in opened]

    return decode


def from_deliveries(codec: CountingCodec, directory: Directory, sources: Mapping[str, Source], tally: Tally) -> Decode:
    """Changes as the translator would make them; what it would lay aside or drop is counted."""

    async def decode(raws: Sequence[Raw]) -> list[tuple[Raw, Change]]:
        opened, _ = await codec.open(DELIVERIES, raws)
        return [(each.raw, change) for each in opened for change in _translated(each, directory, sources, tally)]

    return decode


def _translated(
    received: Received[Delivery], directory: Directory, sources: Mapping[str, Source], tally: Tally
) -> list[Change]:
    delivery = received.payload
    endpoint = directory.endpoint(delivery.endpoint)
    source = sources.get(delivery.source)
    if endpoint is None or endpoint.tenant != delivery.tenant or source is None:
        tally("refused")
        return []
    found = list(source.translate(delivery, endpoint))
    events = [each for each in found if isinstance(each, Event) and each.account in endpoint.accounts]
    tally("refused", len(found) - len(events))
    return [change for change, _ in fold(delivery, events)]


def refreshing(change: Change) -> Change:
    """The trigger that a replay publishes."""
    return Change(
        tenant=change.tenant,
        account=change.account,
        object=change.object,
        id=change.id,
        kind="deleted" if change.kind == "deleted" else "updated",
        occurred_at=change.occurred_at,
        reason="replay",
        delivery=change.delivery,
    )


async def erased(engine: AsyncEngine, people: People, items: Sequence[Item]) -> set[RecordRef]:
    """Of these, the records whose person was erased: told so by a change, on the list of the erased (a finished erasure leaves
    nothing else of them), or known to us and without their key.
    """
    found = {item.ref for item in items if item.change is not None and item.change.kind == "erased"}
    refs = [item.ref for item in items]
    key = (hydrator_state.c.tenant, hydrator_state.c.account, hydrator_state.c.object, hydrator_state.c.record_id)
    name = sa.func.concat_ws("/", *key)
    for start in range(0, len(refs), _ASKED_AT_ONCE):
        page = refs[start : start + _ASKED_AT_ONCE]
        found |= await people.erased(page)
        asked = (
            sa.select(*key)
            .where(sa.tuple_(*key).in_([tuple(ref) for ref in page]))
            .where(~sa.exists().where(data_keys.c.scope == "record", data_keys.c.name == name))
        )
        async with engine.connect() as connection:
            found.update(RecordRef(*row) for row in (await connection.execute(asked)).all())
    return found


class Refresh:
    """The work of a refresh: see `console.replay.runner.Work`."""

    grouped = True
    wrote = False

    def __init__(self, engine: AsyncEngine, people: People, publisher: Publisher, tally: Tally) -> None:
        self._engine = engine
        self._people = people
        self._publisher = publisher
        self._tally = tally

    async def fetch(self, items: Sequence[Item]) -> Fetched:
        """See Work: the index holds all that is needed."""
        return [(item, None) for item in items]

    async def handle(self, fetched: Fetched) -> None:
        """See Work."""
        items = [item for item, _ in fetched]
        gone = await erased(self._engine, self._people, items)
        changes = [refreshing(item.change) for item in items if item.change is not None and item.ref not in gone]
        await self._publisher.publish(CHANGES_BULK, changes)
        self._tally("erased", len({item.ref for item in items} & gone))
        self._tally("triggered", len(changes))

    async def settle(self) -> None:
        """See Work: nothing is left."""
