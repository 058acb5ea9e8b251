"""Virtual keys: who may ask models through the server, for which tenant, with which scopes.

Law: a key is shown once and kept as a digest; it belongs to one tenant. The view answers from memory, so that a request
costs no trip; what another process changed is taken up within two seconds, a key that nobody knows is looked for at once.
Postgres away: what was known holds, expiry included. A key is 256 random bits, so a plain SHA-256 keeps it: a slow hash
defends words that people choose, not these.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import llm_keys
from infra.telemetry import log
from llm_gateway.prompt import Lane

Scope = Literal["chat", "batch"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LANES: tuple[Lane, ...] = ("interactive", "live", "bulk")
"""Best first."""
READ_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.25
"""An unknown key may have been made this moment: it is looked for, but not more often than this."""
_LOOK_BACK = timedelta(seconds=30)
"""Changes are read again for this long: a transaction may become visible later than its time says."""
_WHOLE_EVERY_SECONDS = 300.0
_FORM = re.compile(rb"hgk_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"


class KeyRefused(ValueError):  # noqa: N818 -- reads as what happened
    """This key cannot be made or changed so; the text says why."""


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """What is known of a key; never the key."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]
    models: frozenset[str]
    """Empty: all."""
    lane: Lane
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    expires: float = float("inf")
    """`expires_at` in seconds since 1970."""

    def state(self, now: datetime | None = None) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= (now or datetime.now(UTC)) else "active"


class VirtualKeys:
    """The table. Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: Collection[str] = ("chat",),
        models: Collection[str] = (),
        lane: str = "interactive",
        expires_at: datetime | None = None,
        by: str = "",
    ) -> tuple[VirtualKey, str]:
        """A new key and its text, which is nowhere afterwards. Raises KeyRefused."""
        if wrong := sorted(set(scopes) - set(SCOPES)):
            raise KeyRefused(f"scope {', '.join(wrong)} is not known: choose of {', '.join(SCOPES)}")
        if not scopes:
            raise KeyRefused(f"a key without scope may do nothing: choose of {', '.join(SCOPES)}")
        if lane not in LANES:
            raise KeyRefused(f"priority {lane!r} is not known: choose one of {', '.join(LANES)}")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise KeyRefused("a key that has expired already is of no use: give an end that is to come")
        identity = "".join(secrets.choice(_LETTERS) for _ in range(12))
        text = f"hgk_{identity}_{secrets.token_urlsafe(32)}"
        statement = llm_keys.insert().values(
            id=identity, tenant=tenant, name=name, digest=_digest(text.encode()), scopes=sorted(set(scopes)),
            models=sorted(set(models)), lane=lane, expires_at=expires_at, created_by=by,
        )  # fmt: skip
        try:
            async with self._engine.begin() as connection:
                row = (await connection.execute(statement.returning(llm_keys))).one()
        except IntegrityError:
            raise KeyRefused(f"tenant {tenant!r} is not known: add it with `hookline tenant add {tenant}`") from None
        return _key(row), text

    async def all(self, tenant: str = "") -> list[VirtualKey]:
        """Of one tenant or of all, oldest first."""
        statement = sa.select(llm_keys).order_by("created_at", "id")
        if tenant:
            statement = statement.where(llm_keys.c.tenant == tenant)
        async with self._engine.connect() as connection:
            return [_key(row) for row in await connection.execute(statement)]

    async def rotate(self, id: str, *, grace: timedelta, by: str = "") -> tuple[VirtualKey, str]:  # noqa: A002 -- the column's name
        """Another key with the same rights; the old one ends after `grace`, or earlier if it was to. Raises KeyRefused."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(sa.select(llm_keys).where(llm_keys.c.id == id))).first()
        if row is None or _key(row).state() != "active":
            raise KeyRefused(f"there is no active key {id!r}: see `hookline gateway keys list`")
        old, until = _key(row), datetime.now(UTC) + grace
        made = await self.create(
            old.tenant, name=old.name, scopes=old.scopes, models=old.models, lane=old.lane, by=by,
            # It lasts as long as the old one was meant to, from now on.
            expires_at=old.expires_at and datetime.now(UTC) + (old.expires_at - old.created_at),
        )  # fmt: skip
        end = min(until, old.expires_at) if old.expires_at else until
        async with self._engine.begin() as connection:
            await connection.execute(
                llm_keys.update().where(llm_keys.c.id == id).values(expires_at=end, changed_at=sa.func.now())
            )
        return made

    async def revoke(self, id: str) -> VirtualKey:  # noqa: A002 -- as above
        """End a key for good; again changes nothing. Raises KeyRefused."""
        statement = (
            llm_keys.update()
            .where(llm_keys.c.id == id)
            .values(revoked_at=sa.func.coalesce(llm_keys.c.revoked_at, sa.func.now()), changed_at=sa.func.now())
            .returning(llm_keys)
        )
        async with self._engine.begin() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise KeyRefused(f"there is no key {id!r}: see `hookline gateway keys list`")
        return _key(row)


class KeyView:
    """All keys in memory, by digest. `start` before `whose`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._by_digest: dict[bytes, VirtualKey] = {}
        self._newest: datetime | None = None
        self._read_at = 0.0
        self._whole_at = 0.0
        self._reading: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read now, and go on reading; a database that is away is read when it is there."""
        if not await self._read():
            log("llm_gateway").warning("virtual_keys_not_read", next="no key is known until the database answers")
        self._task = asyncio.create_task(self._run(), name="llm-keys")

    async def stop(self) -> None:
        """Stop reading; may be called twice."""
        for task in (self._task, self._reading):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._task = self._reading = None

    def known(self, text: bytes, now: float) -> VirtualKey | None:
        """The active key that `text` is, from memory; `now` in seconds since 1970."""
        key = self._by_digest.get(_digest(text))
        return key if key is not None and key.revoked_at is None and key.expires > now else None

    async def whose(self, text: bytes, now: float) -> VirtualKey | None:
        """The same; one that is not known is looked for."""
        found = self.known(text, now)
        if found is not None or not _FORM.fullmatch(text) or _digest(text) in self._by_digest:
            return found
        # A reading that was under way may have begun before the key was made: then one more.
        for joined in (self._reading is not None, False):
            if self._reading is None:
                self._reading = asyncio.create_task(self._look_again())
                self._reading.add_done_callback(self._over)
            await asyncio.shield(self._reading)
            if not joined:
                break
        return self.known(text, now)

    def _over(self, _task: asyncio.Task[bool]) -> None:
        self._reading = None

    async def _look_again(self) -> bool:
        await asyncio.sleep(max(0.0, self._read_at + _LOOK_AGAIN_SECONDS - asyncio.get_running_loop().time()))
        return await self._read()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            await self._read()

    async def _read(self) -> bool:
        now = asyncio.get_running_loop().time()
        whole = self._newest is None or now - self._whole_at > _WHOLE_EVERY_SECONDS
        statement = sa.select(llm_keys)
        if not whole and self._newest is not None:
            statement = statement.where(llm_keys.c.changed_at > self._newest - _LOOK_BACK)
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(statement)).all()
                at = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        except (SQLAlchemyError, OSError):
            return False
        found = {bytes(row.digest): _key(row) for row in rows}
        if whole:
            # A tenant that is deleted takes its keys along: those are missed here alone.
            self._by_digest, self._whole_at = found, now
        else:
            self._by_digest.update(found)
        self._newest, self._read_at = at, asyncio.get_running_loop().time()
        return True


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(b"hookline gateway key\0" + text).digest()


def _key(row: Any) -> VirtualKey:
    return VirtualKey(
        row.id, row.tenant, row.name, frozenset(row.scopes), frozenset(row.models), row.lane, row.created_at,
        row.expires_at, row.revoked_at, row.expires_at.timestamp() if row.expires_at else float("inf"),
    )  # fmt: skip
