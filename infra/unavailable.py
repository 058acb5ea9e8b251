"""What nobody can do now: the one exception that pauses a stage instead of costing a message.

Law: raised only for a whole part (broker, database, Redis, model, a CRM), never for one record. It names the part and
carries no content.
"""

from __future__ import annotations

import redis.exceptions
import sqlalchemy.exc
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from infra import refused


class Unavailable(Exception):  # noqa: N818 -- reads as what it says: `except Unavailable`
    """`part` cannot be reached now; `retry_after` seconds is when to ask again, where the part said so."""

    def __init__(
        self, part: str, retry_after: float | None = None, why: str = "", *, remedy: str | None = None
    ) -> None:
        """`remedy`: the setting to mend, where the part is there and refuses us; then it is also the reason."""
        reason = remedy or why
        super().__init__(f"{part} is unavailable" + (f": {reason}" if reason else ""))
        self.part = part
        self.retry_after = retry_after
        self.remedy = remedy


class BrokerUnavailable(Unavailable):
    """Kafka did not acknowledge in time. What was being published may or may not have arrived."""

    def __init__(self, why: str = "", retry_after: float | None = None, *, remedy: str | None = None) -> None:
        super().__init__("kafka", retry_after, why, remedy=remedy)


def as_unavailable(error: BaseException) -> Unavailable | None:
    """The same as Unavailable where a client library says that its server is away; None for everything else."""
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
        return Unavailable("redis", why=type(error).__name__, remedy=refused.redis_client(error))
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return Unavailable("postgres", why="no free connection in the pool")
    if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
        why = type(error.orig).__name__ if error.orig else type(error).__name__
        return Unavailable("postgres", why=why, remedy=refused.postgres(error))
    if isinstance(error, KafkaConnectionError | KafkaTimeoutError):
        return BrokerUnavailable(type(error).__name__)
    return None
