"""Deliveries of webhooks: queued, batched, signed, retried, journaled.

Law: what a delivery tells of is in the journal, and flushed, before its first byte is sent. Nothing that a receiver does
can raise out of here. Order is not kept, and duplicates happen when asked for, as with the vendors.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import aiohttp

from infra.local.sandbox.identifiers import now_ms
from infra.local.sandbox.journal import JournalWriter

RETRY_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
"""Before each retry, at time_scale 1.0. HubSpot spreads its ten over 24 hours; this is fit for a demo."""
JITTER = 0.2


@dataclass(slots=True)
class Message:
    """One request to come: what it says is built when it is sent, since signatures and records are of that moment."""

    items: list[Any]
    attempt: int = 0
    duplicate: bool = False


@dataclass(slots=True)
class Counts:
    """What an endpoint sent so far."""

    requests: int = 0
    events: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    given_up: int = 0
    duplicates: int = 0
    delayed: int = 0
    echoes: int = 0


class Dialect(Protocol):
    """How one vendor's requests look. Methods must not block or raise."""

    def build(self, message: Message) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers; None when there is nothing left to say."""
        ...

    def accepted(self, status: int, body: bytes) -> bool:
        """Whether this answer ends the delivery."""
        ...

    def group(self, item: Any) -> object:
        """Only items of an equal group travel in one request."""
        ...


@dataclass(slots=True)
class Manners:
    """How an endpoint's deliveries misbehave, and how many go at once. Settable at any time."""

    parallel: int = 10
    """Requests at once: HubSpot's is about 10 per app."""
    batch: int = 100
    """Events or notifications in one request, at most."""
    timeout_s: float = 5.0
    duplicate_rate: float = 0.0
    """Share of requests that are sent a second time although they were accepted."""
    delay_rate: float = 0.0
    """Share of events that are held back up to `delay_s`, and so overtaken by later ones."""
    delay_s: float = 1.0
    paused: bool = False
    """Events pile up, as when HubSpot is behind; they go out when this is unset."""


@dataclass(slots=True)
class Endpoint:
    """One target URL, its queue and its senders."""

    name: str
    url: str
    dialect: Dialect
    journal: JournalWriter
    chance: random.Random
    time_scale: float
    manners: Manners = field(default_factory=Manners)
    counts: Counts = field(default_factory=Counts)
    queue: deque[Any] = field(default_factory=deque)
    retries: int = 0
    """Requests that wait for another attempt, or events that are held back."""
    in_flight: int = 0
    _session: aiohttp.ClientSession | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _timers: set[asyncio.TimerHandle] = field(default_factory=set)
    _due: bool = False
    _number: int = 0

    def push(self, items: list[Any]) -> None:
        """Queue events; they leave as soon as one of the parallel requests is free."""
        for item in items:
            if self.manners.delay_rate and self.chance.random() < self.manners.delay_rate:
                self.counts.delayed += 1
                self._later(
                    self.chance.random() * self.manners.delay_s * self.time_scale,
                    partial(self._queue_one, item),
                )
            else:
                self.queue.append(item)
        self._schedule()

    @property
    def idle(self) -> bool:
        """Nothing queued, held back, waiting for a retry or on its way."""
        return not self.queue and not self.retries and not self.in_flight

    async def close(self) -> None:
        """Stop sending; what is queued is dropped."""
        for timer in self._timers:
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def resume(self) -> None:
        """Look at the queue again, after `manners` changed."""
        self._schedule()

    # ---------------------------------------------------------------- inside

    def _queue_one(self, item: Any) -> None:
        self.queue.append(item)
        self._schedule()

    def _schedule(self) -> None:
        # A save's events are pushed in one go: waiting for the end of this turn of the loop keeps them together.
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._due = False
        while self.queue and self.in_flight < self.manners.parallel and not self.manners.paused:
            self._send(Message(self._take()))

    def _take(self) -> list[Any]:
        group = self.dialect.group(self.queue[0])
        taken: list[Any] = []
        while self.queue and len(taken) < self.manners.batch and self.dialect.group(self.queue[0]) == group:
            taken.append(self.queue.popleft())
        return taken

    def _send(self, message: Message) -> None:
        self.in_flight += 1
        task = asyncio.get_running_loop().create_task(self._deliver(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            self.retries -= 1
            action()

        self.retries += 1
        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)

    async def _deliver(self, message: Message) -> None:
        try:
            await self._attempt(message)
        finally:
            self.in_flight -= 1
            self._schedule()

    async def _attempt(self, message: Message) -> None:
        built = self.dialect.build(message)
        if built is None:
            return
        body, headers = built
        self.journal.flush()
        self._number += 1
        number = self._number
        self.counts.requests += 1
        self.counts.events += len(message.items)
        started = now_ms()
        status, answered, problem = await self._post(body, headers)
        good = self.dialect.accepted(status, answered)
        self.journal.write(
            "delivery",
            {
                "request": f"{self.name}/{number}",
                "endpoint": self.name,
                "events": len(message.items),
                "bytes": len(body),
                "attempt": message.attempt,
                "duplicate": message.duplicate,
                "at": started,
                "ms": now_ms() - started,
                "status": status,
                "accepted": good,
                "problem": problem,
            },
        )
        if good:
            self.counts.accepted += 1
            if (
                not message.duplicate
                and self.manners.duplicate_rate
                and self.chance.random() < self.manners.duplicate_rate
            ):
                self.counts.duplicates += 1
                again = Message(message.items, message.attempt, duplicate=True)
                self._later(self.chance.random() * self.time_scale, lambda: self._send(again))
            return
        if status:
            self.counts.refused += 1
        else:
            self.counts.failed += 1
        self._retry(message)

    def _retry(self, message: Message) -> None:
        if message.attempt >= len(RETRY_DELAYS_S):
            self.counts.given_up += 1
            self.journal.write("given_up", {"endpoint": self.name, "events": len(message.items), "at": now_ms()})
            return
        delay = RETRY_DELAYS_S[message.attempt] * self.time_scale * self.chance.uniform(1 - JITTER, 1 + JITTER)
        again = Message(message.items, message.attempt + 1, message.duplicate)
        self._later(delay, lambda: self._send(again))

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        """Status (0 when there was no answer), answer, and what kept one from coming."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        try:
            timeout = aiohttp.ClientTimeout(total=self.manners.timeout_s)
            async with self._session.post(
                self.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await response.read(), ""
        except TimeoutError:
            return 0, b"", "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, b"", type(error).__name__
