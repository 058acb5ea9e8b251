"""Keys of the HTTP API: made once, shown once, kept as a digest.

Law: a key belongs to one tenant and has one role; what is stored cannot be turned back into a key, and comparing takes the
same time whatever is given. A key is 256 random bits, so a keyed digest (HMAC-SHA-256 under a salt of its own) is enough: a
slow hash defends words that people choose, not these.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets as random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts.identity import RegistryError
from infra.database.tables import api_keys

KeyRole = Literal["viewer", "engineer", "admin"]
ROLES: tuple[KeyRole, ...] = ("viewer", "engineer", "admin")
"""Each may do what those before it may."""
_FORM = re.compile(r"hlk_([A-Za-z0-9]{12})_([A-Za-z0-9_-]{43})")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_NOBODY = (bytes(16), bytes(32))
"""Compared with where there is no such key, so that the answer takes as long."""
USED_EVERY_SECONDS = 60.0
"""`last_used_at` is written at most so often: a busy key must not be a busy row."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; never the key."""

    id: str
    tenant: str
    name: str
    role: KeyRole
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def may(self, role: KeyRole) -> bool:
        """Whether it has that role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def state(self, now: datetime | None = None) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= (now or datetime.now(UTC)) else "active"


class ApiKeys:
    """The table of keys. Every method raises what the database raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(
        self, tenant: str, role: str, *, name: str = "", expires_at: datetime | None = None, by: str = ""
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is nowhere afterwards.

        Raises:
            RegistryError: unknown tenant or role, or an end that is past.
        """
        if role not in ROLES:
            raise RegistryError(f"role {role!r}: choose one of {', '.join(ROLES)}")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise RegistryError("a key that has expired already is of no use: give an end that is to come")
        identity = "".join(random.choice(_LETTERS) for _ in range(12))
        secret, salt = random.token_urlsafe(32), random.token_bytes(16)
        statement = api_keys.insert().values(
            id=identity,
            tenant=tenant,
            name=name,
            role=role,
            salt=salt,
            digest=_digest(salt, secret),
            expires_at=expires_at,
            created_by=by,
        )
        try:
            async with self._engine.begin() as connection:
                row = (await connection.execute(statement.returning(api_keys))).one()
        except IntegrityError:
            raise RegistryError(f"tenant {tenant!r} is not known: add it with `hookline tenant add {tenant}`") from None
        return _key(row), f"hlk_{identity}_{secret}"

    async def all(self, tenant: str = "") -> list[ApiKey]:
        """Of one tenant or of all, oldest first."""
        statement = sa.select(api_keys).order_by("created_at", "id")
        if tenant:
            statement = statement.where(api_keys.c.tenant == tenant)
        async with self._engine.connect() as connection:
            return [_key(row) for row in await connection.execute(statement)]

    async def revoke(self, id: str, *, tenant: str = "") -> ApiKey:  # noqa: A002 - the column's name
        """End a key, at once and for good; again changes nothing. Raises RegistryError where the tenant has none such."""
        statement = (
            api_keys.update()
            .where(api_keys.c.id == id, api_keys.c.tenant == tenant if tenant else sa.true())
            .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, sa.func.now()))
            .returning(api_keys)
        )
        async with self._engine.begin() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise RegistryError(f"there is no key {id!r}: see `hookline key list`")
        return _key(row)

    async def whose(self, text: str) -> ApiKey | None:
        """The key that `text` is, if it is one that counts now; notes that it was used."""
        match = _FORM.fullmatch(text)
        identity, secret = (match[1], match[2]) if match else ("", "")
        async with self._engine.connect() as connection:
            row = (await connection.execute(sa.select(api_keys).where(api_keys.c.id == identity))).first()
        salt, digest = (row.salt, row.digest) if row is not None else _NOBODY
        same = hmac.compare_digest(_digest(salt, secret), digest)
        if row is None or not same:
            return None
        key, now = _key(row), datetime.now(UTC)
        if key.state(now) != "active":
            return None
        if key.last_used_at is None or (now - key.last_used_at).total_seconds() > USED_EVERY_SECONDS:
            async with self._engine.begin() as connection:
                await connection.execute(
                    api_keys.update().where(api_keys.c.id == key.id).values(last_used_at=sa.func.now())
                )
        return key


def _digest(salt: bytes, secret: str) -> bytes:
    return hmac.digest(salt, secret.encode(), hashlib.sha256)


def _key(row: Any) -> ApiKey:
    return ApiKey(
        row.id, row.tenant, row.name, row.role, row.created_at, row.created_by, row.expires_at, row.last_used_at,
        row.revoked_at,
    )  # fmt: skip
