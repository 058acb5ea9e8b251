"""Every model's circuit, shared by all replicas: a failure anywhere counts everywhere, and one question of one replica probes.

Law: asking costs nothing while a circuit is closed: the state is in this process, others' changes are told. Redis away: each
replica counts for itself (`llm_gateway.breaker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from infra import metrics
from infra.redis_wire import RedisAway, RedisError, Script, Wire, pack
from llm_gateway.breaker import FAILURES, LONGEST_SECONDS, OPEN_SECONDS, Breaker


def _now() -> float:
    return asyncio.get_running_loop().time()


class LocalBreakers:
    """Circuits of one process alone, by `provider:model`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        """One circuit."""
        found = self._breakers.get(name)
        if found is None:
            found = self._breakers[name] = Breaker(self._clock)
        return found

    def why(self, name: str) -> str:
        """What failed last, for people."""
        return self.of(name).why

    async def wait(self, name: str, lasting: float) -> float:
        """Seconds until a question may pass; 0: it may, and its end must be reported by one of the next three."""
        return self.of(name).wait(lasting)

    def succeeded(self, name: str) -> None:
        """A question was answered, or at least received and understood."""
        self.of(name).succeeded()

    def failed(self, name: str, why: str) -> None:
        """A question failed in a way that the next one would, too; `why` for people, without content."""
        breaker = self.of(name)
        breaker.why = why
        breaker.failed()

    def gave_up(self, name: str) -> None:
        """A question was dropped by its caller: it tells nothing."""
        self.of(name).gave_up()


class Breakers(LocalBreakers):
    """The same, shared."""

    def __init__(self, wire: Wire, script: Script, replica: str) -> None:
        super().__init__(_now)
        self._wire = wire
        self._script = script
        self._replica = replica

    def allows(self, provider: str, model: str) -> bool:
        """Whether a question to this model would pass now, as far as this process knows; a circuit that waits for a probe
        allows. Reserves nothing, costs nothing: for whoever chooses among models.
        """
        return self.of(f"{provider}:{model}").state != "open"

    async def wait(self, name: str, lasting: float) -> float:
        """See `LocalBreakers.wait`; asks Redis only while the circuit is not closed."""
        breaker = self.of(name)
        left = breaker.wait(lasting)
        if breaker.state == "closed" or left > 0 or not self._wire.there:
            return left
        try:
            allowed, _, ms, _ = await self._wire.send(pack(self._call(name, "probe", lasting)))
        except (RedisAway, RedisError):
            return 0.0
        if allowed:
            return 0.0
        breaker.gave_up()
        return max(0.05, float(ms) / 1000)

    def succeeded(self, name: str) -> None:
        """See `LocalBreakers.succeeded`."""
        breaker = self.of(name)
        if breaker.run == 0 and breaker.state == "closed":
            return
        super().succeeded(name)
        metrics.MODEL_BREAKER.labels(name).set(0)
        self._wire.send(pack(self._call(name, "succeeded", 0)))

    def failed(self, name: str, why: str) -> None:
        """See `LocalBreakers.failed`."""
        super().failed(name, why)
        metrics.MODEL_BREAKER.labels(name).set(self.of(name).state != "closed")
        self._wire.send(pack(self._call(name, "failed", 0, why)))

    def gave_up(self, name: str) -> None:
        """See `LocalBreakers.gave_up`."""
        if self.of(name).state == "closed":
            return
        super().gave_up(name)
        self._wire.send(pack(self._call(name, "gave_up", 0)))

    def heard(self, message: bytes) -> None:
        """A circuit changed, here or elsewhere."""
        name, run, ms, is_open, why = message.decode().split(" ", 4)
        breaker = self.of(name)
        breaker.set(int(run), int(ms) / 1000 if is_open == "1" else None)
        breaker.why = why
        metrics.MODEL_BREAKER.labels(name).set(is_open == "1")

    def _call(self, name: str, what: str, lasting: float, why: str = "") -> tuple[str | bytes | int | float, ...]:
        return self._script.call(
            name, what, self._replica, FAILURES, int(OPEN_SECONDS * 1000), int(LONGEST_SECONDS * 1000), int(lasting * 1000), why[:200]
        )  # fmt: skip
