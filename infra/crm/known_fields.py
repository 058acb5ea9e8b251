"""Which fields an account's objects have, remembered for some minutes.

Law: a cache; a field that an admin adds is seen after `ttl_seconds`, one that vanished is forgotten when a call says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

TTL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Fields:
    """What is read of one object."""

    read: tuple[str, ...]
    """Foreign fields that exist and are read, and those of ours that people write."""
    own: frozenset[str]
    """Our own fields that exist, by the vendor's name."""
    omitted: tuple[str, ...] = ()
    """Foreign fields beyond the cap, by name."""


class KnownFields:
    """Asks `load` once per account and object, however many ask at the same time."""

    def __init__(self, *, ttl_seconds: float = TTL_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl_seconds
        self._clock = clock
        self._found: dict[tuple[str, str], tuple[float, asyncio.Task[Fields]]] = {}

    async def get(self, account: str, name: str, load: Callable[[], Awaitable[Fields]]) -> Fields:
        """The fields of object `name`; raises what `load` raises, and then asks again next time."""
        key = (account, name)
        known = self._found.get(key)
        if known is None or known[0] < self._clock() or _failed(known[1]):

            async def loading() -> Fields:
                return await load()

            known = self._found[key] = (self._clock() + self._ttl, asyncio.ensure_future(loading()))
        # Shielded: one caller that gives up must not fail the others.
        return await asyncio.shield(known[1])

    def forget(self, account: str, name: str | None = None) -> None:
        """Ask again next time, for one object or all of the account's."""
        for key in [key for key in self._found if key[0] == account and name in {None, key[1]}]:
            del self._found[key]


def _failed(task: asyncio.Task[Fields]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
