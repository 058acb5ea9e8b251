"""Getting one batch through a handler: trying again while a part is away, and finding the message that fails alone.

Law: returns only when every message of the batch was handled or laid aside; whatever else ends it is raised and nothing
of the batch may be committed. Messages whose partition was taken away meanwhile are not tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from infra import metrics, telemetry
from infra.kafka.letters import is_redriven
from infra.kafka.poison import Poison, TooMuchPoison
from infra.kafka.raw import Raw
from infra.kafka.schedule import Batch, Held, Key, Partition
from infra.settings import SettingsError
from infra.unavailable import as_unavailable

Again = Mapping[Key, float]
"""Message key → seconds after which its messages are to be handled once more. They stay uncommitted meanwhile."""
Handler = Callable[[Sequence[Raw]], Awaitable[Again | None]]
OnPoison = Callable[[Raw, Exception], Awaitable[None]]

FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 30.0
LONGEST_ASKED_SECONDS = 300.0
"""A part's own `retry_after` is followed up to here."""


class GaveUp(Exception):  # noqa: N818 -- no error: the pump stops while a part is away
    """The pump is draining and the batch's part is still away; the next owner handles it."""


class Attempts:
    """One per pump. `pause(part)` and `resume(part)` are the pump's, called in pairs."""

    def __init__(
        self,
        *,
        group: str,
        handler: Handler,
        on_poison: OnPoison,
        poison: Poison,
        pause: Callable[[str], None],
        resume: Callable[[str], None],
    ) -> None:
        self._group = group
        self._handler = handler
        self._on_poison = on_poison
        self._poison = poison
        self._pause = pause
        self._resume = resume
        self._log = telemetry.log("pump").bind(group=group)
        self._wake = asyncio.Event()
        self._stopping = False
        self.stuck: set[Batch] = set()
        """Batches that wait for a part to come back; waiting for them would be in vain."""

    def stop(self) -> None:
        """Whoever waits for a part tries once more and then gives up."""
        self._stopping = True
        self._wake.set()

    async def handle(self, batch: Batch) -> dict[Key, float]:
        """See the module's law; returns what the handler wants to see again. Raises GaveUp, TooMuchPoison, SettingsError, or
        what `on_poison` raised.
        """
        again: dict[Key, float] = {}
        try:
            await self._handle(batch, batch.messages, again)
        finally:
            for partition, offsets in _places(batch.messages).items():
                self._poison.ended(partition, offsets)
        return again

    async def _handle(self, batch: Batch, messages: list[Held], again: dict[Key, float]) -> None:
        try:
            await self._persist(batch, lambda: self._call(messages, again))
        except (SettingsError, TooMuchPoison, GaveUp):
            raise
        except Exception as error:  # noqa: BLE001 -- any bug of a handler
            if len(messages) > 1:
                middle = _middle(messages)
                await self._handle(batch, messages[:middle], again)
                await self._handle(batch, messages[middle:], again)
            else:
                await self._lay_aside(batch, messages[0], error)
        else:
            for partition, offsets in _places(messages).items():
                metrics.HANDLED.labels(self._group, partition[0]).inc(len(offsets))
            # What is to come again says nothing yet.
            done = [held for held in messages if held.key not in again and not held.offsets.lost]
            for partition, offsets in _places(done).items():
                self._poison.good(partition, offsets)

    async def _lay_aside(self, batch: Batch, held: Held, error: Exception) -> None:
        raw = held.raw
        self._log.error(
            "message_failed", topic=raw.topic, partition=raw.partition, offset=raw.offset,
            error=type(error).__name__, at=_place(error),
        )  # fmt: skip
        metrics.POISON.labels(self._group).inc()
        # Counted first: at the limit the last message stays where it is, for the mended release. What an operator redrove before its
        # cause was mended must not stop everybody.
        self._poison.bad((raw.topic, raw.partition), raw.offset, type(error).__name__, counts=not is_redriven(raw))
        await self._persist(batch, lambda: self._on_poison(raw, error))

    async def _call(self, messages: list[Held], again: dict[Key, float]) -> None:
        owned = [held.raw for held in messages if not held.offsets.lost]
        if not owned:
            return
        metrics.BATCH_SIZE.labels(self._group).observe(len(owned))
        started = time.monotonic()
        try:
            again.update(await self._handler(owned) or {})
        finally:
            metrics.HANDLE_SECONDS.labels(self._group).observe(time.monotonic() - started)

    async def _persist(self, batch: Batch, act: Callable[[], Awaitable[None]]) -> None:
        """Do `act`; while a part is away, pause and try again, with growing and jittered delays, for as long as it takes."""
        delay = FIRST_RETRY_SECONDS
        paused: str | None = None
        try:
            while True:
                try:
                    await act()
                except Exception as error:
                    away = as_unavailable(error)
                    if away is None:
                        raise
                    if self._stopping:
                        raise GaveUp from error
                    if paused != away.part:
                        if paused is not None:
                            self._resume(paused)
                        paused = away.part
                        self._pause(paused)
                        self._log.warning("part_away", part=away.part, why=str(away))
                    metrics.RETRIES.labels(self._group, away.part).inc()
                    asked = min(away.retry_after or 0.0, LONGEST_ASKED_SECONDS)
                    await self._rest(batch, max(delay, asked) * random.uniform(0.8, 1.2))  # noqa: S311 -- jitter is no secret
                    delay = min(delay * 2, LAST_RETRY_SECONDS)
                else:
                    if paused is not None:
                        self._log.info("part_back", part=paused)
                        # Whoever else waits for it need not wait out a long delay.
                        self._wake.set()
                    return
        finally:
            if paused is not None:
                self._resume(paused)

    async def _rest(self, batch: Batch, seconds: float) -> None:
        if not self._stopping:
            # Cleared by each that begins to wait, so that a signal of before cannot make it try again at once for ever.
            self._wake.clear()
        self.stuck.add(batch)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
        finally:
            self.stuck.discard(batch)


def _places(messages: Sequence[Held]) -> dict[Partition, list[int]]:
    """Their offsets by partition."""
    found: defaultdict[Partition, list[int]] = defaultdict(list)
    for held in messages:
        found[held.raw.topic, held.raw.partition].append(held.raw.offset)
    return found


def _middle(messages: list[Held]) -> int:
    """Where to cut: between two keys when there are several, as messages of one key belong together."""
    middle = len(messages) // 2
    for place in sorted(range(1, len(messages)), key=lambda place: abs(place - middle)):
        if messages[place].key != messages[place - 1].key:
            return place
    return middle


def _place(error: Exception) -> str:
    """File and line where it was raised: what a bug report needs, and no content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else ""
