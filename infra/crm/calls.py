"""How a vendor's blocking library is called from an event loop: bounded threads, a gate per account, bounded retries.

Law: no call without a timeout, none on the event loop, and none retried for ever. A thread is held only while a call is
under way, never while waiting to try again. What a retry says of itself holds no value of a customer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import stamina
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from infra import metrics
from infra.crm.limits import Said

T = TypeVar("T")

CONNECT_SECONDS = 5.0
BUDGET_SECONDS = 30.0
"""Time for one call with its retries, beyond which the caller is told."""


class TryAgain(Exception):  # noqa: N818 - an order to the retry loop, not an error of its own
    """The vendor answered with a code for which its documentation says: try again."""

    def __init__(
        self, what: str, *, after: float | None = None, account_limit: bool = False, unheard: bool = False
    ) -> None:
        """Args: a code or an error's name; seconds to wait, where known; whether it is this account's own rate limit; whether
        the request may have been carried out all the same.
        """
        super().__init__(what)
        self.what = what
        self.after = after
        self.account_limit = account_limit
        self.unheard = unheard


def may_have_arrived(error: BaseException) -> bool:
    """Whether a request that ended in this error of urllib3 or requests may have reached the vendor."""
    within: BaseException | None = error
    while within is not None:
        error = within
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        within = inner or next((each for each in error.args if isinstance(each, BaseException)), None)
    return not isinstance(error, NewConnectionError | ConnectTimeoutError | ConnectionRefusedError)


class Gate(Protocol):
    """Who may call an account now. The seam for a limit that all processes share."""

    def enter(self, account: str) -> Awaitable[str]:
        """Wait for a turn; returns its name. Raises AccountUnavailable when there will be none for long."""
        ...

    def leave(self, account: str, turn: str, said: Said | None = None) -> None:
        """Give the turn back, with what the vendor said meanwhile. Once, by the task that entered; never blocks."""
        ...

    def hold(self, account: str, seconds: float) -> None:
        """Let nobody in for so long: the vendor said that it is too much."""
        ...

    def crowded(self, account: str) -> bool:
        """Whether calls wait for a turn: then full batches are worth a round trip."""
        ...

    def worth_waiting(self, account: str) -> float:
        """Seconds that rows of a call may wait for others to fill it: 0 where calls are not scarce. Never blocks."""
        ...

    async def close(self) -> None:
        """End all waiting; may be called twice."""
        ...


class LocalGate:
    """At most `concurrency` calls at once per account in this process, none while the account is on hold."""

    def __init__(self, concurrency: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._concurrency = concurrency
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._closed_until: dict[str, float] = {}
        self._clock = clock

    async def enter(self, account: str) -> str:
        """Wait for a turn, and until a hold is over."""
        turns = self._turns.get(account)
        if turns is None:
            turns = self._turns[account] = asyncio.Semaphore(self._concurrency)
        await turns.acquire()
        try:
            # A moment is waited for, not an event.
            while (wait := self._closed_until.get(account, 0.0) - self._clock()) > 0:  # noqa: ASYNC110 - see above
                await asyncio.sleep(wait)
        except BaseException:
            turns.release()
            raise
        return ""

    def leave(self, account: str, turn: str = "", said: Said | None = None) -> None:  # noqa: ARG002 - it heeds no headers
        """Give the turn back."""
        self._turns[account].release()

    def hold(self, account: str, seconds: float) -> None:
        """Let nobody in for so long; a longer hold is never cut short."""
        self._closed_until[account] = max(self._closed_until.get(account, 0.0), self._clock() + seconds)

    def crowded(self, account: str) -> bool:
        """See Gate."""
        turns = self._turns.get(account)
        return turns is not None and turns.locked()

    def worth_waiting(self, account: str) -> float:  # noqa: ARG002 - it heeds no headers
        """See Gate."""
        return 0.0

    async def close(self) -> None:
        """See Gate."""


class Calls:
    """Runs blocking calls of one vendor's library."""

    def __init__(
        self,
        crm: str,
        *,
        concurrency: int,
        threads: int = 16,
        attempts: int = 4,
        budget_seconds: float = BUDGET_SECONDS,
        first_wait_seconds: float = 0.2,
        gate: Gate | None = None,
    ) -> None:
        self._crm = crm
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"crm-{crm}")
        self._gate: Gate = gate if gate is not None else LocalGate(concurrency)
        self._attempts = attempts
        self._budget = budget_seconds
        self._first_wait = first_wait_seconds
        self._said: dict[str, Said] = {}

    def heard(self, account: str, said: Said | None) -> None:
        """What an answer's headers said, from any thread; it goes to the gate with the turn."""
        if said is not None:
            self._said[account] = said

    def crowded(self, account: str) -> bool:
        """Whether calls to the account wait for a turn."""
        return self._gate.crowded(account)

    def worth_waiting(self, account: str) -> float:
        """Seconds that rows of a call to the account may wait for others to fill it."""
        return self._gate.worth_waiting(account)

    async def run(self, account: str, call: Callable[[], T], operation: str = "other", *, repeatable: bool = True) -> T:
        """Call it, and again as long as it raises TryAgain and the budget lasts; then that one is raised.

        `operation` is a metric's label, one of few. `call` runs in a thread and holds one turn of the account each time. What
        is not `repeatable` is called again only where it was certainly not carried out.
        """

        def wait_or_not(error: Exception) -> bool | float:
            if not isinstance(error, TryAgain) or (error.unheard and not repeatable):
                return False
            return True if error.after is None else error.after

        try:
            # Nearly every call ends here: the retry loop costs as much as a call, and is set up for the others alone.
            return await self._once(account, call, operation)
        except TryAgain as error:
            # The budget is for the vendor's trouble: waiting for a turn does not use it up.
            first = error
        async for attempt in stamina.retry_context(
            on=wait_or_not,
            attempts=self._attempts,
            timeout=self._budget,
            wait_initial=self._first_wait,
            wait_max=5.0,
            wait_jitter=self._first_wait,
        ):
            with attempt:
                if attempt.num == 1:
                    raise first
                return await self._once(account, call, operation)
        raise AssertionError("unreachable: the retry loop returns or raises")

    async def _once(self, account: str, call: Callable[[], T], operation: str) -> T:
        turn = await self._gate.enter(account)
        began = time.perf_counter()
        outcome = "ok"
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except TryAgain as error:
            outcome = error.what
            if error.account_limit:
                self._gate.hold(account, error.after or 1.0)
            raise
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            self._gate.leave(account, turn, self._said.pop(account, None))
            metrics.CRM_CALLS.labels(self._crm, operation, outcome).inc()
            metrics.CRM_SECONDS.labels(self._crm, operation).observe(time.perf_counter() - began)

    async def close(self) -> None:
        """End the threads once their calls are over; may be called twice."""
        await self._gate.close()
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
