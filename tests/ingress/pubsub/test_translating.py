"""The translator with change events: schemas are fetched first, gaps are told as such, overflows become demands."""

from __future__ import annotations

import pytest

from infra.kafka.codec import Codec
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.frame import SOURCE
from ingress.translator import Translator
from schemas.dead_letter import Cause
from schemas.topics import CHANGES
from tests.ingress.fakes import (
    FakeDirectory,
    FakeMarks,
    FakeNotes,
    FakePublisher,
    FakeRates,
    FakeTimes,
    keyring,
    raw_of,
    sources,
)
from tests.ingress.pubsub.events import LEAD, ORG, SCHEMA, delivery, endpoint


class Desk:
    """A translator, a store of schemas, and a list of demands."""

    def __init__(self) -> None:
        KNOWN.__init__()
        self.codec = Codec(keyring(), "hookline/test")
        self.out, self.demanded, self.fetched = FakePublisher(), [], []
        self.kept = {"s1": SCHEMA}
        self.away = False
        self.translator = Translator(
            opener=self.codec, out=self.out, known=FakeDirectory({endpoint().id: endpoint()}), sources=sources(), marks=FakeMarks(),
            rates=FakeRates(), hot=FakeNotes(), times=FakeTimes(), epoch=1, demands=self, prepare={SOURCE: self.prepare},
        )  # fmt: skip

    async def prepare(self, deliveries):
        self.fetched.append(len(deliveries))
        for schema_id, text in self.kept.items():
            KNOWN.put(endpoint().id, schema_id, text)

    async def ask(self, demands):
        if self.away:
            raise OSError("connection refused")
        self.demanded += list(demands)

    async def handle(self, *deliveries):
        await self.translator.handle([await raw_of(self.codec, one, offset=n) for n, one in enumerate(deliveries)])


async def test_schemas_are_fetched_once_a_batch_and_before_anything_is_understood():
    desk = Desk()
    await desk.handle(
        delivery(event_id="a"), delivery(event_id="b", changeType="GAP_UPDATE", recordIds=["00Q5g000000000CEAQ"])
    )
    assert desk.fetched == [2]
    assert [(topic, one.id, one.reason) for topic, one in desk.out.changes] == [
        (CHANGES.name, LEAD, "webhook"),
        (CHANGES.name, "00Q5g000000000CEAQ", "gap"),
    ]


async def test_the_same_event_heard_twice_makes_one_change():
    desk = Desk()
    await desk.handle(delivery(event_id="a"), delivery(event_id="a"))
    assert len(desk.out.changes) == 1


async def test_an_overflow_is_demanded_of_its_endpoint():
    desk = Desk()
    await desk.handle(delivery(changeType="GAP_OVERFLOW", recordIds=[]))
    ((where, what, until),) = desk.demanded
    assert (where, what.object, what.account, until) == (endpoint().id, "lead", ORG, delivery().received_at)
    assert not desk.out.changes
    assert not desk.out.letters


async def test_a_demand_that_cannot_be_kept_is_not_passed_over():
    """INVARIANT: the offset of an overflow is committed behind its demand. If it fails, an object is never read again."""
    desk = Desk()
    desk.away = True
    with pytest.raises(OSError, match="refused"):
        await desk.handle(delivery(changeType="GAP_OVERFLOW", recordIds=[]))


async def test_an_event_of_a_schema_that_nobody_kept_is_a_dead_letter():
    desk = Desk()
    desk.kept = {}
    await desk.handle(delivery())
    assert [(letter["cause"], letter["account"]) for letter in desk.out.letters] == [(Cause.UNKNOWN_VERSION, ORG)]
