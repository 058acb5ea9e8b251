"""Which events were seen: marks in Redis, set only after the broker has acknowledged what came of an event.

Law: a mark carries the offset of the delivery that brought the event, and the same offset always passes again: a crash
between publishing and committing must repeat, never drop. Keys are hashes and hold nothing of the event. A lost mark
costs a second look at a record and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from infra.redis_wire import RedisAway, Script, Wire
from infra.telemetry import log
from infra.unavailable import Unavailable

TTL_SECONDS = 25 * 3_600
"""HubSpot and Salesforce try again for 24 hours."""
_PAGE = 1_000

# KEYS n marks   ARGV 1 life in seconds  2 to n + 1 their values. One command of many keys costs the client a tenth of many commands.
SET = Script(b"""
for place, key in ipairs(KEYS) do redis.call('SET', key, ARGV[place + 1], 'EX', ARGV[1]) end
""")


def mark_key(tenant: str, endpoint: str, key: str) -> str:
    """The Redis key of an event. The endpoint is part of it: two apps each tell of the same edit with event ids of their own."""
    digest = hashlib.blake2b(f"{tenant}\0{endpoint}\0{key}".encode(), digest_size=18).digest()
    return "hl:seen:" + digest.hex()


class SeenMarks:
    """Both methods take any number of keys; up to a thousand make one round trip."""

    def __init__(self, wire: Wire) -> None:
        """`wire` knows the script SET; it stays its owner's."""
        self._wire = wire
        self._log = log("translator")

    async def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        """The marks that exist: key → source offset (`epoch/partition/offset`). Raises Unavailable."""
        found: dict[str, str] = {}
        try:
            for start in range(0, len(keys), _PAGE):
                page = keys[start : start + _PAGE]
                (values,) = await self._wire.run(("MGET", *page))
                for key, value in zip(page, values, strict=True):
                    if value is not None:
                        found[key] = value.decode()
        except RedisAway as away:
            raise Unavailable("redis", why=str(away)) from away
        return found

    async def set(self, marks: Mapping[str, str]) -> None:
        """Set marks. Never raises: everything is published by now, and without its mark an event merely passes twice."""
        items = list(marks.items())
        try:
            for start in range(0, len(items), _PAGE):
                page = items[start : start + _PAGE]
                names, values = [key for key, _ in page], [value for _, value in page]
                await self._wire.run(("EVALSHA", SET.digest, len(page), *names, TTL_SECONDS, *values))
        except RedisAway as away:
            self._log.warning("seen_marks_not_set", error=str(away), marks=len(items))
