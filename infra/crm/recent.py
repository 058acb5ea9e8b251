"""Records that hang on others (a contact's company, a deal's contacts), remembered for some seconds as they were read.

Law: memory alone, so nothing of a person outlives the process or the seconds; what is read for itself, because it changed,
is forgotten first, and an answer from before that is not remembered. Notes and e-mails are never in here: another process
may have heard of their change, and a snapshot without it would have no successor.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice

from schemas.record import Related

MOST = 20_000

_Key = tuple[str, str, str]


class Recent:
    """By account, kind and id. For one event loop."""

    def __init__(self, *, ttl_seconds: float, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl_seconds
        self._most = most
        self._clock = clock
        self._found: dict[_Key, tuple[float, Related | None]] = {}
        self._forgotten: dict[_Key, float] = {}
        """In the order of the moments."""
        self._unsure_until = float("-inf")
        """What changed until then may not stand there any more."""

    def now(self) -> float:
        """The moment to give to `keep`: from before the read began."""
        return self._clock()

    def get(self, account: str, kind: str, ids: Iterable[str]) -> dict[str, Related | None]:
        """What is remembered of them; None: it was not there."""
        oldest = self._clock() - self._ttl
        found: dict[str, Related | None] = {}
        for one in ids:
            known = self._found.get((account, kind, one))
            if known is not None and known[0] > oldest:
                found[one] = known[1]
        return found

    def keep(self, account: str, kind: str, one: str, found: Related | None, since: float) -> None:
        """Remember it, unless it changed since the read began."""
        key = (account, kind, one)
        if since <= self._unsure_until or self._forgotten.get(key, float("-inf")) >= since:
            return
        if len(self._found) >= self._most:
            self._sweep()
        self._found.pop(key, None)
        self._found[key] = (since, found)

    async def through(
        self,
        account: str,
        kind: str,
        ids: Sequence[str],
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, Related]]],
    ) -> dict[str, Related]:
        """Those that are there, of which `read` is asked for what is not remembered. Raises what `read` raises."""
        found = self.get(account, kind, ids)
        since = self.now()
        if missing := [one for one in ids if one not in found]:
            read_now = await read(missing)
            for one in missing:
                found[one] = read_now.get(one)
                self.keep(account, kind, one, found[one], since)
        return {one: each for one, each in found.items() if each is not None}

    def forget(self, account: str, kind: str, ids: Iterable[str]) -> None:
        """They changed."""
        now = self._clock()
        forgotten = self._forgotten
        for one in ids:
            key = (account, kind, one)
            self._found.pop(key, None)
            forgotten.pop(key, None)
            forgotten[key] = now
        if len(forgotten) > self._most:
            # Half of them at once: one by one, each would be looked for behind all that went before it.
            for key in list(islice(forgotten, len(forgotten) - self._most // 2)):
                self._unsure_until = forgotten.pop(key)

    def _sweep(self) -> None:
        oldest = self._clock() - self._ttl
        self._found = {key: known for key, known in self._found.items() if known[0] > oldest}
        for key in list(self._found)[: max(0, len(self._found) - self._most // 2)]:
            del self._found[key]
