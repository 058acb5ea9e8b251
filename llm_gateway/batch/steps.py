"""One batch, step by step: from its questions to a file, a batch at the provider, its answers, and their accounts.

Law: each step's effect comes before its note, and can be found again by who comes next: a file is uploaded anew (files cost nothing,
and those of this name that an earlier try left are deleted), a batch is looked for among the provider's by the file that it was made
from. An answer is kept and accounted in one transaction, once. Whatever has no answer in the end is asked alone.

    claimed    uploaded    its questions as a file, those left out that were answered or erased meanwhile
    uploaded   running     the provider makes the batch; a clean no sends its questions their ordinary way
    running    ended       answers and errors are read and accounted, the files are deleted
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

import orjson
import redis.asyncio
import sqlalchemy as sa
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra import metrics
from infra.keyring import DataKey, Undecryptable, key_id_of, open_sealed
from infra.telemetry import log
from llm_gateway import accounting, cache, pricing
from llm_gateway.batch.lines import Result, line, results
from llm_gateway.batch.rows import Batch, Item, Rows
from llm_gateway.batch.sealing import REQUEST, grant_of, sealed_answer
from llm_gateway.core import Core
from llm_gateway.providers.provider import BatchProvider, BatchRefused, ProviderFailure
from llm_gateway.question import Line, Usage

_AT_ONCE = 200
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})

_log = log("llm_batches")


class Keys(Protocol):
    """`infra.keyring.Keyring`."""

    async def by_id(self, key_ids: Collection[str]) -> dict[str, DataKey]:
        """Keys by id; an absent one was destroyed. Raises Unavailable."""
        ...


class Steps:
    """One per collector."""

    def __init__(
        self,
        engine: AsyncEngine,
        redis: redis.asyncio.Redis,
        keys: Keys,
        core: Core,
        *,
        rows: Rows,
        unsure_seconds: float,
    ) -> None:
        """`redis` returns bytes. `unsure_seconds`: so long a batch may still appear whose making nobody saw the end of."""
        self._engine = engine
        self._redis = redis
        self._keys = keys
        self._core = core
        self._rows = rows
        self._unsure = unsure_seconds

    async def through(self, batch: Batch, provider: BatchProvider) -> bool:
        """Step by step; True when it ended. Raises ProviderFailure."""
        file_id, batch_id, state = batch.file_id, batch.batch_id, batch.state
        if state == "claimed":
            file_id = await self._upload(batch, provider)
            if not file_id:
                return True
            state = "uploaded"
        if state == "uploaded":
            made = await self._make(batch, provider, file_id, fresh=batch.state == "claimed")
            if made is None:
                return False
            batch_id = made
        return not batch_id or await self._look_at(batch, provider, file_id, batch_id)

    # claimed → uploaded

    async def _upload(self, batch: Batch, provider: BatchProvider) -> str:
        """The file's id; '' when nothing is left to ask."""
        items, bodies = await self._open(batch, await self._rows.items(batch.id))
        try:
            for old in await provider.files_named(_name(batch)):
                # Of a try that did not get to its note: it may hold somebody who was erased since.
                await provider.delete_file(old)
            if not items:
                await self._end(batch, "claimed", "empty")
                return ""
            content = b"".join(line(item.id, orjson.loads(body)) for item, body in zip(items, bodies, strict=True))
            file_id = await provider.upload(_name(batch), content)
        except BatchRefused as refused:
            await self._refused(batch, "claimed", refused)
            return ""
        if await self._rows.note(batch.id, "claimed", state="uploaded", file_id=file_id, requests=len(items)):
            return file_id
        # Another replica took this one's lock for dead, and was quicker.
        await self._forget_files(provider, [file_id])
        return ""

    async def _open(self, batch: Batch, items: Sequence[Item]) -> tuple[list[Item], list[bytes]]:
        """Those that are still to be asked, and their bodies."""
        keys = await self._keys.by_id({_key_of(item) for item in items} - {""})
        answered = await self._answered_meanwhile(items)
        left, bodies, over = [], [], []
        for item in items:
            key = keys.get(_key_of(item))
            try:
                if key is None or item.sealed_request is None or item.id in answered:
                    over.append(item)
                    continue
                bodies.append(open_sealed(key, item.sealed_request, purpose=REQUEST))
                left.append(item)
            except Undecryptable:
                over.append(item)
        if over:
            await self._rows.drop([item.id for item in over])
            self.give_back(over, batch.line)
        return left, bodies

    async def _answered_meanwhile(self, items: Sequence[Item]) -> set[str]:
        """Whose answer the cache has by now: somebody could not wait."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for item in items:
                    pipeline.exists(cache.entry_key(item.tenant, item.cached_as))
                there = await pipeline.execute()
        except (RedisError, OSError):
            return set()
        return {item.id for item, hit in zip(items, there, strict=True) if hit}

    # uploaded → running

    async def _make(self, batch: Batch, provider: BatchProvider, file_id: str, *, fresh: bool) -> str | None:
        """The provider's id of it; '' when it ended here, None when it is too early to say."""
        found = None
        try:
            if not fresh and batch.unsure:
                found = await provider.batch_of(file_id, batch.id)
                if found is None and batch.tried_lately:
                    return None
            if found is None:
                if not await self._rows.about_to_create(batch.id, self._unsure):
                    return None
                found = await provider.create_batch(file_id, batch.id)
                metrics.MODEL_BATCHES.labels("created").inc()
        except BatchRefused as refused:
            await self._refused(batch, "uploaded", refused)
            await self._forget_files(provider, [file_id])
            return ""
        except ProviderFailure as failure:
            if failure.cause in {"RATE_LIMITED", "AUTHENTICATION"}:
                # A clean no: nothing was made.
                await self._rows.note(batch.id, "uploaded", creating_at=None)
            raise
        await self._rows.note(batch.id, "uploaded", state="running", batch_id=found.id, sent_at=sa.func.now())
        _log.info("batch_made", batch=batch.id, provider_batch=found.id, model=batch.line.model)
        return found.id

    async def _refused(self, batch: Batch, state: str, refused: BatchRefused) -> None:
        _log.warning(
            "batch_refused",
            provider=batch.line.provider,
            model=batch.line.model,
            code=refused.code,
            advice="its questions are asked one by one at the full price; give the key's project access to the batch API and "
            "this model to it, or set HOOKLINE_MODEL_BATCH=false. It is tried again in an hour",
        )
        await self._end(batch, state, "refused", error=refused.code)

    # running → ended

    async def _look_at(self, batch: Batch, provider: BatchProvider, file_id: str, batch_id: str) -> bool:
        found = await provider.batch(batch_id)
        outcome = "gone" if found is None else found.status
        if found is not None and outcome not in _OVER:
            return await self.given_up(batch, outcome)
        files = [] if found is None else [each for each in (found.output_file_id, found.error_file_id) if each]
        for each in files:
            content = await provider.content(each)
            if content is not None:
                await self._read(batch, content)
        await self._forget_files(provider, [file_id, *files])
        await self._end(batch, "running", outcome, error=found.error if found else "")
        return True

    async def _read(self, batch: Batch, content: bytes) -> None:
        lines = results(content, batch.line.model)
        while page := list(islice(lines, _AT_ONCE)):
            await self._keep(batch, {each.id: each for each in page})
            failed: dict[str, dict[str, str]] = {}
            for each in page:
                if each.completed is None:
                    failed.setdefault(each.code, {})[each.id] = each.code
            for code, ids in failed.items():
                self._alone(batch, await self._rows.failed(batch.id, ids, code), "ITEM_FAILED")

    async def _keep(self, batch: Batch, page: Mapping[str, Result]) -> None:
        """Answers into their rows and into the accounts, in one transaction; then to the quotas."""
        said = {id_: each.completed for id_, each in page.items() if each.completed is not None}
        items = {item.id: item for item in await self._rows.items(batch.id, list(said))} if said else {}
        keys = await self._keys.by_id({_key_of(item) for item in items.values()} - {""})
        usages: dict[str, Usage] = {}
        sealed: dict[str, bytes | None] = {}
        for id_, item in items.items():
            usages[id_] = pricing.batch_usage(batch.line.provider, said[id_], batch.line.model)
            key = keys.get(_key_of(item))
            sealed[id_] = None if key is None else sealed_answer(key, said[id_], usages[id_])
        if not sealed:
            return
        async with self._engine.begin() as connection:
            new = sorted(await self._rows.answered(connection, batch.id, sealed))
            took = [(grant_of(items[id_], batch.line), usages[id_]) for id_ in new]
            await accounting.add(connection, [(grant.question, usage, grant.day) for grant, usage in took])
        for grant, usage in took:
            accounting.show(grant.question.line.provider, usage)
            self._core.settle(grant, usage)

    async def given_up(self, batch: Batch, why: str) -> bool:
        """End a batch that nobody can see to its end, once its time is over."""
        if not batch.overdue:
            return False
        await self._end(batch, batch.state, "overdue", error=why)
        return True

    async def _end(self, batch: Batch, state: str, outcome: str, *, error: str = "") -> None:
        """Whatever has no answer by now is asked alone."""
        left = await self._rows.failed(batch.id, None, outcome.upper())
        self._alone(batch, left, outcome.upper())
        if await self._rows.end(batch.id, state, outcome, error):
            metrics.MODEL_BATCHES.labels(outcome).inc()
            _log.info("batch_ended", batch=batch.id, outcome=outcome, unanswered=len(left), error=error)

    def _alone(self, batch: Batch, items: Sequence[Item], why: str) -> None:
        if items:
            metrics.MODEL_BATCH_ALONE.labels(why).inc(len(items))
            self.give_back(items, batch.line)

    def give_back(self, items: Sequence[Item], of: Line) -> None:
        """What quotas hold for these. Never waits, never raises."""
        for item in items:
            self._core.release(grant_of(item, of), sent=False)

    async def _forget_files(self, provider: BatchProvider, files: Sequence[str]) -> None:
        """They hold customers' texts, and have been read."""
        for each in files:
            with suppress(ProviderFailure):
                await provider.delete_file(each)


def _name(batch: Batch) -> str:
    return f"hookline-{batch.id}.jsonl"


def _key_of(item: Item) -> str:
    try:
        return key_id_of(item.sealed_request) if item.sealed_request is not None else ""
    except Undecryptable:
        return ""
