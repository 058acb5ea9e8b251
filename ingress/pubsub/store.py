"""What the database keeps of streams: how far each is, who owns it, its schemas, and what has to be read again.

Law: only who owns a stream moves it, and proves it with every write by the fence that it was given: a replica that hung while
another took over changes nothing any more. No connection is held between calls, so a pooler in transaction mode will do. Every method is
one transaction and raises what the database raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.database.tables import event_resyncs, event_schemas, event_streams
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.frame import Frame
from ingress.sources.source import Resync
from schemas.delivery import Delivery


class Fenced(Exception):  # noqa: N818 - it names a state
    """Another replica owns the stream by now."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A stream that is ours, as it stood when we took it."""

    endpoint: str
    owner: str
    fence: int
    replay_id: bytes | None
    heard_until: datetime | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A stream as an admin is shown it."""

    state: str
    detail: str
    last_event_at: datetime | None
    checkpoint_at: datetime | None
    heard_until: datetime | None
    events: int
    owned: bool
    resyncs: int
    """That are not done yet."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be read again."""

    id: int
    object: str
    cause: str
    since: datetime
    until: datetime
    position: str


_TAKE = sa.text(
    """
    INSERT INTO event_streams AS s (endpoint, owner, fence, owned_until)
    VALUES (:endpoint, :owner, 1, now() + make_interval(secs => :seconds))
    ON CONFLICT (endpoint) DO UPDATE
       SET owner = excluded.owner, fence = s.fence + 1, owned_until = excluded.owned_until
     WHERE s.owned_until IS NULL OR s.owned_until < now()
    RETURNING s.fence, s.replay_id, s.heard_until
    """
)
_OURS = "endpoint = :endpoint AND owner = :owner AND fence = :fence"
_HOLD = sa.text(
    # A lease that ran out unnoticed is still ours as long as nobody took it: the fence would be another.
    f"UPDATE event_streams SET owned_until = now() + make_interval(secs => :seconds) WHERE {_OURS} RETURNING 1"  # noqa: S608 - our own text
)
_LET_GO = sa.text(f"UPDATE event_streams SET owned_until = now(), owner = '' WHERE {_OURS}")  # noqa: S608 - our own text
_CHECKPOINT = sa.text(
    f"""
    UPDATE event_streams
       SET replay_id = :replay_id, checkpoint_at = now(), owned_until = now() + make_interval(secs => :seconds),
           events = events + :events, last_event_at = CASE WHEN :events > 0 THEN now() ELSE last_event_at END,
           heard_until = greatest(
             heard_until, CAST(:heard_until AS timestamptz), now() - make_interval(secs => CAST(:all_but AS double precision))
           )
     WHERE {_OURS} RETURNING heard_until
    """  # noqa: S608 - our own text
)
_STATE = sa.text(
    f"""
    UPDATE event_streams
       SET state = :state, detail = :detail, state_at = CASE WHEN state = :state THEN state_at ELSE now() END
     WHERE {_OURS} RETURNING 1
    """  # noqa: S608 - our own text
)
_FORGET = sa.text(
    f"UPDATE event_streams SET replay_id = NULL WHERE {_OURS} RETURNING 1"  # noqa: S608 - our own text
)


class StreamStore:
    """Safe for any number of tasks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    # ---------------------------------------------------------------- owning

    async def take(self, endpoint: str, owner: str, seconds: float) -> Owned | None:
        """Own a stream that nobody owns, for so long; None while somebody does."""
        async with self._engine.begin() as connection:
            values = {"endpoint": endpoint, "owner": owner, "seconds": seconds}
            row = (await connection.execute(_TAKE, values)).first()
        return None if row is None else Owned(endpoint, owner, row.fence, row.replay_id, row.heard_until)

    async def hold(self, owned: Owned, seconds: float) -> None:
        """Own it for so long from now; raises Fenced."""
        await self._as_owner(_HOLD, owned, seconds=seconds)

    async def let_go(self, owned: Owned) -> None:
        """Let another take it at once."""
        async with self._engine.begin() as connection:
            await connection.execute(_LET_GO, _proof(owned))

    # ---------------------------------------------------------------- moving

    async def checkpoint(
        self,
        owned: Owned,
        replay_id: bytes,
        *,
        events: int,
        heard_until: datetime | None,
        seconds: float,
        all_but: timedelta | None = None,
    ) -> datetime | None:
        """Kafka has acknowledged everything up to `replay_id`; raises Fenced.

        `heard_until`, by the CRM's clock: nothing that was committed before is missing (None: nobody can say more than before).
        `all_but`: the same of everything until so long ago, by the database's clock: a process whose own is ahead would take
        what is yet to come for heard. Returns until when nothing is missing now.
        """
        row = await self._as_owner(
            _CHECKPOINT,
            owned,
            replay_id=replay_id,
            events=events,
            heard_until=heard_until,
            all_but=None if all_but is None else all_but.total_seconds(),
            seconds=seconds,
        )
        until: datetime | None = row.heard_until
        return until

    async def note(self, owned: Owned, state: str, detail: str = "") -> None:
        """What an admin is shown; raises Fenced."""
        await self._as_owner(_STATE, owned, state=state, detail=detail)

    async def restart(self, endpoint: str) -> None:
        """Have a stream begin with the earliest event, whoever owns it now: a place in one channel means nothing in another."""
        table = event_streams
        values = {"replay_id": None, "fence": table.c.fence + 1, "owned_until": sa.func.now()}
        async with self._engine.begin() as connection:
            await connection.execute(table.update().where(table.c.endpoint == endpoint).values(**values))

    async def start_over(
        self, owned: Owned, account: str, objects: Sequence[str], *, since: datetime, until: datetime
    ) -> None:
        """Forget the place, which the bus no longer has, and ask for all objects to be read again; raises Fenced."""
        mark = hashlib.sha256(owned.replay_id or b"").hexdigest()[:32]
        async with self._engine.begin() as connection:
            if (await connection.execute(_FORGET, _proof(owned))).first() is None:
                raise Fenced
            rows = [(owned.endpoint, account, each, mark, "REPLAY_ID", since, until) for each in objects]
            await _ask(connection, rows)

    # ---------------------------------------------------------------- reading again

    async def ask(self, demands: Iterable[tuple[str, Resync, datetime]]) -> None:
        """Have objects read again: (endpoint, what, until). The same demand again changes nothing."""
        rows = [
            (
                endpoint,
                one.account,
                one.object,
                hashlib.sha256(one.key.encode()).hexdigest()[:32],
                one.cause,
                one.since,
                until,
            )
            for endpoint, one, until in demands
        ]
        async with self._engine.begin() as connection:
            await _ask(connection, rows)

    async def next_job(self, endpoint: str) -> Job | None:
        """The oldest that is not done."""
        table = event_resyncs
        statement = (
            sa.select(table)
            .where(table.c.endpoint == endpoint, table.c.done_at.is_(None))
            .order_by(table.c.id)
            .limit(1)
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(statement)).first()
        return None if row is None else Job(row.id, row.object, row.cause, row.since, row.until, row.position)

    async def advance(self, owned: Owned, job: Job, position: str | None, records: int) -> None:
        """So many more are announced; `position` None: it is done. Raises Fenced."""
        table = event_resyncs
        values: dict[str, Any] = {"records": table.c.records + records}
        values |= {"done_at": sa.func.now()} if position is None else {"position": position}
        async with self._engine.begin() as connection:
            proof = sa.text(f"SELECT 1 FROM event_streams WHERE {_OURS} FOR SHARE")  # noqa: S608 - our own text
            if (await connection.execute(proof, _proof(owned))).first() is None:
                raise Fenced
            await connection.execute(table.update().where(table.c.id == job.id).values(**values))

    # ---------------------------------------------------------------- showing

    async def standing(self, endpoint: str) -> Standing | None:
        """A stream as it stands; None for one that never ran."""
        open_ = (
            sa.select(sa.func.count())
            .where(event_resyncs.c.endpoint == endpoint, event_resyncs.c.done_at.is_(None))
            .scalar_subquery()
        )
        statement = sa.select(
            event_streams, open_.label("open"), (event_streams.c.owned_until > sa.func.now()).label("owned")
        ).where(event_streams.c.endpoint == endpoint)
        async with self._engine.connect() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            return None
        return Standing(
            row.state,
            row.detail,
            row.last_event_at,
            row.checkpoint_at,
            row.heard_until,
            row.events,
            bool(row.owned),
            row.open,
        )

    async def _as_owner(self, statement: sa.TextClause, owned: Owned, **values: Any) -> sa.Row[Any]:
        async with self._engine.begin() as connection:
            row = (await connection.execute(statement, {**_proof(owned), **values})).first()
        if row is None:
            raise Fenced
        return row


class SchemaStore:
    """Schemas by endpoint and fingerprint; `avro.KNOWN` is this process's memory of them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def keep(self, endpoint: str, schema_id: str, text: str) -> None:
        """Keep it for every process; before any event of it is published. Again changes nothing."""
        row = {"endpoint": endpoint, "schema_id": schema_id, "schema_json": text}
        async with self._engine.begin() as connection:
            await connection.execute(insert(event_schemas).values(row).on_conflict_do_nothing())

    async def load(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Have `avro.KNOWN` hold these, as far as they were kept; a text that is no schema is as if it were not kept."""
        missing = [pair for pair in dict.fromkeys(wanted) if KNOWN.get(*pair) is None]
        if not missing:
            return
        table = event_schemas
        statement = sa.select(table).where(sa.tuple_(table.c.endpoint, table.c.schema_id).in_(missing))
        async with self._engine.connect() as connection:
            rows = (await connection.execute(statement)).all()
        for row in rows:
            try:
                KNOWN.put(row.endpoint, row.schema_id, row.schema_json)
            except ValueError:
                continue

    async def prepare(self, deliveries: Sequence[Delivery]) -> None:
        """Load what these deliveries' events are written with."""
        wanted = []
        for each in deliveries:
            try:
                wanted.append((each.endpoint, Frame.unpack(each.body).schema_id))
            except ValueError:
                continue
        await self.load(wanted)


def _proof(owned: Owned) -> dict[str, Any]:
    return {"endpoint": owned.endpoint, "owner": owned.owner, "fence": owned.fence}


async def _ask(connection: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> None:
    names = ("endpoint", "account", "object", "mark", "cause", "since", "until")
    if rows:
        values = [dict(zip(names, row, strict=True)) for row in rows]
        await connection.execute(insert(event_resyncs).values(values).on_conflict_do_nothing())
