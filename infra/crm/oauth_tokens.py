"""Access tokens that all processes share, renewed by one of them at a time.

Law: a refresh token may be good once (the CRM may rotate it), so of all replicas one renews, under a lock in Redis; without
Redis the lock is PostgreSQL's. A rotated refresh token is in the database before the access token that came with it is used.
Redis holds access tokens sealed, as a cache. Only a refusal of the newest refresh token counts as a revocation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import Account, Registry
from infra.crm.oauth import Grant, GrantRefused, TokenEndpointAway
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.redis import build_redis
from infra.settings import Settings
from infra.telemetry import log

RENEW_BEFORE_SECONDS = 60.0
"""Ahead of the end that `expires_in` names, so that no call leaves with a token that ends on its way."""
UNKNOWN_LIFE_SECONDS = 1_800.0
"""Salesforce does not say how long a token lasts: the org's session settings decide. A refusal ends it sooner."""
LOCK_SECONDS = 60.0
"""Longer than a renewal with its retries; a process that dies holding the lock delays the others by so much."""
WAIT_SECONDS = 40.0
LOOK_EVERY_SECONDS = 0.1
_LOCK_SPACE = 0x484C_4F41
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"

Ask = Callable[[Account, str], Awaitable[Grant]]
"""Puts a refresh token to the CRM; raises GrantRefused and what else its caller understands."""


@dataclass(frozen=True, slots=True)
class Access:
    """An access token, and until when (seconds since 1970) it counts."""

    token: str = field(repr=False)
    until: float
    instance_url: str = ""

    def lasts(self) -> bool:
        """Whether it can still be used for a call."""
        return time.time() < self.until - RENEW_BEFORE_SECONDS


class Tokens(Protocol):
    """Where access tokens come from. Safe for any number of tasks of one event loop."""

    async def renewed(self, account: Account, refused: str, ask: Ask) -> Access:
        """An access token other than `refused`: another's if there is a fresh one, else a new one by `ask`.

        Raises GrantRefused when the account has to be connected anew, TokenEndpointAway, and what `ask` raises.
        """
        ...

    async def close(self) -> None:
        """Close connections; may be called twice."""
        ...


def build_tokens(settings: Settings) -> Tokens:
    """Shared ones where the settings name a database; else this process's own, for tools that have none. Opens nothing yet."""
    return SharedTokens(settings) if settings.database_url and settings.master_keys else OwnTokens()


class OwnTokens:
    """Of one process without a database: rotated refresh tokens are lost with it."""

    def __init__(self) -> None:
        self._rotated: dict[str, tuple[str, str]] = {}

    async def renewed(self, account: Account, refused: str, ask: Ask) -> Access:  # noqa: ARG002 - the protocol's
        """See Tokens."""
        given = str((account.credentials or {}).get("refresh_token") or "")
        first, newest = self._rotated.get(account.id, (given, given))
        used = newest if first == given else given
        grant = await ask(account, used)
        if grant.refresh_token and grant.refresh_token != used:
            self._rotated[account.id] = (given, grant.refresh_token)
        return _access(grant)

    async def close(self) -> None:
        """See Tokens."""


class SharedTokens:
    """Of all processes on these servers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[AsyncEngine, Keyring, Registry, Redis | None] | None = None
        self._unsaved: dict[str, tuple[str, str]] = {}
        """Rotated while the database was away: (used, new). Saved before anything else is done for the account."""
        self._log = log("oauth")

    async def close(self) -> None:
        """See Tokens."""
        if self._opened is not None:
            engine, _, __, redis = self._opened
            self._opened = None
            if redis is not None:
                await redis.aclose()
            await engine.dispose()

    async def renewed(self, account: Account, refused: str, ask: Ask) -> Access:
        """See Tokens."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = await self.cached(account.id)
            if found is not None and found.token != refused and found.lasts():
                return found
            async with self._lock(account.id) as held:
                if held:
                    # Between our look and our turn somebody may have renewed it.
                    found = await self.cached(account.id)
                    if found is not None and found.token != refused and found.lasts():
                        return found
                    return await self._renew(account, ask)
            if time.monotonic() > deadline:
                raise TokenEndpointAway("another process has been renewing this account's token for too long")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def cached(self, account: str) -> Access | None:
        """What the processes share now, if Redis is there."""
        _, keyring, __, redis = self._parts()
        if redis is None:
            return None
        try:
            sealed = await redis.get(_key(account))
        except (RedisError, OSError):
            return None
        if not sealed:
            return None
        with contextlib.suppress(Exception):  # sealed under a master key that is gone: as if there were none
            value = sealed.encode() if isinstance(sealed, str) else sealed
            return Access(**json.loads(keyring.open_secret(value, purpose=_key(account))))
        return None

    async def share(self, account: str, grant: Grant) -> Access:
        """Let all processes have it; Redis away, it stays here."""
        _, keyring, __, redis = self._parts()
        access = _access(grant)
        if redis is not None:
            value = json.dumps({"token": access.token, "until": access.until, "instance_url": access.instance_url})
            sealed = keyring.seal_secret(value.encode(), purpose=_key(account))
            with contextlib.suppress(RedisError, OSError):
                await redis.set(_key(account), sealed, px=max(1_000, int((access.until - time.time()) * 1000)))
        return access

    async def forget(self, account: str) -> None:
        """Drop the shared token, e.g. because the account was connected anew."""
        redis = self._parts()[3]
        if redis is not None:
            with contextlib.suppress(RedisError, OSError):
                await redis.delete(_key(account))

    async def _renew(self, account: Account, ask: Ask) -> Access:
        newest = await self._newest(account)
        used = _refresh_token(newest)
        try:
            grant = await ask(newest, used)
        except GrantRefused:
            # Somebody without our lock (it ran out, Redis was restarted) may have been quicker: then ours is the old one.
            again = await self._newest(account)
            if _refresh_token(again) == used:
                raise
            newest, used = again, _refresh_token(again)
            grant = await ask(newest, used)
        if grant.refresh_token and grant.refresh_token != used:
            self._unsaved[account.id] = (used, grant.refresh_token)
            await self._save(account.id)
        return await self.share(account.id, grant)

    async def _newest(self, account: Account) -> Account:
        await self._save(account.id)
        try:
            return await self._parts()[2].account(account.id)
        except (SQLAlchemyError, OSError) as error:
            raise TokenEndpointAway(f"the database is away ({type(error).__name__})") from None

    async def _save(self, account: str) -> None:
        pair = self._unsaved.get(account)
        if pair is None:
            return
        for wait in (0.2, 1.0, 3.0, None):
            try:
                await self._parts()[2].rotate_refresh_token(account, *pair)
            except (SQLAlchemyError, OSError) as error:
                if wait is None:
                    self._log.error("refresh_token_unsaved", account=account, error=type(error).__name__)
                    raise TokenEndpointAway("the database is away, and a rotated token is not saved yet") from None
                await asyncio.sleep(wait)
            else:
                del self._unsaved[account]
                return

    def _parts(self) -> tuple[AsyncEngine, Keyring, Registry, Redis | None]:
        if self._opened is None:
            # Of its own and small: it is used every half hour, and must not wait behind a role's work.
            engine = build_engine(self._settings.model_copy(update={"database_pool": 2}))
            assert self._settings.master_keys is not None
            keyring = Keyring(engine, self._settings.master_keys)
            redis = build_redis(self._settings) if self._settings.redis_url else None
            self._opened = engine, keyring, Registry(engine, keyring), redis
        return self._opened

    @asynccontextmanager
    async def _lock(self, account: str) -> AsyncIterator[bool]:
        engine, _, __, redis = self._parts()
        if redis is not None:
            name, owner = f"{_key(account)}:lock", secrets.token_hex(16)
            try:
                held = bool(await redis.set(name, owner, nx=True, px=int(LOCK_SECONDS * 1000)))
            except (RedisError, OSError):
                redis = None
            else:
                try:
                    yield held
                finally:
                    if held:
                        with contextlib.suppress(RedisError, OSError):
                            released: Any = redis.eval(_RELEASE, 1, name, owner)
                            await released
                return
        place = {"space": _LOCK_SPACE, "id": zlib.crc32(account.encode()) - 2**31}
        try:
            connection = await engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        except (SQLAlchemyError, OSError) as error:
            raise TokenEndpointAway(f"neither Redis nor the database is there ({type(error).__name__})") from None
        try:
            held = bool(await connection.scalar(sa.text("SELECT pg_try_advisory_lock(:space, :id)"), place))
            try:
                yield held
            finally:
                if held:
                    await connection.execute(sa.text("SELECT pg_advisory_unlock(:space, :id)"), place)
        finally:
            await connection.close()


def _access(grant: Grant) -> Access:
    lasts = UNKNOWN_LIFE_SECONDS if grant.expires_in is None else grant.expires_in
    return Access(grant.access_token, time.time() + lasts, grant.instance_url)


def _refresh_token(account: Account) -> str:
    found = (account.credentials or {}).get("refresh_token")
    if not found:
        raise GrantRefused("no_refresh_token")
    return str(found)


def _key(account: str) -> str:
    return f"hl:oauth:{account}"
