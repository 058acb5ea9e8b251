"""Where wrapped data keys live: the table `data_keys`, or memory for tests.

Law: sees wrapped keys only. A race to create a key is settled by the database: whoever comes second gets the first
one's key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from infra.database.statement import Statements
from infra.unavailable import Unavailable, as_unavailable


@dataclass(slots=True)
class WrappedKey:
    """A row of `data_keys`."""

    key_id: str
    tenant: str
    scope: str
    name: str
    wrapped: bytes = field(repr=False)
    expires_at: datetime | None = None


class KeyStore(Protocol):
    """All methods raise Unavailable when the store is away, and may be called twice."""

    any_erased: bool
    """Whether anybody was ever erased, as of the last `get_or_create` or `named`."""

    async def get_or_create(self, wanted: Sequence[WrappedKey]) -> list[WrappedKey]:
        """The keys of these (scope, name): the one that is there, or else the wanted one, which then is."""
        ...

    async def named(self, scope: str, names: Collection[str]) -> list[WrappedKey]:
        """The keys of these names that there are; none is made."""
        ...

    async def by_id(self, key_ids: Collection[str]) -> list[WrappedKey]:
        """Those that exist and have not expired."""
        ...

    async def destroy(self, scope: str, names: Collection[str]) -> int:
        """Delete for good; returns how many there were."""
        ...

    async def destroy_ids(self, key_ids: Collection[str]) -> int:
        """The same by their ids."""
        ...

    async def ids(self, scope: str, names: Collection[str]) -> list[str]:
        """The ids of the keys of these names, as they are now."""
        ...

    async def named_under(self, scope: str, prefixes: Collection[str]) -> list[WrappedKey]:
        """Keys whose names begin so."""
        ...

    async def rename(self, keys: Sequence[tuple[str, bytes, str, bytes]]) -> int:
        """Retire (key id, old wrapped) to (new name, new wrapped), where the old is still there; returns how many."""
        ...

    async def forgotten(self, seconds: float) -> list[str]:
        """The ids of keys that were destroyed or retired within the last `seconds`, by the store's clock."""
        ...

    async def erased(self, marks: Collection[bytes]) -> set[bytes]:
        """Which of these stand for somebody who was erased."""
        ...

    async def destroy_expired(self) -> int:
        """Delete what expired; returns how many."""
        ...

    async def page(self, after: str, limit: int) -> list[WrappedKey]:
        """Keys in the order of their ids, for rewrapping."""
        ...

    async def rewrap(self, keys: Sequence[tuple[str, bytes, bytes]]) -> int:
        """Replace (key id, old wrapped, new wrapped) where the old is still there; returns how many."""
        ...


_COLUMNS = "key_id, tenant, scope, name, wrapped, expires_at"
# These are asked for every batch of a backlog: by one statement in one round trip.
_GET_OR_CREATE = f"""
    WITH wanted AS (
      SELECT * FROM unnest(
        %(ids)s::text[], %(tenants)s::text[], %(scopes)s::text[], %(names)s::text[],
        %(wrapped)b::bytea[], %(expires)b::timestamptz[]
      ) AS w ({_COLUMNS})
    ), there AS (
      SELECT k.key_id, k.tenant, k.scope, k.name, k.wrapped, k.expires_at FROM data_keys k JOIN wanted USING (scope, name)
    ), made AS (
      INSERT INTO data_keys ({_COLUMNS})
      SELECT {_COLUMNS} FROM wanted w
      WHERE NOT EXISTS (SELECT FROM there t WHERE t.scope = w.scope AND t.name = w.name)
      ORDER BY scope, name
      ON CONFLICT (scope, name) DO NOTHING
      RETURNING {_COLUMNS}
    )
    SELECT {_COLUMNS}, EXISTS (SELECT FROM erased_people) AS any_erased
    FROM (SELECT {_COLUMNS} FROM there UNION ALL SELECT {_COLUMNS} FROM made) AS found
"""  # noqa: S608 -- made of constants
_BY_ID = f"""
    SELECT {_COLUMNS} FROM data_keys WHERE key_id = ANY(%(ids)s::text[]) AND (expires_at IS NULL OR expires_at > now())
"""  # noqa: S608 -- made of constants
_NAMED = f"""
    SELECT {_COLUMNS}, any_erased FROM (SELECT EXISTS (SELECT FROM erased_people) AS any_erased) AS e
    LEFT JOIN data_keys ON scope = %(scope)s AND name = ANY(%(names)s::text[])
"""  # noqa: S608 -- made of constants


def _wrapped(row: tuple[Any, ...]) -> WrappedKey:
    # Tenant and scope are the same for thousands of keys, which stay in memory.
    return WrappedKey(row[0], sys.intern(row[1]), sys.intern(row[2]), row[3], bytes(row[4]), row[5])


class PostgresKeys(KeyStore):
    """`data_keys` in Postgres; any number of keys in one round trip."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._statements = Statements(engine)
        self.any_erased = False

    @override
    async def get_or_create(self, wanted: Sequence[WrappedKey]) -> list[WrappedKey]:
        missing = {(key.scope, key.name): key for key in wanted}
        found: list[WrappedKey] = []
        # A row that another transaction committed while ours ran is neither visible nor inserted: the next statement sees it.
        for _ in range(5):
            asked = list(missing.values())
            given = {
                "ids": [key.key_id for key in asked],
                "tenants": [key.tenant for key in asked],
                "scopes": [key.scope for key in asked],
                "names": [key.name for key in asked],
                "wrapped": [key.wrapped for key in asked],
                "expires": [key.expires_at for key in asked],
            }
            rows = await self._statements.run(_GET_OR_CREATE, given)
            if rows:
                self.any_erased = bool(rows[0][6])
            found.extend(_wrapped(row) for row in rows if missing.pop((row[2], row[3]), None))
            if not missing:
                return found
        raise Unavailable("postgres", why="data keys are created and destroyed at the same moment")

    @override
    async def named(self, scope: str, names: Collection[str]) -> list[WrappedKey]:
        rows = await self._statements.run(_NAMED, {"scope": scope, "names": list(names)})
        self.any_erased = bool(rows[0][6])
        return [_wrapped(row) for row in rows if row[0] is not None]

    @override
    async def by_id(self, key_ids: Collection[str]) -> list[WrappedKey]:
        rows = await self._statements.run(_BY_ID, {"ids": list(key_ids)})
        return [_wrapped(row) for row in rows]

    @override
    async def destroy(self, scope: str, names: Collection[str]) -> int:
        return await self._destroy("scope = :scope AND name = ANY(:which)", scope=scope, which=list(names))

    @override
    async def destroy_ids(self, key_ids: Collection[str]) -> int:
        return await self._destroy("key_id = ANY(:which)", which=list(key_ids))

    async def _destroy(self, condition: str, **values: object) -> int:
        # The other processes hear of it from the list, which a key joins in the same transaction that deletes it.
        rows = await self._rows(
            text(f"""
                WITH gone AS (DELETE FROM data_keys WHERE {condition} RETURNING key_id), listed AS (
                  INSERT INTO destroyed_keys AS d (key_id, retired) SELECT key_id, false FROM gone
                  ON CONFLICT (key_id) DO UPDATE SET retired = false, at = now()
                )
                SELECT key_id FROM gone
            """),  # noqa: S608 -- made of constants
            **values,
        )
        return len(rows)

    @override
    async def ids(self, scope: str, names: Collection[str]) -> list[str]:
        rows = await self._rows(
            text("SELECT key_id FROM data_keys WHERE scope = :scope AND name = ANY(:names) ORDER BY key_id"),
            scope=scope,
            names=list(names),
        )
        return [str(row.key_id) for row in rows]

    @override
    async def named_under(self, scope: str, prefixes: Collection[str]) -> list[WrappedKey]:
        return await self._run(
            text(f"""
                SELECT {_COLUMNS} FROM data_keys
                WHERE scope = :scope AND EXISTS (SELECT FROM unnest(CAST(:prefixes AS text[])) AS p WHERE starts_with(name, p))
                ORDER BY name
            """),  # noqa: S608 -- made of constants
            scope=scope,
            prefixes=list(prefixes),
        )

    @override
    async def rename(self, keys: Sequence[tuple[str, bytes, str, bytes]]) -> int:
        rows = await self._rows(
            text("""
                WITH renamed AS (
                  UPDATE data_keys k SET name = w.name, wrapped = w.new
                  FROM unnest(CAST(:ids AS text[]), CAST(:old AS bytea[]), CAST(:names AS text[]), CAST(:new AS bytea[]))
                    AS w (id, old, name, new)
                  WHERE k.key_id = w.id AND k.wrapped = w.old
                  RETURNING k.key_id
                ), listed AS (
                  INSERT INTO destroyed_keys (key_id, retired) SELECT key_id, true FROM renamed ON CONFLICT DO NOTHING
                )
                SELECT key_id FROM renamed
            """),
            ids=[key[0] for key in keys],
            old=[key[1] for key in keys],
            names=[key[2] for key in keys],
            new=[key[3] for key in keys],
        )
        return len(rows)

    @override
    async def forgotten(self, seconds: float) -> list[str]:
        rows = await self._rows(
            text("SELECT key_id FROM destroyed_keys WHERE at > now() - make_interval(secs => :seconds)"),
            seconds=seconds,
        )
        return [str(row.key_id) for row in rows]

    @override
    async def erased(self, marks: Collection[bytes]) -> set[bytes]:
        rows = await self._rows(
            text("SELECT mark FROM erased_people WHERE mark = ANY(CAST(:marks AS bytea[]))"), marks=list(marks)
        )
        return {bytes(row.mark) for row in rows}

    @override
    async def destroy_expired(self) -> int:
        await self._rows(text("DELETE FROM destroyed_keys WHERE at < now() - interval '1 day' RETURNING key_id"))
        return len(await self._run(text(f"DELETE FROM data_keys WHERE expires_at <= now() RETURNING {_COLUMNS}")))  # noqa: S608 -- made of constants

    @override
    async def page(self, after: str, limit: int) -> list[WrappedKey]:
        return await self._run(
            text(f"SELECT {_COLUMNS} FROM data_keys WHERE key_id > :after ORDER BY key_id LIMIT :limit"),  # noqa: S608 -- made of constants
            after=after,
            limit=limit,
        )

    @override
    async def rewrap(self, keys: Sequence[tuple[str, bytes, bytes]]) -> int:
        return len(
            await self._run(
                text(f"""
                    UPDATE data_keys k SET wrapped = w.new
                    FROM unnest(CAST(:ids AS text[]), CAST(:old AS bytea[]), CAST(:new AS bytea[])) AS w (id, old, new)
                    WHERE k.key_id = w.id AND k.wrapped = w.old
                    RETURNING {", ".join(f"k.{name}" for name in _COLUMNS.split(", "))}
                """),  # noqa: S608 -- made of constants
                ids=[key[0] for key in keys],
                old=[key[1] for key in keys],
                new=[key[2] for key in keys],
            )
        )

    async def _run(self, statement: object, **values: object) -> list[WrappedKey]:
        return [_wrapped(row) for row in await self._rows(statement, **values)]

    async def _rows(self, statement: object, **values: object) -> list[Any]:
        try:
            async with self._engine.begin() as connection:
                return list((await connection.execute(statement, values)).all())  # type: ignore[call-overload]  # text() of this module alone
        except (SQLAlchemyError, OSError) as error:
            away = as_unavailable(error) or (
                Unavailable("postgres", why=type(error).__name__) if isinstance(error, OSError) else None
            )
            if away:
                raise away from error
            raise


class MemoryKeys(KeyStore):
    """The same in memory, for tests of one process; `away` makes it behave like a database that is down."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], WrappedKey] = {}
        self.listed: dict[str, float] = {}
        """Destroyed or retired key → when, by the monotonic clock."""
        self.erased_marks: set[bytes] = set()
        self.any_erased = False
        self.away = False
        self.calls = 0

    def _ask(self) -> None:
        self.calls += 1
        if self.away:
            raise Unavailable("postgres", why="away")

    @override
    async def get_or_create(self, wanted: Sequence[WrappedKey]) -> list[WrappedKey]:
        self._ask()
        self.any_erased = bool(self.erased_marks)
        return [self.rows.setdefault((key.scope, key.name), key) for key in wanted]

    @override
    async def named(self, scope: str, names: Collection[str]) -> list[WrappedKey]:
        self._ask()
        self.any_erased = bool(self.erased_marks)
        return [self.rows[scope, name] for name in names if (scope, name) in self.rows]

    @override
    async def by_id(self, key_ids: Collection[str]) -> list[WrappedKey]:
        self._ask()
        now = datetime.now(UTC)
        return [
            row
            for row in self.rows.values()
            if row.key_id in key_ids and (row.expires_at is None or row.expires_at > now)
        ]

    @override
    async def destroy(self, scope: str, names: Collection[str]) -> int:
        return await self.destroy_ids(await self.ids(scope, names))

    @override
    async def destroy_ids(self, key_ids: Collection[str]) -> int:
        self._ask()
        gone = [place for place, row in self.rows.items() if row.key_id in key_ids]
        for place in gone:
            self.listed[self.rows.pop(place).key_id] = time.monotonic()
        return len(gone)

    @override
    async def ids(self, scope: str, names: Collection[str]) -> list[str]:
        return sorted(self.rows[scope, name].key_id for name in names if (scope, name) in self.rows)

    @override
    async def named_under(self, scope: str, prefixes: Collection[str]) -> list[WrappedKey]:
        self._ask()
        return [
            row
            for place, row in sorted(self.rows.items())
            if place[0] == scope and place[1].startswith(tuple(prefixes))
        ]

    @override
    async def rename(self, keys: Sequence[tuple[str, bytes, str, bytes]]) -> int:
        self._ask()
        done = 0
        for key_id, old, name, new in keys:
            for place, row in list(self.rows.items()):
                if row.key_id == key_id and row.wrapped == old:
                    del self.rows[place]
                    self.rows[row.scope, name] = replace(row, name=name, wrapped=new)
                    self.listed.setdefault(key_id, time.monotonic())
                    done += 1
        return done

    @override
    async def forgotten(self, seconds: float) -> list[str]:
        if self.away:
            raise Unavailable("postgres", why="away")
        return [key_id for key_id, at in self.listed.items() if at > time.monotonic() - seconds]

    @override
    async def erased(self, marks: Collection[bytes]) -> set[bytes]:
        self._ask()
        return self.erased_marks & set(marks)

    @override
    async def destroy_expired(self) -> int:
        self._ask()
        now = datetime.now(UTC)
        expired = [place for place, row in self.rows.items() if row.expires_at is not None and row.expires_at <= now]
        for place in expired:
            del self.rows[place]
        return len(expired)

    @override
    async def page(self, after: str, limit: int) -> list[WrappedKey]:
        self._ask()
        return sorted((row for row in self.rows.values() if row.key_id > after), key=lambda row: row.key_id)[:limit]

    @override
    async def rewrap(self, keys: Sequence[tuple[str, bytes, bytes]]) -> int:
        self._ask()
        done = 0
        for key_id, old, new in keys:
            for place, row in self.rows.items():
                if row.key_id == key_id and row.wrapped == old:
                    self.rows[place] = WrappedKey(row.key_id, row.tenant, row.scope, row.name, new, row.expires_at)
                    done += 1
        return done
