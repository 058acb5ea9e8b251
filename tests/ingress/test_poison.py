"""What stops the translator: messages that our own codec refuses, and nothing that a sender wrote."""

from __future__ import annotations

import asyncio
import base64
import json
import os

import pytest
from aiokafka import TopicPartition

from infra.kafka.codec import Codec
from infra.kafka.pump import TooMuchPoison
from infra.kafka.raw import RawMessage
from infra.role import Role
from infra.settings import Settings
from ingress.translator import Translator
from schemas.dead_letter import Cause, DeadLetter
from schemas.topics import DELIVERIES
from tests.infra.kafka.consumer import FakeConsumer
from tests.ingress.fakes import (
    FakeDirectory,
    FakeMarks,
    FakeNotes,
    FakeRates,
    FakeTimes,
    delivery,
    endpoint,
    keyring,
    raw_of,
    sources,
)
from tests.ingress.test_translator import event

PLACE = TopicPartition(DELIVERIES.name, 0)
DECLARED = {"preset": "salesforce_callout"}
GOOD = delivery(json.dumps([event(7)]).encode(), tenant="other", endpoint="theirs")


class Stage:
    """The translator behind the role's own pump and publisher, with Kafka in memory."""

    def __init__(self) -> None:
        ring = keyring()
        self.codec, self.consumer = Codec(ring, "hookline/test"), FakeConsumer()
        self.consumer.logs = {PLACE: []}
        self.consumer.position = {PLACE: 0}
        self.letters: list[DeadLetter] = []
        self.changes: list[str] = []
        key = base64.b64encode(os.urandom(32)).decode()
        self.role = Role(
            Settings(
                kafka_url="127.0.0.1:1", database_url="postgresql://127.0.0.1:1/x", master_keys=key, _env_file=None
            ),
            "translator",
            topics=[DELIVERIES],
        )
        self.role.publisher.publish = self.publish
        mine = endpoint("custom", id="mine" * 6, config=DECLARED, tenant="acme")
        theirs = endpoint(id="theirs", tenant="other")
        translator = Translator(
            opener=self.codec,
            out=self.role.publisher,
            known=FakeDirectory({found.id: found for found in (mine, theirs)}),
            sources=sources(),
            marks=FakeMarks(),
            rates=FakeRates(),
            hot=FakeNotes(),
            times=FakeTimes(),
            epoch=1,
        )
        self.pump = self.role.pump([DELIVERIES], "g", translator.handle, consumer=self.consumer.build)

    async def publish(self, _topic, payloads, **_):
        for payload in payloads:
            if isinstance(payload, DeadLetter):
                self.letters.append(payload)
            else:
                self.changes.append(payload.tenant)
        return [(0, 0) for _ in payloads]

    async def put(self, *found, spoil=lambda raw: raw):
        log = self.consumer.logs[PLACE]
        for one in found:
            log.append(spoil(await raw_of(self.codec, one, offset=len(log))))
        self.consumer.news.set()


async def test_one_tenants_malformed_bodies_stop_nobody():
    """INVARIANT: what a sender signs is its own trouble. If this fails, one tenant's broken sender ends every tenant's insights."""
    stage = Stage()
    await stage.put(*[delivery(b"not json", "custom", endpoint="mine" * 6) for _ in range(50)], GOOD)
    await stage.pump.start()
    try:
        async with asyncio.timeout(5):
            while stage.consumer.committed.get(PLACE) != 51:
                assert not stage.pump._stopped.done(), await stage.pump.ask()
                await asyncio.sleep(0.01)
    finally:
        await stage.pump.drain(2)
    await stage.pump.wait()
    assert stage.changes == ["other"]
    assert {letter.cause for letter in stage.letters} == {Cause.MALFORMED_BODY}
    assert len(stage.letters) == 50


async def test_messages_that_our_codec_refuses_still_stop_it():
    def newer(raw):
        headers = [(name, b"hookline.delivery.v9" if name == "ce_type" else value) for name, value in raw.headers]
        return RawMessage(raw.topic, raw.partition, raw.offset, raw.key, raw.value, headers, raw.timestamp)

    stage = Stage()
    await stage.put(*[GOOD] * 30, spoil=newer)
    await stage.pump.start()
    try:
        async with asyncio.timeout(5):
            with pytest.raises(TooMuchPoison, match="UNKNOWN_VERSION"):
                await stage.pump.wait()
    finally:
        await stage.pump.drain(2)
