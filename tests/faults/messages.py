"""Messages that nobody should have sent, and a release that should not have gone out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer

from console.reading import read
from infra.kafka.broker import partition_of
from infra.kafka.codec import Codec, Outgoing, Received, purpose_of
from infra.kafka.connection import options
from infra.keyring import seal
from schemas.change import Change
from schemas.dead_letter import Cause, DeadLetter
from schemas.insight import DataQuality, Insight, Version
from schemas.record import RecordSnapshot
from schemas.topics import CHANGES, DEAD_LETTERS, DELIVERIES, INSIGHTS, RECORDS, Topic
from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.stand import TENANT, Stand

WAIT_SECONDS = 40.0
STOPS_WITHIN = 30.0
_READERS = {DELIVERIES.name: 1, CHANGES.name: 1, RECORDS.name: 1, INSIGHTS.name: 2}
"""How many groups read such a message, each of which lays it aside; the other CRM's sink passes over it by its key."""

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Sent(Fault):
    """Publishes messages onto our topics, and finds each of them again as a dead letter of each reader."""

    causes: ClassVar[frozenset[Cause]]
    short, long = 1.0, 3.0

    def __init__(self) -> None:
        self._sent: dict[Place, int] = {}

    async def messages(self, stand: Stand) -> list[tuple[str, Outgoing]]:
        """(topic, message)."""
        raise NotImplementedError

    async def inject(self, stand: Stand) -> None:
        producer = AIOKafkaProducer(**options(stand.settings), acks="all", enable_idempotence=True)
        await producer.start()
        try:
            for topic, message in await self.messages(stand):
                count = len(await producer.partitions_for(topic))
                told = await producer.send_and_wait(
                    topic,
                    message.value,
                    key=message.key,
                    partition=partition_of(message.partition_key, count),
                    headers=message.headers,
                )
                self._sent[topic, told.partition, told.offset] = _READERS[topic]
        finally:
            await producer.stop()

    async def evidence(self, stand: Stand) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            letters = [letter for letter in await letters_of(stand) if place_of(letter) in self._sent]
            missing = [
                place
                for place, number in self._sent.items()
                if sum(place_of(each) == place for each in letters) < number
            ]
            if not missing:
                break
            if time.monotonic() > deadline:
                raise NoEvidenceError(f"no dead letter for {missing[:3]}")
            await asyncio.sleep(1)
        causes = {letter.cause for letter in letters}
        if not causes <= self.causes:
            raise NoEvidenceError(f"laid aside as {sorted(causes)}")
        return f"{len(self._sent)} messages on {len({topic for topic, *_ in self._sent})} topics, each a dead letter ({', '.join(sorted(causes))})"


class Poison(Sent):
    name = "poison-message"
    said = "messages that cannot be read on four topics: not ours, cut off, sealed nonsense"
    causes = frozenset({Cause.UNPARSABLE, Cause.UNDECRYPTABLE})
    letters = frozenset({"UNPARSABLE", "UNDECRYPTABLE"})

    async def messages(self, stand: Stand) -> list[tuple[str, Outgoing]]:
        found = []
        key = await stand.keyring.for_tenant(TENANT)
        for topic, good in await _good(stand):
            found.append((topic.name, replace(good, value=b"\x00not ours", headers=[])))
            found.append((topic.name, replace(good, value=(good.value or b"")[:-7])))
            if topic is not DELIVERIES:
                nonsense = seal(key, b'{"tenant": 7, ', purpose=purpose_of(topic))
                found.append((topic.name, replace(good, key=_KEY, partition_key=_KEY, value=nonsense)))
        return found


class Newer(Sent):
    name = "newer-schema"
    said = "messages of a newer schema version on four topics"
    causes = frozenset({Cause.UNKNOWN_VERSION})
    letters = frozenset({"UNKNOWN_VERSION"})

    async def messages(self, stand: Stand) -> list[tuple[str, Outgoing]]:
        found = []
        for topic, good in await _good(stand):
            newer = [
                (name, value.replace(b".v1", b".v2") if name == "ce_type" else value) for name, value in good.headers
            ]
            found.append((topic.name, replace(good, headers=newer)))
        return found


class BadRelease(Fault):
    """The translator is replaced by a release that fails on every message: it must stop, and not drain the topic."""

    name = "bad-release"
    said = "a release of the translator that fails on every delivery goes out, and is rolled back"
    short, long = STOPS_WITHIN, STOPS_WITHIN
    letters = frozenset({"HANDLER_BUG"})
    release: ClassVar[str] = "bad-release"

    def __init__(self) -> None:
        self._code: int | None = None
        self._said = ""
        self._since = 0.0
        self._letters: list[DeadLetter] = []

    async def inject(self, stand: Stand) -> None:
        self._since = time.time()
        member = stand.roles.of("translator")[0]
        member.wanted = False
        await asyncio.to_thread(member.end, signal.SIGTERM)
        unprotected, member.unprotected = member.unprotected, ",".join(filter(None, (member.unprotected, self.release)))
        await asyncio.to_thread(member.start)
        member.unprotected = unprotected

    async def hold(self, stand: Stand, seconds: float) -> None:
        member = stand.roles.member("translator", 1)
        deadline = time.monotonic() + seconds
        while member.alive and time.monotonic() < deadline:  # noqa: ASYNC110 -- a process tells nobody that it ends
            await asyncio.sleep(0.2)
        if not member.alive and member.process is not None:
            self._code = member.process.returncode
            self._said = next((line for line in member.tail().splitlines()[::-1] if "in a row failed" in line), "")

    async def recover(self, stand: Stand) -> None:
        member = stand.roles.member("translator", 1)
        if member.alive:
            await asyncio.to_thread(member.end, signal.SIGTERM)
        member.wanted = True
        await asyncio.to_thread(member.start)
        await stand.roles.until_ready()
        self._letters = [
            letter
            for letter in await letters_of(stand)
            if letter.cause is Cause.HANDLER_BUG
            and letter.stage == "translator"
            and letter.at.timestamp() >= self._since
        ]
        await _redrive(stand, self._letters)

    async def evidence(self, stand: Stand) -> str:
        if self._code in {None, 0} or not self._said:
            raise NoEvidenceError(
                f"it did not stop by itself with its reason (exit code {self._code}, {len(self._letters)} dead letters)"
            )
        return f"it stopped by itself (exit code {self._code}) after {len(self._letters)} dead letters, which were redriven"


async def letters_of(stand: Stand) -> list[DeadLetter]:
    """All dead letters so far."""
    codec = Codec(stand.keyring, "hookline/faults")
    return [each.payload async for each in read(stand.settings, codec, DEAD_LETTERS) if isinstance(each, Received)]


def place_of(letter: DeadLetter) -> Place:
    """Where the message lay."""
    return letter.original_topic, letter.original_partition, letter.original_offset


async def _redrive(stand: Stand, letters: list[DeadLetter]) -> None:
    """Back to where they failed, as they were."""
    producer = AIOKafkaProducer(**options(stand.settings), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for letter in letters:
            await producer.send_and_wait(
                letter.original_topic,
                letter.original_value,
                key=letter.original_key,
                partition=letter.original_partition,
                headers=list(letter.original_headers),
            )
    finally:
        await producer.stop()


_NOBODY = "1"
_KEY = f"{TENANT}/hubspot:1/contact/{_NOBODY}".encode()


async def _good(stand: Stand) -> list[tuple[Topic[Any], Outgoing]]:
    """One good message a topic, of a record that does not exist."""
    codec = Codec(stand.keyring, "hookline/faults")
    now = datetime.now(UTC)
    who: dict[str, Any] = {"tenant": TENANT, "account": stand.portal, "object": "contact", "id": _NOBODY}
    payloads: list[tuple[Topic[Any], Any]] = [
        (CHANGES, Change(**who, kind="updated", occurred_at=now)),
        (RECORDS, RecordSnapshot(**who, crm="hubspot", modified_at=now, read_at=now)),
        (
            INSIGHTS,
            Insight(
                **who, crm="hubspot", analysis="data_quality", version=Version(1, 0, 1), as_of=now, analyzed_at=now,
                model="rules", payload=DataQuality(health=100),
            ),
        ),
    ]  # fmt: skip
    found = [(topic, (await codec.seal(topic, [payload]))[0]) for topic, payload in payloads]
    # A delivery's key is per endpoint and hour; any sealed message serves for what is broken from the outside.
    carrier = found[0][1]
    headers = [(name, DELIVERIES.type.encode() if name == "ce_type" else value) for name, value in carrier.headers]
    found.append((DELIVERIES, replace(carrier, headers=headers, key=f"{TENANT}/{os.urandom(8).hex()}".encode())))
    return found


FAULTS: dict[str, type[Fault]] = {each.name: each for each in (Poison, Newer, BadRelease)}
