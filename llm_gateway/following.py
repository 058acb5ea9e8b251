"""The answer that another replica is just asking for: waited for, and told.

Law: who follows sleeps until the answer is told, sealed as the cache keeps it, or an error, if that was not the asker's own
affair. A replica that gives no sign of life any more is not waited for.
"""

from __future__ import annotations

import asyncio

import orjson

from infra.redis_wire import RedisAway, RedisError, Wire, pack
from llm_gateway.prompt import GatewayError, InputRefused, ModelUnavailable, OutputInvalid
from llm_gateway.question import Hit
from llm_gateway.scripts import Scripts

ALIVE_SECONDS = 1.0
DEAD_AFTER_MS = 3_500


class Shared:
    """Something that several callers of this process wait for."""

    __slots__ = ("future", "waiting")

    def __init__(self) -> None:
        self.future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.waiting = 0


class Following:
    """One per core."""

    def __init__(self, wire: Wire, scripts: Scripts, replica: str) -> None:
        self._wire = wire
        self._scripts = scripts
        self._replica = replica
        self._follows: dict[str, Shared] = {}
        self._holders: dict[str, str] = {}
        """Flight → the replica that is asked."""

    def follow(self, name: str) -> Shared:
        """Told from now on how the flight `name` ends."""
        shared = self._follows.get(name)
        if shared is None:
            shared = self._follows[name] = Shared()
        shared.waiting += 1
        return shared

    def unfollow(self, shared: Shared, name: str) -> None:
        """No more; once for every `follow`."""
        shared.waiting -= 1
        if shared.waiting == 0 and self._follows.get(name) is shared:
            del self._follows[name]
            self._holders.pop(name, None)

    async def wait(self, shared: Shared, name: str, holder: str, deadline: float) -> Hit | None:
        """The answer; None: ask yourself. Raises what the asker's question ended with, ModelUnavailable at the deadline, and
        RedisAway.
        """
        self._holders[name] = holder
        try:
            async with asyncio.timeout_at(deadline):
                told = await asyncio.shield(shared.future)
        except TimeoutError:
            raise ModelUnavailable(
                "TIMEOUT", "another process was asking the same, and was not answered in time"
            ) from None
        if told is None:
            raise RedisAway("Redis went away while another replica was asked")
        if told[:1] == b"A":
            return Hit(told[1:], joined=True)
        if told[:1] == b"E":
            raise _error(told[1:])
        return None

    def told(self, message: bytes) -> None:
        """Redis tells how a flight ended: `F name ...`."""
        _, name, told = message.split(b" ", 2)
        self._landed(name.decode(), told)

    def away(self) -> None:
        """Redis is gone."""
        for name in list(self._holders):
            self._landed(name, None)

    async def beat(self) -> None:
        """The sign of life, for ever. Who waits for a replica that gives none any more asks himself."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            holders = sorted(set(self._holders.values()))
            try:
                dead = await self._wire.send(pack(self._scripts.alive.call(self._replica, DEAD_AFTER_MS, *holders)))
            except (RedisAway, RedisError):
                continue
            gone = {each.decode() for each in dead}
            for name, holder in list(self._holders.items()):
                if holder in gone:
                    self._landed(name, b"N")

    def _landed(self, name: str, told: bytes | None) -> None:
        follow = self._follows.pop(name, None)
        self._holders.pop(name, None)
        if follow is not None and not follow.future.done():
            follow.future.set_result(told)


def told_of(error: BaseException | None, *, another: bool = False) -> bytes:
    """What others who wait for the same answer are told of an error: itself, or nothing if it was the asker's own affair.
    `another`: the asker had another model to ask, and did not wait as long as they might.
    """
    match error:
        case ModelUnavailable() if error.cause == "RATE_LIMITED" and another:
            return b"N"
        case ModelUnavailable() if error.cause not in {"TIMEOUT", "STOPPING", "REDIS_AWAY"}:
            said = ["ModelUnavailable", error.cause, str(error).partition(": ")[2], error.retry_after]
        case OutputInvalid():
            said = ["OutputInvalid", error.prompt, error.outcome, error.detail]
        case InputRefused():
            said = ["InputRefused", str(error)]
        case _:
            return b"N"
    return b"E" + orjson.dumps(said)


def _error(told: bytes) -> GatewayError:
    kind, *said = orjson.loads(told)
    if kind == "ModelUnavailable":
        return ModelUnavailable(*said)
    if kind == "OutputInvalid":
        return OutputInvalid(*said)
    return InputRefused(*said)
