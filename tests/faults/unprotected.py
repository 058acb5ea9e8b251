"""A role with one of its protections switched off: `python -m tests.faults.unprotected NAME serve ROLE`.

Law: lives in the harness alone; the product has no such switches. Each function takes exactly one promise's keeper out of
a process that is otherwise the product's. What a run then finds shows that it would find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any


def commit_first() -> None:
    """Offsets are committed before their messages are handled."""
    from infra.kafka.pump import Pump

    work = Pump._work

    async def early(self: Any, batch: Any) -> None:
        for held in batch.messages:
            held.offsets.finished(held.raw.offset)
        await self._commit()
        await work(self, batch)

    Pump._work = early


def answer_first() -> None:
    """The door answers before the broker has acknowledged."""
    from ingress.outlet import Outlet

    publish = Outlet.publish
    running: set[asyncio.Task[Any]] = set()

    async def later(self: Any, messages: Any) -> None:
        async def quietly() -> None:
            # That nobody hears of it is the point.
            with contextlib.suppress(Exception):
                await publish(self, messages)

        task = asyncio.get_running_loop().create_task(quietly())
        running.add(task)
        task.add_done_callback(running.discard)

    offer = Outlet.offer

    def at_once(self: Any, messages: Any, told: Any) -> Any:
        group = offer(self, messages, lambda _error: None)
        told(None)
        return group

    Outlet.publish = later
    Outlet.offer = at_once


def marks_first() -> None:
    """Seen-marks are set before what they stand for is published, and carry no offset."""
    from ingress.seen import SeenMarks
    from ingress.translator import Translator

    drop, look_up = Translator._drop_seen, SeenMarks.look_up

    async def mark(self: Any, works: Any) -> dict[str, str]:
        marks = await drop(self, works)
        await self._marks.set(marks)
        return marks

    async def without_offset(self: Any, keys: Any) -> dict[str, str]:
        return dict.fromkeys(await look_up(self, keys), "seen")

    Translator._drop_seen, SeenMarks.look_up = mark, without_offset


def no_version_check() -> None:
    """The Postgres sink writes whatever comes, newer or not."""
    from sinks.destinations import postgres

    before, _, rest = postgres._WRITE.partition("WHERE (EXCLUDED")
    _, returning, last = rest.partition("RETURNING")
    assert returning, "the statement has changed"
    postgres._WRITE = before + returning + last


def no_fence() -> None:
    """Neither stage looks whether another has read the record meanwhile."""
    from processors import analyst, state

    save, newest = state.PostgresHydratorState.save, analyst._newest

    async def blind(self: Any, rows: Any) -> set[Any]:
        await save(self, rows)
        return set()

    def blinded(received: Any) -> Any:
        looks = newest(received)
        for look in looks.values():
            look.latest_read = look.snapshot.read_at
        return looks

    settled = analyst.Analyst._settled

    def as_if_first(self: Any, look: Any) -> Any:
        found = settled(self, look)
        if found is not None and found.overtaken:
            return self._retract(look) if look.snapshot.deleted else None
        return found

    state.PostgresHydratorState.save = blind
    analyst._newest = blinded
    analyst.Analyst._settled = as_if_first


def no_pending() -> None:
    """The CRM sink does not note that a write has begun."""
    from sinks.destinations.crm_state import CrmState

    take_up = CrmState.take_up

    async def unnoted(self: Any, insights: Any, claim: str) -> Any:
        return await take_up(self, {ref: {} for ref in insights}, claim)

    CrmState.take_up = unnoted


def drop_when_away() -> None:
    """A batch whose part is away is given up instead of tried again."""
    from infra.kafka.attempt import Attempts
    from infra.unavailable import as_unavailable

    async def once(self: Any, batch: Any, act: Callable[[], Any]) -> None:
        try:
            await act()
        except Exception as error:
            if as_unavailable(error) is None:
                raise

    Attempts._persist = once


def no_poison_limit() -> None:
    """Nothing counts how many messages are laid aside."""
    from infra.kafka.poison import Poison

    Poison.bad = lambda self, partition, why: None


def bad_release() -> None:
    """No protection, but a release that fails on every delivery."""
    from ingress.translator import Translator

    async def broken(self: Any, raws: Any) -> None:
        raise KeyError("a field that this release believes to be there")

    Translator.handle = broken


SWITCHES: dict[str, Callable[[], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        commit_first,
        answer_first,
        marks_first,
        no_version_check,
        no_fence,
        no_pending,
        drop_when_away,
        no_poison_limit,
        bad_release,
    )
}


if __name__ == "__main__":
    for name in sys.argv.pop(1).split(","):
        SWITCHES[name]()
    from console.main import main

    main()
