"""The provider's files and batches, behind virtual keys: whose they are, and what they took.

Law: a file or batch that another tenant made is answered as one that does not exist. Quotas hold the most that a batch may take
from before it is made until it has ended: who has no room for it is refused. What it took is counted once, when it has ended,
whether anybody asks for it or not: in the accounts, in one transaction with the note that it is counted, then in the quotas (see
`llm_gateway.server.batch_settling`); at the provider's price for batches, and towards no limit per minute. One whose making nobody saw the end of is found among the
provider's by its file. Rows say only whose it is; contents stay with the provider.
Source: https://console.groq.com/docs/batch (half price; own rate limits).
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.database.tables import llm_provider_objects as objects
from infra.telemetry import log
from llm_gateway import accounting
from llm_gateway.core import Core
from llm_gateway.prompt import ModelUnavailable
from llm_gateway.providers.provider import ProviderFailure
from llm_gateway.question import Grant, Line, Question, Usage
from llm_gateway.server.batch_lines import AT_ONCE, models_of, most_of, usages_of
from llm_gateway.server.batch_settling import ANALYSIS, GIVE_UP_DAYS, BatchSettling, took
from llm_gateway.server.errors import Refusal
from llm_gateway.server.keys import VirtualKey
from llm_gateway.server.upstream import Raw, Upstream

LOOK_SECONDS = 30.0
SLACK_SECONDS = 3_600.0
"""After its window, for a batch to be looked at: until then its place in the quotas is held."""
UNSURE_SECONDS = 60.0
"""A batch that the provider has, and we do not, may be noted this moment; after that nobody will."""
_FIND_EVERY = 10
_DAY_SECONDS = 86_400.0
_LONGEST_DAYS = 7
"""The provider's longest completion window: https://console.groq.com/docs/batch."""
_ENTER_SECONDS = 10.0
_LATER = frozenset({408, 409, 424, 429, 498})
"""What says nothing of whether a file is there."""
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_AWAY = (SQLAlchemyError, OSError, ModelUnavailable, ValueError, KeyError, TypeError)
"""The database, the provider, or what it says: looked at again later."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asks of files or batches."""

    method: str
    path: str
    """Under /v1: `files`, `files/ID`, `files/ID/content`, `batches`, `batches/ID`, `batches/ID/cancel`."""
    query: str
    body: bytes
    content_type: str
    user: str = ""
    """Bears the per-user quota of a batch."""


class Batches:
    """One per server."""

    def __init__(self, engine: AsyncEngine, core: Core, upstream: Upstream) -> None:
        self._engine = engine
        self._core = core
        self._upstream = upstream
        self._settling = BatchSettling(engine, core, self._line)
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
                return await self._made(wanted, key)
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
                await _own(connection, str(said["id"]), "file", key.tenant, key.id, bytes=int(said.get("bytes") or 0))
        if kind == "batch":
            await self._account(str(said["id"]), said)
        return raw

    # before

    async def _made(self, wanted: Wanted, key: VirtualKey) -> Raw:
        """Have the provider make a batch, within the quotas. Raises Refusal, GatewayError."""
        grant, hold_seconds = await self._reserved(wanted, key)
        made = False
        try:
            raw = await self._passed(wanted)
            made = raw.status == 200
        finally:
            if not made:
                self._core.release(grant, sent=False)
        if not made:
            return raw
        said, room = orjson.loads(raw.body), grant.question
        async with self._engine.begin() as connection:
            await _own(
                connection, str(said["id"]), "batch", key.tenant, key.id, user=room.user, requests=room.requests,
                most_tokens=room.most_tokens, most_nano=room.most_nano, grant_id=grant.id, day=grant.day, month=grant.month,
                held_until=sa.func.now() + timedelta(seconds=hold_seconds),
            )  # fmt: skip
        return raw

    async def _reserved(self, wanted: Wanted, key: VirtualKey) -> tuple[Grant, float]:
        """What quotas hold for it from now on, and for how many seconds. Raises Refusal, GatewayError."""
        try:
            asked = orjson.loads(wanted.body)
            source = str(asked["input_file_id"])
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "missing_input_file", "name the uploaded file", param="input_file_id") from None
        async with self._engine.connect() as connection:
            if not await _is_of(connection, source, "file", key.tenant):
                raise Refusal(404, "not_found", f"there is no file {source[:80]!r}", param="input_file_id")
        raw = await self._passed(Wanted("GET", f"files/{source}/content", "", b"", ""))
        if raw.status != 200:
            raise Refusal(404, "not_found", "the provider does not have that file", param="input_file_id")
        most = await most_of(raw.body, self._upstream.name, key)
        for model in most.unpriced:
            self._core.priced(key.tenant, wanted.user, replace(self._line, model=model))
        room = Question(
            key.tenant, wanted.user, ANALYSIS, self._line, 0, most.tokens, most.nano, lane="bulk", version=key.id,
            requests=max(1, most.requests), priced=True,
        )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + _ENTER_SECONDS
        hold_seconds = _window(asked) + SLACK_SECONDS
        held = await self._core.enter(room, deadline, hold_seconds=hold_seconds)
        assert isinstance(held, Grant)
        return held, hold_seconds

    # after

    async def _run(self) -> None:
        for look in itertools.count():
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._settling.look()
                if look % _FIND_EVERY == 0:
                    await self._find()
                async with self._engine.connect() as connection:
                    waiting = list(
                        await connection.scalars(
                            sa.select(objects.c.id).where(
                                objects.c.kind == "batch",
                                objects.c.accounted_at.is_(None),
                                objects.c.created_at > sa.func.now() - sa.text(f"interval '{GIVE_UP_DAYS} days'"),
                            )
                        )
                    )
            except _AWAY as error:
                log("llm_gateway").warning("batches_not_looked_at", error=type(error).__name__)
                continue
            for each in waiting:
                try:
                    await self._account(each)
                except _AWAY as error:
                    log("llm_gateway").warning("batch_not_looked_at", batch=each, error=type(error).__name__)

    async def _find(self) -> None:
        """Take for a tenant's what was made of its file though nobody noted it: an answer was lost, or a process died."""
        async with self._engine.connect() as connection:
            if not await connection.scalar(sa.select(sa.exists().where(objects.c.kind == "file"))):
                return
        raw = await self._passed(Wanted("GET", "batches", "", b"", ""))
        now = time.time()
        made = {
            str(each["id"]): str(each["input_file_id"])
            for each in (orjson.loads(raw.body)["data"] if raw.status == 200 else ())
            if UNSURE_SECONDS < now - int(each.get("created_at") or 0) < GIVE_UP_DAYS * _DAY_SECONDS
        }
        names = sa.select(objects).where(objects.c.id.in_([*made, *made.values()]))
        async with self._engine.begin() as connection:
            known = {row.id: row for row in await connection.execute(names)}
            for batch, source in made.items():
                if batch not in known and source in known:
                    await _own(connection, batch, "batch", known[source].tenant, known[source].key_id)
                    log("llm_gateway").warning("batch_found", batch=batch, tenant=known[source].tenant)

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
                    await _own(connection, str(said[name]), "file", row.tenant, row.key_id)
            if said.get("status") not in _ENDED and not gone:
                return
            answers = await self._answers(said)
            if answers is None:
                return
            grant, amounts = self._settling.grant(row), took(answers)
            for start in range(0, len(answers), AT_ONCE):
                page = answers[start : start + AT_ONCE]
                await accounting.add(connection, [(grant.question, usage, grant.day) for usage in page])
            counted = {"accounted_at": sa.func.now(), **amounts}
            await connection.execute(objects.update().where(objects.c.id == id).values(counted))
        self._settling.tell(id, grant, amounts)
        for number, usage in enumerate(answers, 1):
            accounting.show(self._upstream.name, usage)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        log("llm_gateway").info("batch_accounted", tenant=row.tenant, answers=len(answers))

    async def _answers(self, said: Mapping[str, Any]) -> list[Usage] | None:
        """What each answer of a batch took; None: that cannot be read now."""
        if not said.get("output_file_id"):
            return []
        results = await self._passed(Wanted("GET", f"files/{said['output_file_id']}/content", "", b"", ""))
        if results.status != 200:
            return None
        source = await self._passed(Wanted("GET", f"files/{said.get('input_file_id')}/content", "", b"", ""))
        if source.status in _LATER or source.status >= 500:
            return None
        # Where the client has deleted it, answers cost what their own names do.
        asked = await models_of(source.body) if source.status == 200 else {}
        return [usage async for usage in usages_of(results.body, self._upstream.name, asked)]

    @property
    def _line(self) -> Line:
        return Line(self._upstream.name, "batch", self._upstream.key)


def _window(asked: dict[str, Any]) -> float:
    """Seconds that the provider may take for it; what it does not understand it refuses itself."""
    found = re.fullmatch(r"(\d{1,3})([hd])", str(asked.get("completion_window")))
    if found is None:
        return _DAY_SECONDS
    days = int(found[1]) / (24 if found[2] == "h" else 1)
    return min(max(1, days), _LONGEST_DAYS) * _DAY_SECONDS


async def _is_of(connection: AsyncConnection, id: str, kind: str, tenant: str) -> bool:  # noqa: A002 -- as above
    found = await connection.scalar(sa.select(objects.c.tenant).where(objects.c.id == id, objects.c.kind == kind))
    return found == tenant


async def _own(connection: AsyncConnection, id: str, kind: str, tenant: str, key_id: str, **more: Any) -> None:  # noqa: A002 -- as above
    values = {"id": id, "kind": kind, "tenant": tenant, "key_id": key_id, **more}
    await connection.execute(insert(objects).values(values).on_conflict_do_nothing())
