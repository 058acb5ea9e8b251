"""The two tables: questions that wait for a batch, and the batches.

Law: each method is one statement or one transaction, and safe to call again. A question stands here once, by its digest, however
many replicas and redeliveries bring it. What a customer wrote stands here sealed under the record's key, and nowhere else;
ids are random.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.database.statement import Statements
from infra.database.tables import llm_batch_requests as requests
from infra.database.tables import llm_batches as batches
from llm_gateway.question import Line
from schemas.record import RecordRef

REFUSED_FOR = "1 hour"
"""So long nobody tries again after a provider would make no batch of a model."""
KEPT_DAYS = 3
"""An answer that nobody took by then goes: the record comes again within hours, or never."""
BATCHES_KEPT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a question."""

    id: str
    """'' when it does not stand here."""
    state: str
    """waiting, sent, answered or failed."""
    due_at: datetime | None
    """By then it is answered, or asked alone."""
    overdue: bool
    sealed_answer: bytes | None = field(repr=False)
    refused: bool
    """Lately the provider would make no batch of its model."""


@dataclass(frozen=True, slots=True)
class Put:
    """A question on its way in, and the place that quotas hold for it."""

    digest: bytes
    cached_as: bytes
    ref: RecordRef
    line: Line
    user: str
    analysis: str
    prompt: str
    version: str
    asker: str
    sealed: bytes = field(repr=False)
    size: int
    """Bytes of the question as it is sent."""
    most_tokens: int
    most_nano: int
    grant_id: str
    day: str
    month: str
    seconds: float
    """Until it is due."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question that stands here, as far as sending and accounting need it."""

    id: str
    tenant: str
    user: str
    analysis: str
    prompt: str
    version: str
    most_tokens: int
    most_nano: int
    grant_id: str
    day: str
    month: str
    cached_as: bytes
    sealed_request: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, ours before it is the provider's."""

    id: str
    line: Line
    state: str
    """claimed (its questions are its own), uploaded (its file is the provider's), running (the provider works on it), ended."""
    file_id: str
    batch_id: str
    unsure: bool
    """Somebody was about to have it made, and nobody knows whether it was."""
    tried_lately: bool
    """... so lately that it may still be made."""
    overdue: bool


_ITEM = 'id, tenant, "user", analysis, prompt, prompt_version, most_tokens, most_nano, grant_id, day, month, cached_as, sealed_request'
_LOOK = f"""
    SELECT r.id, r.state, r.due_at, r.due_at <= now(), r.sealed_answer, EXISTS (
      SELECT FROM llm_batches b WHERE (b.provider, b.provider_key, b.model) = (%(provider)s, %(provider_key)s, %(model)s)
        AND b.outcome = 'refused' AND b.ended_at > now() - interval '{REFUSED_FOR}')
    FROM (SELECT 1) AS one LEFT JOIN llm_batch_requests r ON r.digest = %(digest)s::bytea
"""  # noqa: S608 -- made of constants
_PUT = """
    INSERT INTO llm_batch_requests (id, digest, cached_as, tenant, account, object, record_id, provider, provider_key, model, "user",
      analysis, prompt, prompt_version, asker, state, sealed_request, size, most_tokens, most_nano, grant_id, day, month, due_at)
    VALUES (%(id)s, %(digest)s, %(cached_as)s, %(tenant)s, %(account)s, %(object)s, %(record_id)s, %(provider)s, %(provider_key)s,
      %(model)s, %(user)s, %(analysis)s, %(prompt)s, %(version)s, %(asker)s, 'waiting', %(sealed)s, %(size)s, %(most_tokens)s,
      %(most_nano)s, %(grant_id)s, %(day)s, %(month)s, now() + make_interval(secs => %(seconds)s))
    ON CONFLICT (digest) DO NOTHING RETURNING due_at
"""
_CLAIM = sa.text("""
    WITH wanted AS (
      SELECT id FROM (
        SELECT id, sum(size) OVER (ORDER BY created_at, id) AS upto, row_number() OVER (ORDER BY created_at, id) AS place
        FROM llm_batch_requests
        WHERE state = 'waiting' AND (provider, provider_key, model) = (:provider, :provider_key, :model)
      ) AS each WHERE place <= :most AND (upto <= :bytes OR place = 1)
    ), made AS (
      INSERT INTO llm_batches (id, provider, provider_key, model, state)
      SELECT :id, :provider, :provider_key, :model, 'claimed' WHERE EXISTS (SELECT FROM wanted) RETURNING id
    )
    UPDATE llm_batch_requests r SET state = 'sent', batch = made.id FROM made, wanted
    WHERE r.id = wanted.id AND r.state = 'waiting' RETURNING r.id
""")
_BATCH = """
    SELECT id, provider, model, provider_key, state, file_id, batch_id, creating_at IS NOT NULL,
      coalesce(creating_at > now() - make_interval(secs => :unsure), false), created_at < now() - make_interval(secs => :overdue)
    FROM llm_batches WHERE state <> 'ended'
"""


class Rows:
    """Any number may be used in any number of processes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._statements = Statements(engine)

    # for who asks

    async def look(self, digest: bytes, line: Line) -> Found:
        """What is known of a question. Raises Unavailable."""
        given = {"digest": digest, "provider": line.provider, "provider_key": line.key, "model": line.model}
        [(id_, state, due, overdue, sealed, refused)] = await self._statements.run(_LOOK, given)
        answer = bytes(sealed) if sealed is not None else None
        return Found(id_ or "", state or "", due, bool(overdue), answer, refused)

    async def put(self, row: Put) -> datetime | None:
        """When it is due; None when it stood here already. Raises Unavailable."""
        found = await self._statements.run(
            _PUT,
            {
                "id": secrets.token_hex(12), "digest": row.digest, "cached_as": row.cached_as, **_named(row.ref),
                "provider": row.line.provider, "provider_key": row.line.key, "model": row.line.model, "user": row.user,
                "analysis": row.analysis, "prompt": row.prompt, "version": row.version, "asker": row.asker,
                "sealed": row.sealed, "size": row.size, "most_tokens": row.most_tokens, "most_nano": row.most_nano,
                "grant_id": row.grant_id, "day": row.day, "month": row.month, "seconds": row.seconds,
            },
        )  # fmt: skip
        return found[0][0] if found else None

    async def give_up(self, id_: str, why: str) -> None:
        """It is asked alone from now on. What still comes back for it is accounted all the same. Raises Unavailable."""
        await self._statements.run(
            "UPDATE llm_batch_requests SET state = 'failed', error = %(why)s, sealed_request = NULL, sealed_answer = NULL "
            "WHERE id = %(id)s",
            {"id": id_, "why": why},
        )

    async def any(self) -> bool:
        """Whether questions stand here at all. Raises Unavailable."""
        return bool((await self._statements.run("SELECT EXISTS (SELECT FROM llm_batch_requests)", {}))[0][0])

    # for who sends

    async def ready(self, seconds: float, most: int) -> list[Line]:
        """Models of which `most` questions wait, or one for longer than `seconds`."""
        lines = (requests.c.provider, requests.c.model, requests.c.provider_key)
        waited = sa.func.min(requests.c.created_at) < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        query = (
            sa.select(*lines)
            .where(requests.c.state == "waiting")
            .group_by(*lines)
            .having(sa.or_(sa.func.count() >= most, waited))
        )
        async with self._at_once.connect() as connection:
            return [Line(*row) for row in await connection.execute(query)]

    async def claim(self, line: Line, most: int, size: int) -> int:
        """Make the oldest questions of a model a batch: at most so many, and bytes. How many they are."""
        given = {"id": secrets.token_hex(12), "provider": line.provider, "provider_key": line.key, "model": line.model}
        async with self._engine.begin() as connection:
            claimed = (await connection.execute(_CLAIM, {**given, "most": most, "bytes": size})).all()
            await connection.execute(batches.update().where(batches.c.id == given["id"]).values(requests=len(claimed)))
        return len(claimed)

    async def open(self, unsure_seconds: float, overdue_seconds: float) -> list[Batch]:
        """Batches that are not over, oldest first."""
        given = {"unsure": unsure_seconds, "overdue": overdue_seconds}
        async with self._at_once.connect() as connection:
            found = (await connection.execute(sa.text(_BATCH + " ORDER BY created_at, id"), given)).all()
        return [Batch(row[0], Line(*row[1:4]), *row[4:]) for row in found]

    async def items(self, batch: str, ids: Sequence[str] | None = None) -> list[Item]:
        """A batch's questions that have no answer (of these)."""
        which = "" if ids is None else "AND id = ANY(:ids)"
        query = sa.text(
            f"SELECT {_ITEM} FROM llm_batch_requests WHERE batch = :batch AND answered_at IS NULL {which} ORDER BY id"  # noqa: S608 -- made of constants
        )
        given: dict[str, Any] = {"batch": batch} if ids is None else {"batch": batch, "ids": list(ids)}
        async with self._at_once.connect() as connection:
            return [_item(row) for row in await connection.execute(query, given)]

    async def drop(self, ids: Collection[str]) -> None:
        """Questions that need no answer any more."""
        async with self._at_once.connect() as connection:
            await connection.execute(requests.delete().where(requests.c.id.in_(list(ids))))

    async def take_out(self, *, refs: Collection[RecordRef] | None = None, asker: str | None = None) -> list[Item]:
        """Delete questions that nobody has sent yet: of these records, of this asker, or all. Returns them."""
        where = "state = 'waiting'"
        given: dict[str, Any] = {}
        if refs is not None:
            where += """ AND (tenant, account, object, record_id) IN (SELECT * FROM unnest(CAST(:tenants AS text[]),
              CAST(:accounts AS text[]), CAST(:objects AS text[]), CAST(:ids AS text[])))"""
            given = {
                name: [ref[place] for ref in refs]
                for place, name in enumerate(("tenants", "accounts", "objects", "ids"))
            }
        if asker is not None:
            where += " AND asker = :asker"
            given["asker"] = asker
        async with self._at_once.connect() as connection:
            found = await connection.execute(
                sa.text(f"DELETE FROM llm_batch_requests WHERE {where} RETURNING {_ITEM}"),  # noqa: S608 -- made of constants
                given,
            )
            return [_item(row) for row in found]

    async def note(self, batch: str, from_: str, **values: Any) -> bool:
        """Write down a step of a batch, if it still stands where the step began."""
        async with self._at_once.connect() as connection:
            done = await connection.execute(
                batches.update().where(batches.c.id == batch, batches.c.state == from_).values(**values)
            )
            return bool(done.rowcount)

    async def about_to_create(self, batch: str, unsure_seconds: float) -> bool:
        """Write down that the provider is asked to make it now; False when somebody else was just about to."""
        query = sa.text(
            "UPDATE llm_batches SET creating_at = now() WHERE id = :id AND state = 'uploaded' AND "
            "(creating_at IS NULL OR creating_at <= now() - make_interval(secs => :unsure))"
        )
        async with self._at_once.connect() as connection:
            return bool((await connection.execute(query, {"id": batch, "unsure": unsure_seconds})).rowcount)

    # what came back

    async def answered(self, connection: AsyncConnection, batch: str, sealed: Mapping[str, bytes | None]) -> set[str]:
        """Keep answers (None: nobody can read it any more) that were not there yet; returns the ids of those."""
        found = await connection.execute(
            sa.text("""
                UPDATE llm_batch_requests r SET state = CASE WHEN w.sealed IS NULL THEN 'failed' ELSE 'answered' END,
                  error = CASE WHEN w.sealed IS NULL THEN 'KEY_DESTROYED' ELSE '' END,
                  sealed_answer = w.sealed, sealed_request = NULL, answered_at = now()
                FROM unnest(CAST(:ids AS text[]), CAST(:sealed AS bytea[])) AS w (id, sealed)
                WHERE r.id = w.id AND r.batch = :batch AND r.answered_at IS NULL RETURNING r.id
            """),
            {"ids": list(sealed), "sealed": list(sealed.values()), "batch": batch},
        )
        return {row[0] for row in found}

    async def failed(self, batch: str, codes: Mapping[str, str] | None, why: str) -> list[Item]:
        """These questions of a batch (None: all that have no answer) are asked alone from now on. Returns them."""
        which = "" if codes is None else "AND id = ANY(:ids)"
        query = sa.text(
            f"UPDATE llm_batch_requests SET state = 'failed', error = :why, sealed_request = NULL "  # noqa: S608 -- made of constants
            f"WHERE batch = :batch AND state = 'sent' {which} RETURNING {_ITEM}"
        )
        given: dict[str, Any] = {"batch": batch, "why": why}
        if codes is not None:
            given["ids"] = list(codes)
        async with self._at_once.connect() as connection:
            return [_item(row) for row in await connection.execute(query, given)]

    async def end(self, batch: str, from_: str, outcome: str, error: str) -> bool:
        """It is over; False when somebody else has said so."""
        answered, failed = (
            sa.select(sa.func.count()).where(requests.c.batch == batch, requests.c.state == state).scalar_subquery()
            for state in ("answered", "failed")
        )
        return await self.note(
            batch, from_, state="ended", outcome=outcome, error=error[:200], ended_at=sa.func.now(),
            answered=answered, failed=failed,
        )  # fmt: skip

    async def prune(self) -> None:
        """Forget answers that nobody took, and batches of long ago."""
        async with self._at_once.connect() as connection:
            await connection.execute(
                sa.text(
                    "DELETE FROM llm_batch_requests WHERE state IN ('answered', 'failed') AND "  # noqa: S608 -- a constant
                    f"coalesce(answered_at, due_at) < now() - interval '{KEPT_DAYS} days'"
                )
            )
            await connection.execute(
                sa.text(f"DELETE FROM llm_batches WHERE ended_at < now() - interval '{BATCHES_KEPT_DAYS} days'")  # noqa: S608 -- a constant
            )

    async def counts(self, asker: str | None = None) -> dict[str, int]:
        """Questions by state (of one asker)."""
        query = sa.select(requests.c.state, sa.func.count()).group_by(requests.c.state)
        if asker is not None:
            query = query.where(requests.c.asker == asker)
        async with self._at_once.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def batches_by_state(self) -> dict[str, int]:
        """Batches that are not over, by state."""
        query = sa.select(batches.c.state, sa.func.count()).where(batches.c.state != "ended").group_by(batches.c.state)
        async with self._at_once.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}


def _named(ref: RecordRef) -> dict[str, str]:
    return {"tenant": ref.tenant, "account": ref.account, "object": ref.object, "record_id": ref.id}


def _item(row: Sequence[Any]) -> Item:
    values = list(row)
    values[11] = bytes(values[11])
    values[12] = None if values[12] is None else bytes(values[12])
    return Item(*values)
