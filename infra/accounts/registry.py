"""What the database says of tenants, endpoints and accounts, and the only place that changes it.

Law: secrets and credentials are sealed before they reach the database, each for its own row.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.accounts.identity import Account, Endpoint, RegistryError, Secret, State, account_id
from infra.accounts.unguessable import unguessable
from infra.accounts.weakness import weakness
from infra.database.tables import accounts, endpoint_accounts, endpoint_secrets, endpoints, set_aside, tenants

JUST_CONNECTED_SECONDS = 3.0
"""Longer than any process goes on with credentials that were replaced: see `Directory`. What is set aside for a disconnected account
is due after so long: nobody tries it before it is connected, and who set it aside may have looked a moment too early.
"""
EXPIRED_KEPT_SECONDS = 7 * 86_400
"""How long an expired secret is still listed, for whoever looks into a refusal of last week."""
MAX_OVERLAP_SECONDS = 90 * 86_400
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SecretSealer(Protocol):
    """What we need of the keyring: seals under the master key, for `purpose` alone. Neither method blocks."""

    def seal_secret(self, plaintext: bytes, *, purpose: str) -> bytes:
        """Seal it."""
        ...

    def open_secret(self, sealed: bytes, *, purpose: str) -> bytes:
        """Open it; raises when the master key or the purpose is another."""
        ...


class Registry:
    """Reads and writes the tables of tenants, endpoints and accounts. Every method is one transaction."""

    def __init__(self, engine: AsyncEngine, sealer: SecretSealer) -> None:
        self._engine = engine
        self._sealer = sealer

    async def add_tenant(self, tenant: str, name: str = "") -> None:
        """Register a tenant; again with the same id renames it.

        Raises:
            RegistryError: the id is not lower-case letters, digits, `-` or `_`, 63 at most.
        """
        if not _TENANT.fullmatch(tenant):
            raise RegistryError(
                f"tenant {tenant!r}: use lower-case letters, digits, - and _, starting with a letter or digit"
            )
        statement = insert(tenants).values(id=tenant, name=name or tenant)
        async with self._engine.begin() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["id"], set_={"name": statement.excluded.name})
            )

    async def tenants(self) -> dict[str, str]:
        """All tenants: id → name."""
        async with self._engine.connect() as connection:
            return {
                row.id: row.name
                for row in await connection.execute(sa.select(tenants.c.id, tenants.c.name).order_by("id"))
            }

    async def add_endpoint(
        self,
        tenant: str,
        source: str,
        name: str = "",
        config: Mapping[str, Any] | None = None,
        secret: str | bytes | None = None,
        *,
        known_sources: Collection[str] | None = None,
        accounts: Sequence[str] = (),
    ) -> Endpoint:
        """Register where a sender delivers.

        Args:
            tenant: whose it is.
            source: the dialect, a plug-in's name of ingress/sources.
            name: for people.
            config: what the source needs, e.g. `{"app_id": "123"}`.
            secret: what the sender signs with; one of 256 bits is made where none is given.
            known_sources: names to choose from; not checked where None.
            accounts: account ids that it may speak for, already registered.

        Raises:
            RegistryError: unknown tenant, source or account.
        """
        if known_sources is not None and source not in known_sources:
            raise RegistryError(f"source {source!r} is not known: choose one of {', '.join(sorted(known_sources))}")
        identity = unguessable(24)
        async with self._change() as connection:
            await self._need_tenant(connection, tenant)
            await connection.execute(
                endpoints.insert().values(
                    id=identity, tenant=tenant, source=source, name=name or source, config=dict(config or {})
                )
            )
            await self._insert_secret(connection, identity, secret)
            for account in accounts:
                await self._connect(connection, identity, tenant, account_id(account))
        return await self.endpoint(identity)

    async def rotate_secret(
        self, endpoint: str, secret: str | bytes | None = None, *, overlap_seconds: float = 86_400
    ) -> Endpoint:
        """Give the endpoint a new secret; the old ones stay valid for `overlap_seconds`, so that no delivery is refused.

        Secrets that expired more than `EXPIRED_KEPT_SECONDS` ago are deleted.

        Raises:
            RegistryError: unknown endpoint, a negative overlap, or a secret that is none (see `weakness`).
        """
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise RegistryError(
                f"an overlap of {overlap_seconds:g} s: give 0 to {MAX_OVERLAP_SECONDS} s ({MAX_OVERLAP_SECONDS // 86_400} days)"
            )
        async with self._change() as connection:
            await self._need_endpoint(connection, endpoint)
            await connection.execute(
                endpoint_secrets.delete().where(
                    endpoint_secrets.c.endpoint == endpoint,
                    endpoint_secrets.c.valid_until
                    < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, EXPIRED_KEPT_SECONDS),
                )
            )
            ends = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, overlap_seconds)
            await connection.execute(
                endpoint_secrets.update()
                .where(endpoint_secrets.c.endpoint == endpoint)
                .values(valid_until=sa.func.least(sa.func.coalesce(endpoint_secrets.c.valid_until, ends), ends))
            )
            await self._insert_secret(connection, endpoint, secret)
        return await self.endpoint(endpoint)

    async def configure_endpoint(self, endpoint: str, config: Mapping[str, Any]) -> Endpoint:
        """Replace what the endpoint's source and its conditions are configured with; in force everywhere within two seconds."""
        async with self._change() as connection:
            await self._need_endpoint(connection, endpoint)
            await connection.execute(
                endpoints.update()
                .where(endpoints.c.id == endpoint)
                .values(config=dict(config), changed_at=sa.func.now())
            )
        return await self.endpoint(endpoint)

    async def enable_endpoint(self, endpoint: str, enabled: bool) -> None:
        """Open or close it; a closed one refuses with ENDPOINT_DISABLED."""
        async with self._change() as connection:
            await self._need_endpoint(connection, endpoint)
            await connection.execute(
                endpoints.update().where(endpoints.c.id == endpoint).values(enabled=enabled, changed_at=sa.func.now())
            )

    async def allow(self, endpoint: str, account: str) -> None:
        """Let the endpoint speak for an account of the same tenant; again changes nothing.

        Raises:
            RegistryError: one of them is unknown, or they belong to different tenants.
        """
        async with self._change() as connection:
            tenant = await self._need_endpoint(connection, endpoint)
            await self._connect(connection, endpoint, tenant, account_id(account))

    async def add_account(  # noqa: PLR0917 - read in the order in which an admin gives them
        self,
        tenant: str,
        crm: str,
        id: str,  # noqa: A002 - the contract's name
        name: str = "",
        config: Mapping[str, Any] | None = None,
        credentials: Mapping[str, Any] | None = None,
        endpoints: Sequence[str] = (),
    ) -> Account:
        """Register a CRM org, or give a registered one of the same tenant new credentials and make it active again.

        What was set aside while it was disconnected is due at once then.

        Raises:
            RegistryError: malformed id, unknown tenant or endpoint, or another tenant has it.
        """
        identity = account_id(id)
        if identity.partition(":")[0] != crm:
            raise RegistryError(f"account {id!r} is not of {crm}: write {crm}:<id>")
        sealed = (
            None
            if credentials is None
            else self._sealer.seal_secret(_pack(credentials), purpose=_credentials_of(identity))
        )
        async with self._change() as connection:
            await self._need_tenant(connection, tenant)
            before = await connection.scalar(
                sa.select(accounts.c.state).where(accounts.c.id == identity).with_for_update()
            )
            statement = insert(accounts).values(
                id=identity,
                tenant=tenant,
                crm=crm,
                name=name or identity,
                config=dict(config or {}),
                sealed_credentials=sealed,
            )
            done = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["id"],
                    set_={
                        "name": statement.excluded.name,
                        "config": statement.excluded.config,
                        "sealed_credentials": sa.func.coalesce(
                            statement.excluded.sealed_credentials, accounts.c.sealed_credentials
                        ),
                        "state": "active",
                        "state_reason": "",
                        "changed_at": sa.func.now(),
                    },
                    where=accounts.c.tenant == tenant,
                ).returning(accounts.c.id)
            )
            if done.first() is None:
                raise RegistryError(
                    f"account {identity} belongs to another tenant already: an org has one tenant; remove it there first"
                )
            if before == "disconnected":
                await self._due_now(connection, identity)
            for endpoint in endpoints:
                of = await self._need_endpoint(connection, endpoint)
                await self._connect(connection, endpoint, of, identity)
        return await self.account(identity)

    async def reconnect(
        self, account: str, credentials: Mapping[str, Any], config: Mapping[str, Any] | None = None
    ) -> Account:
        """Give a registered account credentials that work, and make it active: what was set aside for it is due at once.

        `config` is merged into what is there. Raises RegistryError for an unknown account.
        """
        identity = account_id(account)
        sealed = self._sealer.seal_secret(_pack(credentials), purpose=_credentials_of(identity))
        async with self._change() as connection:
            done = await connection.execute(
                accounts.update()
                .where(accounts.c.id == identity)
                .values(
                    sealed_credentials=sealed,
                    config=accounts.c.config.op("||")(sa.cast(dict(config or {}), JSONB)),
                    state="active",
                    state_reason="",
                    changed_at=sa.func.now(),
                )
            )
            if done.rowcount == 0:
                raise RegistryError(f"account {account!r} is not known: see `hookline account list`")
            await self._due_now(connection, identity)
        return await self.account(identity)

    async def rotate_refresh_token(self, account: str, used: str, new: str) -> bool:
        """Put the refresh token that the CRM gave in place of the one that it ended by that.

        Returns:
            False: the account has another one by now (it was connected anew), which stays.
        """
        async with self._change() as connection:
            row = (
                await connection.execute(
                    sa.select(accounts.c.sealed_credentials).where(accounts.c.id == account).with_for_update()
                )
            ).first()
            opened = None if row is None or row[0] is None else self._opened(row[0], _credentials_of(account))
            given = {} if opened is None else json.loads(opened)
            if given.get("refresh_token") != used:
                return False
            sealed = self._sealer.seal_secret(_pack({**given, "refresh_token": new}), purpose=_credentials_of(account))
            await connection.execute(
                accounts.update()
                .where(accounts.c.id == account)
                .values(sealed_credentials=sealed, changed_at=sa.func.now())
            )
            return True

    async def set_credentials(self, account: str, credentials: Mapping[str, Any]) -> None:
        """Replace the credentials, e.g. after the CRM rotated a refresh token."""
        sealed = self._sealer.seal_secret(_pack(credentials), purpose=_credentials_of(account))
        await self._update_account(account, sealed_credentials=sealed, changed_at=sa.func.now())

    async def set_account_state(self, account: str, state: State, reason: str = "") -> None:
        """Mark it active or disconnected, with the reason that an admin reads."""
        await self._update_account(account, state=state, state_reason=reason, changed_at=sa.func.now())

    async def disconnect(self, account: str, reason: str) -> bool:
        """Mark it disconnected because the CRM refused its credentials, unless they were changed a moment ago.

        Returns:
            False: it was connected anew within the last seconds, and the call that was refused may still have been made
            with the credentials before. Try again shortly.
        """
        settled = accounts.c.changed_at < sa.func.now() - sa.func.make_interval(
            0, 0, 0, 0, 0, 0, JUST_CONNECTED_SECONDS
        )
        async with self._change() as connection:
            done = await connection.execute(
                accounts.update()
                .where(accounts.c.id == account, sa.or_(settled, accounts.c.state == "disconnected"))
                .values(state="disconnected", state_reason=reason, changed_at=sa.func.now())
                .returning(accounts.c.id)
            )
            return done.first() is not None

    async def touch(
        self, account: str, *, last_delivery_at: datetime | None = None, last_insight_at: datetime | None = None
    ) -> None:
        """Note when something last came or went; never moves a time back. An unknown account is passed over."""
        given = {"last_delivery_at": last_delivery_at, "last_insight_at": last_insight_at}
        values = {
            name: sa.func.greatest(accounts.c[name], moment) for name, moment in given.items() if moment is not None
        }
        if values:
            async with self._engine.begin() as connection:
                await connection.execute(accounts.update().where(accounts.c.id == account).values(values))

    async def endpoints(self) -> list[Endpoint]:
        """All endpoints with their secrets and accounts, oldest first."""
        async with self._engine.connect() as connection:
            return await self._load_endpoints(connection, None)

    async def endpoint(self, endpoint: str) -> Endpoint:
        """One endpoint; raises RegistryError when there is none."""
        async with self._engine.connect() as connection:
            found = await self._load_endpoints(connection, endpoint)
        if not found:
            raise RegistryError(f"endpoint {endpoint!r} is not known: see `hookline endpoint list`")
        return found[0]

    async def accounts(self) -> list[Account]:
        """All accounts, oldest first."""
        async with self._engine.connect() as connection:
            return await self._load_accounts(connection, None)

    async def account(self, account: str) -> Account:
        """One account; raises RegistryError when there is none."""
        async with self._engine.connect() as connection:
            found = await self._load_accounts(connection, account_id(account))
        if not found:
            raise RegistryError(f"account {account!r} is not known: see `hookline account list`")
        return found[0]

    async def everything(self) -> tuple[str, list[Endpoint], list[Account]]:
        """All of it as of one moment, with its `stamp`."""
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="REPEATABLE READ")
            return (
                await self._stamp(connection),
                await self._load_endpoints(connection, None),
                await self._load_accounts(connection, None),
            )

    async def stamp(self) -> str:
        """A short text that differs after any change but `touch`; one cheap query."""
        async with self._engine.connect() as connection:
            return await self._stamp(connection)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except IntegrityError as error:
            raise RegistryError(
                "it was changed by somebody else at the same moment: look at it, then try again"
            ) from error

    @staticmethod
    async def _need_tenant(connection: AsyncConnection, tenant: str) -> None:
        if await connection.scalar(sa.select(tenants.c.id).where(tenants.c.id == tenant)) is None:
            raise RegistryError(f"tenant {tenant!r} is not known: add it with `hookline tenant add {tenant}`")

    @staticmethod
    async def _need_endpoint(connection: AsyncConnection, endpoint: str) -> str:
        tenant = await connection.scalar(sa.select(endpoints.c.tenant).where(endpoints.c.id == endpoint))
        if tenant is None:
            raise RegistryError(f"endpoint {endpoint!r} is not known: see `hookline endpoint list`")
        return str(tenant)

    @staticmethod
    async def _connect(connection: AsyncConnection, endpoint: str, tenant: str, account: str) -> None:
        owner = await connection.scalar(sa.select(accounts.c.tenant).where(accounts.c.id == account))
        if owner is None:
            raise RegistryError(f"account {account!r} is not known: add it with `hookline account add`")
        if owner != tenant:
            raise RegistryError(
                f"account {account!r} belongs to another tenant than the endpoint: an endpoint speaks for its own tenant"
            )
        await connection.execute(
            insert(endpoint_accounts).values(endpoint=endpoint, account=account).on_conflict_do_nothing()
        )

    async def _insert_secret(self, connection: AsyncConnection, endpoint: str, secret: str | bytes | None) -> None:
        if secret is None:
            secret = unguessable(32)
        value = secret.encode() if isinstance(secret, str) else secret
        found = weakness(value)
        if found is not None:
            raise RegistryError(
                f"the secret does not count, for {found}: copy the sender's own, or leave it out to have one of 256 bits made"
            )
        sealed = self._sealer.seal_secret(value, purpose=_secret_of(endpoint))
        await connection.execute(endpoint_secrets.insert().values(endpoint=endpoint, sealed_secret=sealed))

    @staticmethod
    async def _due_now(connection: AsyncConnection, account: str) -> None:
        # Its records waited for this, and not for a time.
        await connection.execute(
            set_aside.update()
            .where(
                set_aside.c.account == account,
                set_aside.c.emitted_at.is_(None),
                set_aside.c.due_at > sa.func.now(),
            )
            .values(due_at=sa.func.now())
        )

    async def _update_account(self, account: str, **values: Any) -> None:
        async with self._change() as connection:
            done = await connection.execute(accounts.update().where(accounts.c.id == account).values(values))
            if done.rowcount == 0:
                raise RegistryError(f"account {account!r} is not known: see `hookline account list`")

    @staticmethod
    async def _stamp(connection: AsyncConnection) -> str:
        # Sums of hashes, not a newest `changed_at`: a transaction that commits late may carry an earlier time.
        parts = (
            (endpoints, (endpoints.c.id, endpoints.c.changed_at)),
            (accounts, (accounts.c.id, accounts.c.changed_at)),
            (endpoint_secrets, (endpoint_secrets.c.id, endpoint_secrets.c.valid_until)),
            (endpoint_accounts, (endpoint_accounts.c.endpoint, endpoint_accounts.c.account)),
        )
        hashes = [
            sa.select(sa.func.coalesce(sa.func.sum(sa.func.hashtextextended(sa.func.concat_ws("|", *columns), 0)), 0))
            .select_from(table)
            .scalar_subquery()
            for table, columns in parts
        ]
        row = (await connection.execute(sa.select(*hashes))).one()
        return ".".join(str(part) for part in row)

    async def _load_endpoints(self, connection: AsyncConnection, only: str | None) -> list[Endpoint]:
        def chosen(statement: sa.Select[Any], column: sa.ColumnElement[Any]) -> sa.Select[Any]:
            return statement if only is None else statement.where(column == only)

        found = (
            await connection.execute(chosen(sa.select(endpoints).order_by("created_at", "id"), endpoints.c.id))
        ).all()
        secrets: dict[str, list[Secret]] = {}
        for row in await connection.execute(
            chosen(sa.select(endpoint_secrets).order_by("id"), endpoint_secrets.c.endpoint)
        ):
            value = self._opened(row.sealed_secret, _secret_of(row.endpoint))
            if value is not None:
                secrets.setdefault(row.endpoint, []).append(Secret(row.valid_from, row.valid_until, value))
        speaks: dict[str, set[str]] = {}
        for row in await connection.execute(chosen(sa.select(endpoint_accounts), endpoint_accounts.c.endpoint)):
            speaks.setdefault(row.endpoint, set()).add(row.account)
        return [
            Endpoint(
                id=row.id,
                tenant=row.tenant,
                source=row.source,
                name=row.name,
                config=row.config,
                enabled=row.enabled,
                secrets=tuple(secrets.get(row.id, ())),
                accounts=frozenset(speaks.get(row.id, ())),
            )
            for row in found
        ]

    async def _load_accounts(self, connection: AsyncConnection, only: str | None) -> list[Account]:
        statement = sa.select(accounts).order_by("created_at", "id")
        found = []
        for row in await connection.execute(statement if only is None else statement.where(accounts.c.id == only)):
            sealed = row.sealed_credentials
            opened = None if sealed is None else self._opened(sealed, _credentials_of(row.id))
            found.append(
                Account(
                    id=row.id,
                    tenant=row.tenant,
                    crm=row.crm,
                    name=row.name,
                    config=row.config,
                    credentials=None if opened is None else json.loads(opened),
                    state=row.state,
                    state_reason=row.state_reason,
                    last_delivery_at=row.last_delivery_at,
                    last_insight_at=row.last_insight_at,
                )
            )
        return found

    def _opened(self, sealed: bytes, purpose: str) -> bytes | None:
        try:
            return self._sealer.open_secret(sealed, purpose=purpose)
        except Exception:  # noqa: BLE001 - one row under a lost master key must not take the others down; its use then fails by name
            return None


def _pack(credentials: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(credentials), separators=(",", ":")).encode()


def _secret_of(endpoint: str) -> str:
    # The row's id is part of the purpose: a secret copied to another endpoint's row does not open there.
    return f"endpoint_secrets.sealed_secret/{endpoint}"


def _credentials_of(account: str) -> str:
    return f"accounts.sealed_credentials/{account}"
