"""One run of a replay from its beginning or where it was: locked, shown, and left in a state that says what is next.

Law: whatever ends a run, its row says how: done, paused (somebody stopped it, or a part of it broke and it can go on),
cancelled (nothing of it is left but what it published), failed (with what failed).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from aiokafka import TopicPartition

from console.replay.gathering import gathered, taken_back
from console.replay.index import build
from console.replay.runner import Cancelled, Progress, Runner, TooManyFailedError, committing
from console.replay.session import REFRESHES, Session
from console.replay.store import Replay
from console.replay.view import Shown
from console.runtime import ConsoleError
from processors.replay.results import Results
from processors.replay.seams import Tally

OVER = ("done", "cancelled", "failed")


@dataclass(slots=True)
class Meter:
    """What was used: in this run, on top of the earlier ones."""

    session: Session
    tally: Tally
    before: Mapping[str, Any]
    asks: bool
    """Whether the replay itself asks models: what others do for a refresh, their processes count."""
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    asked_before: Mapping[str, float] = field(init=False)
    """By other replays of this process."""

    def __post_init__(self) -> None:
        self.asked_before = self._asked()

    def __call__(self) -> dict[str, Any]:
        """The numbers, named as the plan's are."""
        now: dict[str, float] = {
            **{name: number - self.asked_before[name] for name, number in self._asked().items()},
            "seconds": asyncio.get_running_loop().time() - self.began,
            **self.tally.counts,
        }
        sums = {name: now.get(name, 0) + self.before.get(name, 0) for name in {*now, *self.before}}
        return {name: round(number, 6) if isinstance(number, float) else number for name, number in sums.items()}

    def _asked(self) -> dict[str, float]:
        if not self.asks:
            return {}
        stats = self.session.gateways.stats()
        return {
            "model_calls": sum(each.calls for each in stats),
            "cache_hits": sum(each.cache_hits for each in stats),
            "input_tokens": sum(each.input_tokens for each in stats),
            "output_tokens": sum(each.output_tokens for each in stats),
            "cost_usd": sum(each.cost_usd for each in stats),
        }


async def run(session: Session, replay: Replay, shown: Shown) -> Replay:
    """Run until it is over or stopped by SIGTERM or Ctrl-C; returns its row. Raises ConsoleError."""
    if replay.state in OVER:
        raise ConsoleError(f"replay {replay.id} is {replay.state}: plan another one with `hookline replay plan`")
    async with session.replays.running(replay.id), _stopping() as stop:
        await session.replays.update(
            replay.id,
            state="running",
            started_at=sa.func.coalesce(sa.literal_column("started_at"), sa.func.now()),
            seen_at=sa.func.now(),
            error="",
        )
        progress = Progress(0)
        try:
            finished = await _run(session, replay, stop, progress, shown)
        except Cancelled:
            await cleared(session, replay)
        except TooManyFailedError as error:
            await _ended(session, replay, "failed", f"{error}; {'; '.join(progress.failed[:3])}")
            raise ConsoleError(
                f"replay {replay.id} stopped: {error}; `hookline replay show {replay.id}` names them"
            ) from error
        except asyncio.CancelledError:
            await session.replays.update(replay.id, state="paused", seen_at=sa.func.now())
            if not stop.is_set():
                raise
        except Exception as error:
            with contextlib.suppress(Exception):
                await session.replays.update(replay.id, state="paused", error=type(error).__name__)
            raise
        else:
            if finished:
                await _ended(session, replay, "done", "; ".join(progress.failed))
            else:
                await session.replays.update(replay.id, state="paused", seen_at=sa.func.now())
    return await session.replays.get(replay.id)


async def _run(
    session: Session,
    replay: Replay,
    stop: asyncio.Event,
    progress: Progress,
    shown: Shown,
) -> bool:
    tally, unseen = Tally(), Tally()
    consumer = await session.consumer(replay.group)
    # Those that cannot be opened were counted by the plan; what the run itself meets is counted as it is met.
    index = await build(
        await session.consumer(),
        replay.topic,
        replay.ranges,
        replay.filter,
        session.decoder(replay.topic, tally if replay.topic in REFRESHES and not replay.used else unseen),
    )
    done = await session.committed(consumer, replay)
    items = index.after(done)
    progress.total, progress.done = len(index.items), len(index.items) - len(items)
    work = await session.work(replay, tally)
    partitions = [TopicPartition(replay.topic, number) for number in replay.ranges]
    consumer.assign(partitions)
    consumer.pause(*partitions)  # it commits and reads nothing
    meter = Meter(session, tally, replay.used, asks=replay.topic not in REFRESHES)
    runner = Runner(replay, session.replays, work, commit=committing(consumer, replay.topic), used=meter, stop=stop)
    async with shown.progress(replay, progress):
        return await gathered(session, replay, items, progress, stop) and await runner.run(items, progress)


async def cancel(session: Session, replay: Replay) -> Replay:
    """End it: at once where nobody runs it, else its runner does within a second or a page. Raises ConsoleError."""
    if replay.state in OVER:
        raise ConsoleError(f"replay {replay.id} is {replay.state} already")
    await session.replays.update(
        replay.id, state="cancelling", only_from=("planned", "paused", "running", "cancelling")
    )
    try:
        async with session.replays.running(replay.id):
            await cleared(session, replay)
    except ConsoleError:
        # Somebody runs it, and sees the state.
        return await session.replays.get(replay.id)
    return await session.replays.get(replay.id)


async def cleared(session: Session, replay: Replay) -> None:
    """Cancelled: no group on Kafka, no results of a shadow. Insights that were published stay: they are newer than before."""
    await Results(session.parts.engine, replay.id).clear()
    await taken_back(session, replay)
    await _ended(session, replay, "cancelled", "")


async def _ended(session: Session, replay: Replay, state: str, error: str) -> None:
    await session.closing_consumers()
    await session.forget_group(replay)
    await session.replays.update(replay.id, state=state, error=error, ended_at=sa.func.now(), seen_at=sa.func.now())


@asynccontextmanager
async def _stopping() -> AsyncIterator[asyncio.Event]:
    """Set by SIGTERM and Ctrl-C; a second one ends the process as it always does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def asked() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
