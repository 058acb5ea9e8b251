"""What the door makes of a source and of an endpoint once, so that a request only looks it up.

Law: a memory, not a state: all of it can be made again at any moment, and none of it outlives what it was made of: a changed endpoint
is another object, and a key is asked for again ten times a second. Nothing here blocks.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra import metrics
from infra.accounts import Endpoint
from infra.keyring import DataKey
from ingress import answers
from ingress.conditions import conditions_of
from ingress.replays import Replays, SignedOnce
from ingress.sources.source import Source
from ingress.split import Splittable
from ingress.verification import judge
from schemas.delivery import Refusal

_HOUR = timedelta(hours=1)
_NEVER = datetime.max.replace(tzinfo=UTC)
KEY_ASKED_EVERY = timedelta(seconds=0.1)
"""How often the keyring is asked for an endpoint's key, at most: it forgets within two seconds what was destroyed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the door takes; see the settings `ingress_…`."""

    message_bytes: int
    """The largest body that fits into one message."""
    split_bytes: int
    """The largest body where the dialect lets us cut it."""
    body_seconds: float


class Dialect:
    """What is known of a source once and for all."""

    __slots__ = (
        "accepted",
        "answer",
        "body",
        "cap",
        "head",
        "once",
        "replayed",
        "replays",
        "seconds",
        "source",
        "split",
        "taken",
    )

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source = source
        self.answer = source.accepted()
        self.head, self.body = answers.head_of(self.answer), self.answer[2]
        once = source if isinstance(source, SignedOnce) else None
        self.once = once.once if once is not None else None
        self.replays = Replays(hold_seconds=once.signature_holds_seconds if once is not None else 0.0)
        self.split = source.split if isinstance(source, Splittable) else None
        self.cap = limits.message_bytes if self.split is None else max(limits.split_bytes, limits.message_bytes)
        self.accepted = metrics.REQUESTS.labels(source.name, "accepted")
        self.replayed = metrics.REQUESTS.labels(source.name, Refusal.REPLAYED.value)
        self.seconds = metrics.REQUEST_SECONDS.labels(source.name)
        self.taken: list[float] = []
        """Seconds that requests took which were accepted and are not in the metrics yet."""

    def took(self, seconds: float) -> None:
        """Count an accepted request: with all others of this turn of the event loop, for each lock of the metrics costs."""
        if not self.taken:
            asyncio.get_running_loop().call_soon(self._tell)
        self.taken.append(seconds)

    def _tell(self) -> None:
        taken, self.taken = self.taken, []
        self.accepted.inc(len(taken))
        self.seconds.observe_many(taken)


class Known:
    """An endpoint, and what the door makes of it once and for all; of a changed endpoint it is made anew."""

    __slots__ = ("asks", "dialect", "endpoint", "key", "key_from", "key_until", "plain", "public", "verify")

    def __init__(self, endpoint: Endpoint, dialect: Dialect, public: bytes | None) -> None:
        conditions = conditions_of(endpoint)
        self.endpoint = endpoint
        self.dialect = dialect
        self.verify = functools.partial(judge, dialect.source) if conditions.asks else dialect.source.verify
        self.public = conditions.public or public
        self.asks = conditions.asks or self.public is None
        """Whether where a request came from matters to it."""
        self.plain = endpoint.enabled and conditions.handshake is None
        """Whether a POST there is a delivery and nothing else."""
        self.key: DataKey | None = None
        self.key_from = self.key_until = _NEVER

    def keep(self, key: DataKey | None, now: datetime) -> DataKey | None:
        """Remember the key of `now` for a moment, though never into the next hour; returns it."""
        self.key, self.key_from = key, now
        hour_ends = now.replace(minute=0, second=0, microsecond=0) + _HOUR
        self.key_until = min(now + KEY_ASKED_EVERY, hour_ends) if key is not None else now
        return key
