"""The provider's files and batches, behind virtual keys: whose they are, and what they took.

Law: a file or batch that another tenant made is answered as one that does not exist. A batch is let through when its tenant's
quotas have room for the most that it may take; what it took is counted once, when it has ended, whether anybody asks for it or
not: towards quotas and accounts, at the provider's price for batches, and towards no limit per minute. Its rows say only
whose it is; contents stay with the provider. Source: https://console.groq.com/docs/batch (half price; own rate limits).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.database.tables import llm_provider_objects as objects
from infra.telemetry import log
from llm_gateway import pricing
from llm_gateway.accounting import Ledger
from llm_gateway.answered import answered
from llm_gateway.core import Core
from llm_gateway.models import facts_of
from llm_gateway.policy import nano
from llm_gateway.prompt import ModelUnavailable
from llm_gateway.providers.provider import Completed, ProviderFailure
from llm_gateway.question import Grant, Hit, Line, Question, Usage, today
from llm_gateway.server.errors import Refusal
from llm_gateway.server.keys import VirtualKey
from llm_gateway.server.upstream import Raw, Upstream, counted

ANALYSIS = "batch"
PRICE = pricing.BATCH_PRICE
LOOK_SECONDS = 30.0
_GIVE_UP_DAYS = 8
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asks of files or batches."""

    method: str
    path: str
    """Under /v1: `files`, `files/ID`, `files/ID/content`, `batches`, `batches/ID`, `batches/ID/cancel`."""
    query: str
    body: bytes
    content_type: str


class Batches:
    """One per server."""

    def __init__(self, engine: AsyncEngine, core: Core, ledger: Ledger, upstream: Upstream) -> None:
        self._engine = engine
        self._core = core
        self._ledger = ledger
        self._upstream = upstream
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for batches that have ended, again and again."""
        self._task = asyncio.create_task(self._run(), name="llm-batches")

    async def stop(self) -> None:
        """Stop looking; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def answer(self, wanted: Wanted, key: VirtualKey) -> Raw:
        """The provider's answer, if it is this tenant's to see. Raises Refusal, GatewayError."""
        parts = wanted.path.split("/")
        kind = "file" if parts[0] == "files" else "batch"
        try:
            async with self._engine.connect() as connection:
                if len(parts) > 1 and not await _is_of(connection, parts[1], kind, key.tenant):
                    raise Refusal(404, "not_found", f"there is no {kind} {parts[1][:80]!r}", param="id")
            if (wanted.method, wanted.path) == ("POST", "batches"):
                await self._let_through(wanted.body, key)
            raw = await self._passed(wanted)
            if raw.status == 200 and not wanted.path.endswith("/content"):
                return await self._noted(wanted, parts, kind, raw, key)
        except SQLAlchemyError as error:
            raise ModelUnavailable(
                "DATABASE_AWAY",
                f"whose files these are is in Postgres ({type(error).__name__}). Look at DATABASE_URL",
                2.0,
            ) from error
        return raw

    async def _passed(self, wanted: Wanted) -> Raw:
        try:
            raw = await self._upstream.raw(
                wanted.method,
                wanted.path,
                body=wanted.body or None,
                content_type=wanted.content_type,
                query=wanted.query,
            )
        except ProviderFailure as failure:
            raise ModelUnavailable(failure.cause, failure.detail) from failure
        if raw.status in (401, 403):
            raise ModelUnavailable(
                "AUTHENTICATION", f"the provider refuses the gateway's key (HTTP {raw.status}): check GROQ_API_KEY"
            )
        return raw

    async def _noted(self, wanted: Wanted, parts: list[str], kind: str, raw: Raw, key: VirtualKey) -> Raw:
        said = orjson.loads(raw.body)
        if wanted.method == "GET" and len(parts) == 1:
            async with self._engine.connect() as connection:
                mine = set(await connection.scalars(sa.select(objects.c.id).where(objects.c.tenant == key.tenant)))
            said["data"] = [each for each in said.get("data", ()) if each.get("id") in mine]
            return replace(raw, body=orjson.dumps(said))
        if wanted.method == "POST" and len(parts) == 1:
            async with self._engine.begin() as connection:
                await _own(connection, str(said["id"]), kind, key.tenant, key.id, int(said.get("bytes") or 0))
        if kind == "batch":
            await self._account(str(said["id"]), said)
        return raw

    # before

    async def _let_through(self, body: bytes, key: VirtualKey) -> None:
        """Raises Refusal and GatewayError when this batch may not be asked for."""
        try:
            asked = orjson.loads(body)
            source = str(asked["input_file_id"])
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "missing_input_file", "name the uploaded file", param="input_file_id") from None
        async with self._engine.connect() as connection:
            if not await _is_of(connection, source, "file", key.tenant):
                raise Refusal(404, "not_found", f"there is no file {source[:80]!r}", param="input_file_id")
        raw = await self._passed(Wanted("GET", f"files/{source}/content", "", b"", ""))
        if raw.status != 200:
            raise Refusal(404, "not_found", "the provider does not have that file", param="input_file_id")
        tokens, cost, lines = 0, 0, 0
        for line in raw.body.splitlines():
            if not line.strip():
                continue
            try:
                question = orjson.loads(line)["body"]
                model = str(question["model"])
            except (ValueError, KeyError, TypeError):
                raise Refusal(400, "invalid_line", f"line {lines + 1} is no request with a body and a model") from None
            if key.models and model not in key.models:
                raise Refusal(403, "model_not_allowed", f"line {lines + 1}: this key may not ask {model[:80]}")
            said = len(line) // 4
            most = (
                question.get("max_completion_tokens") or question.get("max_tokens") or facts_of(model).max_output_tokens
            )
            tokens += said + int(most)
            cost += nano(pricing.most_usd(self._upstream.name, model, said, int(most)) * PRICE)
            lines += 1
        room = Question(key.tenant, "", ANALYSIS, self._line("batch"), 0, tokens, cost, lane="bulk", version=key.id)
        held = await self._core.enter(room, asyncio.get_running_loop().time() + 10.0)
        assert not isinstance(held, Hit)
        self._core.release(held, sent=False)

    # after

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with self._engine.connect() as connection:
                    waiting = list(
                        await connection.scalars(
                            sa.select(objects.c.id).where(
                                objects.c.kind == "batch",
                                objects.c.accounted_at.is_(None),
                                objects.c.created_at > sa.func.now() - sa.text(f"interval '{_GIVE_UP_DAYS} days'"),
                            )
                        )
                    )
                for each in waiting:
                    await self._account(each)
            except (SQLAlchemyError, OSError, ModelUnavailable, ValueError) as error:
                log("llm_gateway").warning("batches_not_looked_at", error=type(error).__name__)

    async def _account(self, id: str, said: dict[str, Any] | None = None) -> None:  # noqa: A002 -- the provider's name for it
        """Count one batch if it has ended and nobody has: the row is held meanwhile, so that one replica alone does. `said`: what
        the provider has just told of it.
        """
        async with self._engine.begin() as connection:
            row = (
                await connection.execute(
                    sa.select(objects)
                    .where(objects.c.id == id, objects.c.accounted_at.is_(None))
                    .with_for_update(skip_locked=True)
                )
            ).first()
            if row is None:
                return
            gone = False
            if said is None:
                raw = await self._passed(Wanted("GET", f"batches/{id}", "", b"", ""))
                said, gone = (orjson.loads(raw.body) if raw.status == 200 else {}), raw.status == 404
            for name in ("output_file_id", "error_file_id"):
                if said.get(name):
                    await _own(connection, str(said[name]), "file", row.tenant, row.key_id, 0)
            if said.get("status") not in _ENDED and not gone:
                return
            if said.get("output_file_id"):
                results = await self._passed(Wanted("GET", f"files/{said['output_file_id']}/content", "", b"", ""))
                if results.status != 200:
                    return
                await self._count(results.body, row.tenant, row.key_id)
            await connection.execute(objects.update().where(objects.c.id == id).values(accounted_at=sa.func.now()))

    async def _count(self, results: bytes, tenant: str, key_id: str) -> None:
        day, month = today()
        answers = 0
        for number, line in enumerate(results.splitlines()):
            usage = self._usage(line)
            if usage is None:
                continue
            answers += 1
            question = Question(tenant, "", ANALYSIS, self._line(usage.model), 0, 0, lane="bulk", version=key_id)
            # No reservation to give back, and in no window: quotas alone count it.
            grant = Grant(question, f"batch:{uuid.uuid4().hex}", "", day, month, -1)
            answered(self._core, self._ledger, question, grant, usage)
            if number % _TOGETHER == _TOGETHER - 1:
                await asyncio.sleep(0)
        log("llm_gateway").info("batch_accounted", tenant=tenant, answers=answers)

    def _usage(self, line: bytes) -> Usage | None:
        try:
            body = orjson.loads(line)["response"]["body"]
            inputs, outputs, cached = counted(body.get("usage"))
            model = str(body["model"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        done = Completed("", model, inputs, outputs, cached)
        provider = self._upstream.name
        cost = pricing.cost_usd(provider, done) * PRICE
        return Usage(model, inputs, outputs, cached, cost, pricing.saved_usd(provider, done) * PRICE)

    def _line(self, model: str) -> Line:
        return Line(self._upstream.name, model, self._upstream.key)


async def _is_of(connection: AsyncConnection, id: str, kind: str, tenant: str) -> bool:  # noqa: A002 -- as above
    found = await connection.scalar(sa.select(objects.c.tenant).where(objects.c.id == id, objects.c.kind == kind))
    return found == tenant


async def _own(connection: AsyncConnection, id: str, kind: str, tenant: str, key_id: str, size: int) -> None:  # noqa: A002, PLR0917 -- a row
    values: Mapping[str, Any] = {"id": id, "kind": kind, "tenant": tenant, "key_id": key_id, "bytes": size}
    await connection.execute(insert(objects).values(values).on_conflict_do_nothing())
