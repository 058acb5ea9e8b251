"""Whose turn it is to call an account: one line for all processes, kept in Redis.

Law: calls wait in this process, and it asks Redis for turns (`lua/limits.lua`), where processes take turns by whose next call has
waited longest; nobody asks before the moment that Redis named. A turn goes to the call that is fullest in that moment, for
what is not full yet fills while it waits; among equals first come, first served, and who was passed over MOST_PASSED times
goes before all who were not. Redis away: this process goes on alone, with a conservative share of what the vendor last said (`limits.Window`), and forgets it when Redis is back.
A turn that is never given back, because its process died, comes back by itself.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Final

from redis.asyncio import Redis

from infra import metrics
from infra.crm.client import AccountUnavailable
from infra.crm.limits import Fill, Policy, Said, Window, fill_of_task, is_bulk, policy_of
from infra.redis import build_redis
from infra.redis_wire import RedisAway, Script, Wire
from infra.settings import Settings

KEY: Final = "hookline:crm:"
LOOK_AGAIN_SECONDS: Final = 5.0
"""No wait is longer than this without another look: what was awaited may have been given up elsewhere."""
MOST_PASSED: Final = 32
"""So many calls that came later may go before one that is not full: 3 s by HubSpot's 110 calls in 10 s."""


@lru_cache(maxsize=1)
def script() -> Script:
    """The script of both operations (blocks; once a process)."""
    return Script(files("infra.crm").joinpath("lua/limits.lua").read_bytes())


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: asyncio.Future[str]
    since: float
    fill: Fill
    passed: int = 0
    """Calls that came later and went before."""


@dataclass(slots=True)
class _Line:
    """One account's calls in one lane of this process."""

    free: int
    """Of the calls that may be under way at once, those that are not."""
    waiting: list[_Waiter] = field(default_factory=list)
    """In the order in which they came."""
    asking: asyncio.Task[None] | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A call is over."""

    def patient(self) -> list[_Waiter]:
        """Who still waits, first come first."""
        self.waiting = [waiter for waiter in self.waiting if not waiter.turn.done()]
        return self.waiting

    def next(self) -> _Waiter | None:
        """Whose turn it is now, if anybody waits."""
        waiting = self.patient()
        overdue = next((waiter for waiter in waiting if waiter.passed >= MOST_PASSED), None)
        return overdue or max(waiting, key=lambda waiter: waiter.fill(), default=None)

    def grant(self, turn: str) -> bool:
        """Give the turn to whose it is; False when nobody waits any more."""
        chosen = self.next()
        if chosen is None:
            return False
        for waiter in self.waiting[: self.waiting.index(chosen)]:
            waiter.passed += 1
        self.free -= 1
        chosen.turn.set_result(turn)
        return True

    def leave(self) -> None:
        """A call is over, or will not be made."""
        self.free += 1
        self.left.set()


class SharedGate:
    """Implements `calls.Gate`. Used by the tasks of one loop; connects to Redis at first use."""

    def __init__(
        self,
        crm: str,
        policy: Policy,
        redis: Redis | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`redis`: the client is closed with the gate; without one this process is alone and uses all of every limit."""
        self._crm = crm
        self._policy = policy
        self._redis = redis
        self._wire: Wire | None = None
        self._share = 1.0 if redis is None else policy.share_alone
        self._clock = clock
        self._process = secrets.token_hex(6)
        self._turns = 0
        self._lines: dict[tuple[str, bool], _Line] = {}
        self._windows: dict[str, Window] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._closed = False

    async def enter(self, account: str) -> str:
        """See Gate."""
        bulk = is_bulk()
        line = self._lines.get((account, bulk))
        if line is None:
            places = max(1, self._policy.concurrency // 2) if bulk else self._policy.concurrency
            line = self._lines[account, bulk] = _Line(places)
        began = self._clock()
        try:
            async with asyncio.timeout(self._policy.wait_seconds):
                return await self._turn(account, bulk, line, began)
        except TimeoutError:
            metrics.CRM_HELD_BACK.labels(self._crm, "window").inc()
            raise AccountUnavailable(
                account, "QUOTA_SPENT", "the account's own limit keeps its calls waiting", self._policy.wait_seconds / 2
            ) from None
        finally:
            metrics.CRM_TURN_SECONDS.labels(self._crm, "bulk" if bulk else "live").observe(self._clock() - began)

    async def _turn(self, account: str, bulk: bool, line: _Line, began: float) -> str:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), began, fill_of_task())
        line.waiting.append(waiter)
        if line.asking is None:
            line.asking = asyncio.create_task(self._ask(account, bulk, line), name=f"crm-turns-{self._crm}")
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                # Granted in the moment in which the caller gave up: it counts as a call.
                line.leave()
                self._tell(account, [waiter.turn.result()], None, 0.0)
            raise

    async def _ask(self, account: str, bulk: bool, line: _Line) -> None:
        """Get turns for those who wait, until nobody does."""
        try:
            while waiting := line.patient():
                if line.free < 1:
                    line.left.clear()
                    await line.left.wait()
                    continue
                first = line.next() or waiting[0]
                granted, wait = await self._granted(account, bulk, min(line.free, len(waiting)), first.since)
                # Some may have given up meanwhile, and more may have come.
                self._tell(account, [turn for turn in granted if not line.grant(turn)], None, 0.0)
                if wait > 0:
                    await asyncio.sleep(min(wait, LOOK_AGAIN_SECONDS))
        except asyncio.CancelledError:
            for waiter in line.waiting:
                waiter.turn.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            for waiter in line.patient():
                waiter.turn.set_exception(error)
        finally:
            line.asking = None

    async def _granted(self, account: str, bulk: bool, wanted: int, since: float) -> tuple[list[str], float]:
        """Turns for up to `wanted` calls, and the seconds until it is worth asking for the others."""
        policy = self._policy
        wire = self._connected()
        if wire is not None:
            first, self._turns = self._turns, self._turns + wanted
            command = script().call(
                "enter",
                account,
                self._process,
                int(bulk),
                wanted,
                round((self._clock() - since) * 1_000, 3),
                policy.limit,
                round(policy.window_seconds * 1_000),
                round(policy.lease_seconds * 1_000),
                policy.free_share,
                policy.bulk_free_share,
                policy.day_calls,
                first,
            )
            try:
                (answer,) = await wire.run(command)
            except RedisAway:
                metrics.CRM_SHARED.labels(self._crm).set(0)
            else:
                metrics.CRM_SHARED.labels(self._crm).set(1)
                if answer[0] < 0:
                    raise self._spent(account, bulk, answer[1] / 1_000, f"{answer[2]} of {answer[3]} calls")
                # As the script names them.
                end = ":b" if bulk else ""
                return [f"{self._process}:{first + each + 1}{end}" for each in range(answer[0])], answer[1] / 1_000
        window = self._window(account)
        if window.day_is_spent(bulk):
            raise self._spent(account, bulk, 1_800.0, "as the vendor last said")
        granted: list[str] = []
        while len(granted) < wanted:
            wait = window.take()
            if wait > 0:
                return granted, wait
            granted.append("")
        return granted, 0.0

    def _spent(self, account: str, bulk: bool, retry_after: float, used: str) -> AccountUnavailable:
        metrics.CRM_HELD_BACK.labels(self._crm, "day, bulk" if bulk else "day").inc()
        share = self._policy.bulk_free_share if bulk else self._policy.free_share
        return AccountUnavailable(
            account,
            "QUOTA_SPENT",
            f"the day's budget for {'bulk' if bulk else 'live'} work is used ({used}); {share:.0%} of what the CRM "
            "allows stay free for other integrations",
            max(1.0, retry_after),
        )

    def leave(self, account: str, turn: str, said: Said | None = None, *, bulk: bool | None = None) -> None:
        """See Gate."""
        line = self._lines.get((account, is_bulk() if bulk is None else bulk))
        if line is not None:
            line.leave()
        self._tell(account, [turn], said, 0.0)

    def hold(self, account: str, seconds: float) -> None:
        """See Gate."""
        metrics.CRM_HELD_BACK.labels(self._crm, "429").inc()
        self._window(account).hold(seconds)
        self._tell(account, [], None, seconds)

    def crowded(self, account: str) -> bool:
        """Whether calls of this process wait for a turn of the account."""
        return any(
            line is not None and (line.free < 1 or not all(waiter.turn.done() for waiter in line.waiting))
            for line in (self._lines.get((account, False)), self._lines.get((account, True)))
        )

    def worth_waiting(self, account: str) -> float:
        """See Gate."""
        window = self._windows.get(account)
        return 0.0 if window is None else window.worth_waiting()

    def _tell(self, account: str, turns: list[str], said: Said | None, hold: float) -> None:
        window = self._window(account)
        if said is not None:
            window.hear(said)
        shared = [turn for turn in turns if turn]
        for _ in range(len(turns) - len(shared)):
            window.give_back()
        wire = self._wire
        if wire is None or self._closed or not (shared or said or hold):
            return

        def text(value: float | None, times: int = 1) -> str:
            return "" if value is None else str(math.ceil(value * times))

        said = said or Said()
        command = script().call(
            "leave",
            account,
            text(said.window_seconds, 1_000),
            text(said.limit),
            text(said.left),
            *(("", "") if said.day_used is None else (text(said.day_limit), text(said.day_used))),
            text(hold, 1_000),
            self._policy.limit,
            round(self._policy.window_seconds * 1_000),
            *shared,
        )

        async def send() -> None:
            try:
                await wire.run(command)
            except RedisAway:
                metrics.CRM_SHARED.labels(self._crm).set(0)

        task = asyncio.get_running_loop().create_task(send(), name="crm-turn-given-back")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _window(self, account: str) -> Window:
        found = self._windows.get(account)
        if found is None:
            found = self._windows[account] = Window(self._policy, self._share, self._clock)
        return found

    def _connected(self) -> Wire | None:
        if self._wire is None and self._redis is not None and not self._closed:
            self._wire = Wire(self._redis, [script()])
        return self._wire

    async def close(self) -> None:
        """End waiting and hang up, after what was to be told is told; may be called twice."""
        self._closed = True
        asking = [line.asking for line in self._lines.values() if line.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, *self._telling, return_exceptions=True)
        if self._wire is not None:
            await self._wire.close()
            self._wire = None
        if self._redis is not None:
            await self._redis.aclose()


def build_gate(settings: Settings, crm: str) -> SharedGate:
    """The gate of one vendor's calls; opens nothing yet."""
    return SharedGate(crm, policy_of(settings, crm), None if settings.redis_url is None else build_redis(settings))


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account used and may use, as all processes know it together."""

    calls_today: int
    """Ours, this UTC day."""
    held_back_today: int
    """Times that a call was put off: by a 429 or a spent budget."""
    day_used: int | None
    """By everybody, as the vendor says (plus ours since)."""
    day_limit: int | None
    limit: int | None
    """Calls per window."""
    window_seconds: float | None
    in_window: int


async def standing(redis: Redis, account: str) -> Standing:
    """Look it up; raises what redis-py raises."""
    day = int(time.time() // 86_400)
    pipeline = redis.pipeline(transaction=False)
    pipeline.hmget(KEY + account, ["day", "own", f"held:{day}", "du", "dl", "limit", "window"])
    pipeline.zcount(f"{KEY}{account}:turns", time.time() * 1_000, "+inf")
    values, turns = await pipeline.execute()
    last_day, own, held, used, budget, limit, window = (None if value is None else float(value) for value in values)
    return Standing(
        calls_today=int(own or 0) if last_day == day else 0,
        held_back_today=int(held or 0),
        day_used=None if not budget else int(used or 0),
        day_limit=None if not budget else int(budget),
        limit=int(limit) if limit else None,
        window_seconds=window / 1_000 if window else None,
        in_window=int(turns),
    )
