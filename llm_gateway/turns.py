"""Who waits for his turn, in this process: asleep until Redis tells that it has come.

Law: nobody asks again and again. Somebody looks when it is time, as Redis said; a line in which nobody waits is not looked at.
Redis away: every waiting one hears it at once.
"""

from __future__ import annotations

import asyncio

from infra import metrics
from infra.redis_wire import RedisAway, Wire, pack
from llm_gateway.question import Line
from llm_gateway.trips import Trips


class Turns:
    """One per core."""

    def __init__(self, wire: Wire, trips: Trips) -> None:
        self._wire = wire
        self._trips = trips
        self._turns: dict[str, asyncio.Future[int] | int | None] = {}
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(1 for turn in self._turns.values() if isinstance(turn, asyncio.Future))

    def expect(self, id_: str) -> None:
        """Its turn may be told from now on, before anybody waits for it."""
        self._turns[id_] = None

    def forget(self, id_: str) -> None:
        """Nobody waits for it any more."""
        del self._turns[id_]

    async def wait(self, id_: str, patience: float) -> int:
        """The slot in the window, when its turn has come. Raises TimeoutError after `patience` seconds, and RedisAway."""
        early = self._turns[id_]
        if isinstance(early, int):
            return early
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._turns[id_] = turn
        metrics.MODEL_WAITING.inc()
        try:
            async with asyncio.timeout(patience):
                return await turn
        finally:
            metrics.MODEL_WAITING.dec()

    def slot(self, id_: str, otherwise: int) -> int:
        """The slot of one who left, if his turn had come all the same."""
        turn = self._turns.get(id_)
        if isinstance(turn, asyncio.Future):
            told = turn.done() and not turn.cancelled() and turn.exception() is None
            return turn.result() if told else otherwise
        return otherwise if turn is None else turn

    def told(self, message: bytes) -> None:
        """Redis tells whose turns have come: `G id slot id slot ...`."""
        parts = message.decode().split()
        for id_, slot in zip(parts[1::2], parts[2::2], strict=True):
            turn = self._turns.get(id_, 0)
            if turn is None:
                self._turns[id_] = int(slot)
            elif isinstance(turn, asyncio.Future) and not turn.done():
                turn.set_result(int(slot))

    def look_in(self, line: Line, ms: int) -> None:
        """Somebody waits: look again in so many milliseconds, unless that happens earlier anyway."""
        loop = asyncio.get_running_loop()
        at = loop.time() + ms / 1000
        name = line.name
        timer = self._timers.get(name)
        if timer is not None:
            if timer[0] <= at:
                return
            timer[1].cancel()
        self._timers[name] = (at, loop.call_at(at, self._look, line))

    def away(self) -> None:
        """Redis is gone."""
        for turn in self._turns.values():
            if isinstance(turn, asyncio.Future) and not turn.done():
                turn.set_exception(RedisAway("Redis went away while a turn was waited for"))
        self.rest()

    def rest(self) -> None:
        """Look no more."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _look(self, line: Line) -> None:
        self._timers.pop(line.name, None)

        def told(answer: asyncio.Future[int]) -> None:
            if not answer.cancelled() and answer.exception() is None and answer.result() >= 0:
                self.look_in(line, answer.result())

        self._wire.send(pack(self._trips.tick(line))).add_done_callback(told)
