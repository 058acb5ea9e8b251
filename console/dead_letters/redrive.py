"""Redriving: letters go back to where they failed, a page at a time, each page done or not done.

Law: a page's rows are locked, its messages published and acknowledged, its rows marked, in this order; so two operators never
redrive one letter at the same time, and whatever dies in between leaves letters open that were published, which is harmless
(see infra/kafka/letters.py). Which letters are meant is fixed before the first one is sent: what fails again is a new letter,
and is not chased.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer
from sqlalchemy.ext.asyncio import AsyncEngine

from console.dead_letters.filter import LetterId
from console.dead_letters.index import Index
from console.reading import ranges_of, raw_range, reader
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec, Outgoing, Received
from infra.kafka.letters import Again, NotRedrivableError, again
from infra.keyring import Keyring, Undecryptable, key_id_of
from infra.settings import Settings
from schemas.change import Change
from schemas.dead_letter import DeadLetter
from schemas.topics import Topic

PAGE = 100
DEFAULT_RATE = 100.0
KEY_GONE = "its data key was destroyed (by its retention or an erasure): nobody can read it any more"
UNREADABLE = "the letter itself cannot be read any more"


@dataclass(slots=True)
class Done:
    """What a redrive has come to so far."""

    redriven: int = 0
    by_topic: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """Why letters were left open → how many."""
    elsewhere: int = 0
    """Redriven or discarded by somebody else meanwhile."""
    looked_at: int = 0


class Redrive:
    """One run. Raises what the database raises, KafkaError and Unavailable; what was done until then stays done."""

    def __init__(
        self, settings: Settings, engine: AsyncEngine, keyring: Keyring, index: Index, publisher: Publisher, who: str
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._keyring = keyring
        self._index = index
        self._publisher = publisher
        self._codec: Codec = publisher.codec
        self._who = who
        self.done = Done()

    async def run(
        self,
        letters: Sequence[LetterId],
        *,
        repeat: bool = False,
        rate: float = DEFAULT_RATE,
        stop: asyncio.Event | None = None,
        progress: Callable[[Done], None] = lambda _: None,
    ) -> Done:
        """Redrive these, in this order, at most `rate` a second; with `repeat` also those that were redriven already.

        `stop` ends it after the page under way: every letter is then either redriven and marked, or open.
        """
        page = max(1, min(PAGE, int(rate)))
        async with reader(self._settings) as consumer:
            for start in range(0, len(letters), page):
                if stop is not None and stop.is_set():
                    break
                began = time.monotonic()
                chosen = letters[start : start + page]
                await self._page(consumer, chosen, repeat=repeat)
                self.done.looked_at += len(chosen)
                progress(self.done)
                rest = len(chosen) / rate - (time.monotonic() - began)
                if rest > 0 and start + page < len(letters):
                    await _wait(stop, rest)
        return self.done

    async def _page(self, consumer: AIOKafkaConsumer, chosen: Sequence[LetterId], *, repeat: bool) -> None:
        left: Counter[str] = Counter()
        async with self._engine.begin() as connection:
            mine = await self._index.lock(connection, chosen, again=repeat)
            found = await self._index.letters(consumer, mine)
            outgoing, sent = await self._prepare(consumer, mine, found, left)
            for topic, messages in outgoing.items():
                await self._publisher.publish_to(topic, messages)
            await self._index.redriven(connection, sent, self._who)
        self.done.redriven += len(sent)
        self.done.elsewhere += len(chosen) - len(mine)
        self.done.left += left
        for topic, messages in outgoing.items():
            self.done.by_topic[topic] += len(messages)

    async def _prepare(
        self,
        consumer: AIOKafkaConsumer,
        mine: Sequence[LetterId],
        found: Mapping[LetterId, Received[DeadLetter]],
        left: Counter[str],
    ) -> tuple[dict[str, list[Outgoing]], list[LetterId]]:
        """Messages by topic, and the letters that they come from; the others are counted in `left`."""
        keys = {letter_id: key_of(received.payload) for letter_id, received in found.items()}
        alive = set(await self._keyring.by_id({key for key in keys.values() if key}))
        outgoing: dict[str, list[Outgoing]] = {}
        triggers: dict[str, tuple[Topic[Any], list[Change], list[str]]] = {}
        sent = []
        for letter_id in mine:
            received = found.get(letter_id)
            if received is None:
                left[UNREADABLE] += 1
            elif (key := keys[letter_id]) and key not in alive:
                left[KEY_GONE] += 1
            else:
                try:
                    what = await self._again(consumer, letter_id, received.payload)
                except NotRedrivableError as error:
                    left[str(error)] += 1
                    continue
                if what.sealed is not None:
                    outgoing.setdefault(what.topic.name, []).append(what.sealed)
                elif what.trigger is not None:
                    _, changes, traces = triggers.setdefault(what.topic.name, (what.topic, [], []))
                    changes.append(what.trigger)
                    traces.append(received.envelope.traceparent)
                sent.append(letter_id)
        for topic, changes, traces in triggers.values():
            outgoing.setdefault(topic.name, []).extend(await self._codec.seal(topic, changes, traceparents=traces))
        return outgoing, sent

    async def _again(self, consumer: AIOKafkaConsumer, letter_id: LetterId, letter: DeadLetter) -> Again:
        value = letter.original_value or await original_value(consumer, letter)
        return again(letter, str(letter_id), value)


async def original_value(consumer: AIOKafkaConsumer, letter: DeadLetter) -> bytes:
    """The bytes at the original's own place, for a letter that was too large to hold them; empty when they are gone."""
    offset = letter.original_offset
    place = await ranges_of(
        consumer, letter.original_topic, partitions={letter.original_partition}, start=offset, stop=offset + 1
    )
    async for page in raw_range(consumer, letter.original_topic, place):
        for raw in page:
            if (raw.key or b"") == letter.original_key:
                return raw.value or b""
    return b""


def key_of(letter: DeadLetter) -> str | None:
    """The id of the data key that seals the original; None where its bytes are none of ours."""
    try:
        return key_id_of(letter.original_value)
    except Undecryptable:
        named = next((value for name, value in letter.original_headers if name == "hl_key"), b"")
        return named.decode("ascii", "replace") or None


async def _wait(stop: asyncio.Event | None, seconds: float) -> None:
    if stop is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
