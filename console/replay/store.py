"""The table `replays`: what was planned, how far it is, what it used. It is also the audit of who replayed what.

Law: a replay's ranges are fixed by its plan. Whoever runs it holds its advisory lock, so that two runners never share one,
and a runner that died leaves none behind.
"""

from __future__ import annotations

import dataclasses
import getpass
import secrets
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from console.replay.filter import Filter
from console.runtime import ConsoleError
from infra.database.tables import replays
from processors.replay.candidate import Candidate

Mode = Literal["write", "shadow"]
State = Literal["planned", "running", "paused", "cancelling", "cancelled", "done", "failed"]
_LOCK_SPACE = 0x484C_5250
"""First half of the advisory locks of replays."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One row."""

    id: str
    tenant: str
    topic: str
    mode: Mode
    filter: Filter
    candidate: Candidate
    ranges: Mapping[int, range]
    state: State
    rate: float
    planned: Mapping[str, Any]
    used: Mapping[str, Any]
    records_done: int
    promoted_generation: int | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    seen_at: datetime | None
    ended_at: datetime | None
    error: str

    @property
    def group(self) -> str:
        """Its consumer group."""
        return f"hookline.replay.{self.id}"

    @property
    def promotes(self) -> str:
        """The shadow whose results it publishes; empty for every other replay."""
        return str(self.planned.get("promotes", ""))

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        times = ("created_at", "started_at", "seen_at", "ended_at")
        return {
            **{
                name: getattr(self, name) for name in ("id", "tenant", "topic", "mode", "state", "rate", "records_done")
            },
            "filter": self.filter.as_json(),
            "candidate": {name: value for name, value in self.candidate.as_json().items() if name != "prompt"},
            "ranges": {str(number): [span.start, span.stop] for number, span in self.ranges.items()},
            "planned": dict(self.planned),
            "used": dict(self.used),
            "promoted_generation": self.promoted_generation,
            "created_by": self.created_by,
            **{name: at.isoformat() if (at := getattr(self, name)) else None for name in times},
            "error": self.error,
        }


class Replays:
    """Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(
        self,
        *,
        topic: str,
        mode: Mode,
        filter: Filter,  # noqa: A002 -- the field's name
        candidate: Candidate,
        ranges: Mapping[int, range],
        rate: float,
    ) -> Replay:
        """A new one, in the state `planned`."""
        values = {
            "id": f"r{secrets.token_hex(4)}",
            "tenant": filter.tenant or (filter.ref.tenant if filter.ref else ""),
            "topic": topic,
            "mode": mode,
            "filter": filter.as_json(),
            "candidate": candidate.as_json(),
            "ranges": {str(number): [span.start, span.stop] for number, span in ranges.items()},
            "state": "planned",
            "rate": rate,
            "created_by": _user(),
        }
        async with self._engine.begin() as connection:
            row = (await connection.execute(replays.insert().values(values).returning(replays))).mappings().one()
        return _replay(row)

    async def get(self, id: str) -> Replay:  # noqa: A002 -- the field's name
        """Raises ConsoleError for an unknown one."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(sa.select(replays).where(replays.c.id == id))).mappings().first()
        if row is None:
            raise ConsoleError(f"no replay {id!r}: `hookline replay list` shows those that exist")
        return _replay(row)

    async def all(self, tenant: str = "") -> list[Replay]:
        """Newest first."""
        asked = sa.select(replays).order_by(replays.c.created_at.desc(), replays.c.id)
        if tenant:
            asked = asked.where(replays.c.tenant == tenant)
        async with self._engine.connect() as connection:
            return [_replay(row) for row in (await connection.execute(asked)).mappings()]

    async def update(self, id: str, *, only_from: tuple[State, ...] = (), **values: Any) -> bool:  # noqa: A002 -- the field's name
        """Change columns; with `only_from` only in these states. Returns whether it did."""
        statement = replays.update().where(replays.c.id == id).values(**values)
        if only_from:
            statement = statement.where(replays.c.state.in_(only_from))
        async with self._engine.begin() as connection:
            return bool((await connection.execute(statement)).rowcount)

    async def standing(self, replay: Replay) -> Replay:
        """The same, but `paused` where its runner died without a word."""
        if replay.state not in {"running", "cancelling"} or await self.is_running(replay.id):
            return replay
        return dataclasses.replace(replay, state="paused", error=replay.error or "its runner died")

    async def drop(self, id: str) -> None:  # noqa: A002 -- the field's name
        """Forget a plan that came to nothing."""
        async with self._engine.begin() as connection:
            await connection.execute(replays.delete().where(replays.c.id == id, replays.c.state == "planned"))

    async def alive(self, id: str, **values: Any) -> None:  # noqa: A002 -- the field's name
        """A sign of life of its runner, with how far it is."""
        await self.update(id, seen_at=sa.func.now(), **values)

    @asynccontextmanager
    async def running(self, id: str) -> AsyncIterator[None]:  # noqa: A002 -- the field's name
        """Hold the replay's lock; raises ConsoleError when somebody else does."""
        async with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            place = {"space": _LOCK_SPACE, "id": zlib.crc32(id.encode()) - 2**31}
            held = await connection.scalar(sa.text("SELECT pg_try_advisory_lock(:space, :id)"), place)
            if not held:
                raise ConsoleError(
                    f"replay {id} is running already: `hookline replay show {id}` tells how far it is, "
                    f"`hookline replay cancel {id}` ends it"
                )
            try:
                yield
            finally:
                await connection.execute(sa.text("SELECT pg_advisory_unlock(:space, :id)"), place)

    async def is_running(self, id: str) -> bool:  # noqa: A002 -- the field's name
        """Whether a runner that lives holds it."""
        try:
            async with self.running(id):
                return False
        except ConsoleError:
            return True


def _replay(row: Mapping[Any, Any]) -> Replay:
    given = dict(row)
    return Replay(
        **{
            **given,
            "filter": Filter.of(given["filter"]),
            "candidate": Candidate.of(given["candidate"]),
            "ranges": {int(number): range(*span) for number, span in given["ranges"].items()},
        }
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
