"""Records whose questions wait for a provider's batch: set aside meanwhile, and triggered when nothing of theirs waits any more.

Law: one statement each, over the two tables that know of it, safe to call again at any time. It is said by what stands there, not by
what just happened: a row that was set aside after its batch was read is found by the next look.
"""

from __future__ import annotations

from collections.abc import Collection

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from infra.settings import Settings
from llm_gateway.batch.collector import LOOK_SECONDS, Collector, Pace
from llm_gateway.batch.steps import Keys
from llm_gateway.gateway import Gateway
from processors.analyst import STAGE, WAITS_FOR_BATCH
from schemas.record import RecordRef

_RELEASE = """
    UPDATE set_aside s SET due_at = now()
    WHERE s.stage = %(stage)s AND s.cause = %(cause)s AND s.emitted_at IS NULL AND s.due_at > now() AND NOT EXISTS (
      SELECT FROM llm_batch_requests r WHERE (r.tenant, r.account, r.object, r.record_id) = (s.tenant, s.account, s.object, s.record_id)
        AND r.state IN ('waiting', 'sent'))
"""


class Batched:
    """One per process that asks: the collector, and what the analyst needs of it."""

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        redis: Redis,
        keys: Keys,
        gateway: Gateway,
    ) -> None:
        self._statements = Statements(engine)
        self.collector = Collector(
            engine,
            redis,
            keys,
            gateway.core,
            providers=gateway.batch_providers(),
            pace=Pace(settings.model_batch, settings.model_batch_seconds, settings.model_batch_items),
            release=self.release,
            look_seconds=min(LOOK_SECONDS, settings.model_batch_seconds),
        )

    async def release(self) -> None:
        """Records of which no question waits any more are due now. Raises Unavailable."""
        await self._statements.run(_RELEASE, {"stage": STAGE, "cause": WAITS_FOR_BATCH})

    async def withdraw(self, refs: Collection[RecordRef]) -> None:
        """Records that are gone: what was not sent yet is not asked. Raises what the database raises."""
        await self.collector.withdraw(refs=refs)
