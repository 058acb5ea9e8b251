"""For who asks: whether a question waits for a batch, what the batch brought, and how it is put there.

Law: only questions of the bulk lane that nobody waits for come here; a live one never waits, nor does an edit on whatever lane,
whoever else waits for the same answer. It holds its place in the quotas while it waits, so that no quota is overspent by what is under way; a
provider's limits per minute it does not touch. Whatever brought no answer of use is asked alone, at once, the ordinary way.
"""

from __future__ import annotations

from dataclasses import replace

import orjson
import redis.asyncio
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.keyring import seal
from infra.settings import Settings
from infra.unavailable import Unavailable
from llm_gateway import cache, pricing
from llm_gateway.batch.rows import Put, Rows
from llm_gateway.batch.sealing import REQUEST, name_of, of_batches, opened_answer
from llm_gateway.core import Core
from llm_gateway.metered import Asked, Metered
from llm_gateway.prompt import Caller, ModelUnavailable, Prompt, T, WaitsForBatch
from llm_gateway.providers.provider import BatchProvider
from llm_gateway.question import Grant
from llm_gateway.shape import shape_of
from schemas.record import RecordRef

WINDOW_SECONDS = 24 * 3_600.0
"""The provider's shortest completion window: https://console.groq.com/docs/batch."""
SLACK_SECONDS = 3_600.0
"""For the batch to be made and read."""
_LOOKS = 3


class Waiting:
    """One per gateway."""

    def __init__(self, settings: Settings, engine: AsyncEngine, redis: redis.asyncio.Redis, core: Core) -> None:
        self._on = settings.model_batch
        self._seconds = settings.model_batch_seconds + WINDOW_SECONDS + SLACK_SECONDS
        self._redis = redis
        self._core = core
        self._looks = settings.model_batch
        self.rows = Rows(engine)

    async def start(self) -> None:
        """Switched off, what still waits from before is looked for all the same."""
        if not self._on:
            try:
                self._looks = await self.rows.any()
            except Unavailable:
                return

    def concerns(self, door: Metered, caller: Caller) -> bool:
        """Whether such a question may stand here at all. Never blocks."""
        return (
            self._looks
            and caller.can_wait != "no"
            and caller.lane == "bulk"
            and isinstance(door.route.provider, BatchProvider)
        )

    async def answer(
        self, door: Metered, prompt: Prompt[T], caller: Caller, cached_as: bytes, deadline: float
    ) -> tuple[str, Asked] | None:
        """What a batch brought, and its row; None: ask now. Raises WaitsForBatch, QuotaSpent, ModelUnavailable, InputRefused."""
        digest = name_of(prompt, caller, door.line, shape_of(prompt.answer))
        names = digest, cached_as
        try:
            for _ in range(_LOOKS):
                found = await self.rows.look(digest, door.line)
                if found.sealed_answer is not None:
                    opened = opened_answer(caller.key, found.sealed_answer)
                    return None if opened is None else (found.id, Asked(*opened))
                if found.state in {"waiting", "sent"} and found.due_at is not None:
                    if found.overdue:
                        await self.no_use(found.id, "OVERDUE")
                        return None
                    raise WaitsForBatch(prompt.name, found.due_at)
                may = self._on and caller.can_wait == "yes" and not found.id and not found.refused
                if not may or await self._is_cached(caller.tenant, cached_as):
                    return None
                await self._put(door, prompt, caller, names, deadline)
        except Unavailable as away:
            raise ModelUnavailable(
                "DATABASE_AWAY", f"who waits for a batch is in Postgres ({away}). Look at DATABASE_URL", 2.0
            ) from away
        return None

    async def no_use(self, id_: str, why: str) -> None:
        """What the batch brought cannot be used: the question is asked alone, now and later. Raises Unavailable."""
        metrics.MODEL_BATCH_ALONE.labels(why).inc()
        await self.rows.give_up(id_, why)

    async def _is_cached(self, tenant: str, digest: bytes) -> bool:
        try:
            return bool(await self._redis.exists(cache.entry_key(tenant, digest)))
        except (RedisError, OSError):
            return False

    async def _put(
        self, door: Metered, prompt: Prompt[T], caller: Caller, names: tuple[bytes, bytes], deadline: float
    ) -> None:
        """Raises WaitsForBatch when it stands here now, and returns when somebody else has just put it. `names`: here and in the cache."""
        try:
            ref = RecordRef.parse(caller.key.name)
        except ValueError:
            return
        turns = door.turns(prompt)
        asks = door.question(prompt, caller, turns, digest=None, ttl=0)
        if not asks.most_nano:
            self._core.priced(asks.tenant, asks.user, asks.line)
        most_nano = int(asks.most_nano * pricing.BATCH_PRICE)
        room = replace(asks, line=of_batches(door.line), tokens=0, most_nano=most_nano, priced=True, key=None)
        grant = await self._core.enter(room, deadline, hold_seconds=self._seconds)
        assert isinstance(grant, Grant)
        provider = door.route.provider
        assert isinstance(provider, BatchProvider)
        body = orjson.dumps(provider.body(door.completion(prompt, turns)))
        due = None
        try:
            due = await self.rows.put(
                Put(
                    *names, ref, door.line, caller.user, caller.analysis, prompt.name, prompt.version, caller.asker,
                    seal(caller.key, body, purpose=REQUEST, compress=True), len(body), room.most_tokens, room.most_nano, grant.id,
                    grant.day, grant.month, self._seconds,
                )
            )  # fmt: skip
        finally:
            if due is None:
                self._core.release(grant, sent=False)
        if due is not None:
            raise WaitsForBatch(prompt.name, due)
