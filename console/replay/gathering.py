"""Before a replay from snapshots runs: its questions into the provider's batches, where settings say so, and waiting for them.

Law: asks nobody, publishes nothing, keeps nothing but questions that wait; may be stopped and begun again at any time. A question is
put as the run will put it, so that the run finds its answer; what a batch did not bring, the run asks for alone. A replay that is
cancelled takes back what was not sent; what was sent is paid for, accounted, and answers whoever asks the same within days.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from typing_extensions import override

from console.replay.index import Item
from console.replay.runner import Cancelled, Progress, Runner
from console.replay.session import Session
from console.replay.snapshots import to_gather
from console.replay.store import Replay
from infra.telemetry import log
from infra.unavailable import as_unavailable
from llm_gateway.batch.collector import Collector
from llm_gateway.batch.rows import Rows
from llm_gateway.batch.sealing import grant_of
from llm_gateway.question import Line
from processors.batched import Batched
from processors.replay.seams import Tally
from schemas.topics import RECORDS

MOST_PASSES = 3
"""A cascade's second model is asked about in a second one."""
POLL_SECONDS = 2.0
_NOWHERE = Line("", "")
"""What quotas hold is in no line of the provider's."""
WAITS = "the provider's batch: {waiting:,} collected, {sent:,} sent"


class _Gatherer(Runner):
    """Goes over the records as a run does, and leaves no trace of how far it is: the run begins where it was."""

    @override
    async def _note(self, progress: Progress) -> None:
        await self._replays.alive(self._replay.id)


async def gathered(
    session: Session, replay: Replay, items: Sequence[Item], progress: Progress, stop: asyncio.Event
) -> bool:
    """Return when no question of this replay waits any more; False when it was asked to stop before. Raises Cancelled."""
    if not session.settings.model_batch or replay.topic != RECORDS.name or not items:
        return True
    gateway = await session.gateways.open(replay.candidate.model)
    if not gateway.batch_providers():
        return True
    batched = Batched(session.settings, session.parts.engine, session.parts.redis, session.parts.keyring, gateway)
    try:
        async with _collecting(batched.collector):
            for _ in range(MOST_PASSES):
                work, put = await to_gather(
                    replay, session.outside(Tally()), await session.feed(replay.topic, replay.ranges)
                )
                runner = _Gatherer(replay, session.replays, work, commit=_nothing, used=lambda: replay.used, stop=stop)
                if not await runner.run(items, Progress(len(items))):
                    return False
                if not put.waiting:
                    return True
                if not await _over(session, replay, batched.collector, progress, stop):
                    return False
    finally:
        progress.waiting = ""
    return True


async def taken_back(session: Session, replay: Replay) -> None:
    """What a replay put there and nobody has sent yet is not asked. Safe to call again."""
    rows = Rows(session.parts.engine)
    if (await rows.counts(replay.id)).get("waiting"):
        core = (await session.gateways.open()).core
        for item in await rows.take_out(asker=replay.id):
            core.release(grant_of(item, _NOWHERE), sent=False)


async def _over(
    session: Session, replay: Replay, collector: Collector, progress: Progress, stop: asyncio.Event
) -> bool:
    """Wait until none waits; False when it is asked to stop. Raises Cancelled."""
    while not stop.is_set():
        try:
            counts = await collector.rows.counts(replay.id)
            state = (await session.replays.get(replay.id)).state
            await session.replays.alive(replay.id)
        except Exception as error:
            if as_unavailable(error) is None:
                raise
        else:
            if state == "cancelling":
                raise Cancelled
            waiting, sent = counts.get("waiting", 0), counts.get("sent", 0)
            if not waiting + sent:
                return True
            progress.waiting = WAITS.format(waiting=waiting, sent=sent)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS)
    return False


@asynccontextmanager
async def _collecting(collector: Collector) -> AsyncIterator[None]:
    """A replay waits for nobody else's collector; where the analyst's is at work, it finds nothing to do."""
    task = asyncio.create_task(collector.run(), name="replay-batches")
    task.add_done_callback(_broken)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log("replay").error("collector_broke", error=type(task.exception()).__name__)


async def _nothing(_offsets: Mapping[int, int]) -> Any:
    """No place is kept: what is gathered is known by its digest."""
