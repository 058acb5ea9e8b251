"""The keyring: data keys by what they seal, fetched many at a time and kept in memory.

Law: a key is made once, whoever asks first; material leaves this package only inside a DataKey, and stands in no log.
Postgres away: keys in memory go on serving; what is not in memory raises Unavailable.

A destroyed key: the list `destroyed_keys` is looked at once a second by whoever uses the ring, and what stands there leaves
memory, so that every process forgets it within two. A person who was erased never gets a key again: what is sealed for
that record is sealed under a key that nobody keeps, so whatever was still under way about it can be read by no one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.keyring.cipher import KEY_BYTES, DataKey, Undecryptable, new_id
from infra.keyring.master import MasterKeys
from infra.keyring.store import KeyStore, PostgresKeys, WrappedKey
from infra.settings import SettingsError
from infra.unavailable import Unavailable
from schemas.record import RecordRef

DELIVERY_KEY_LIFE = timedelta(hours=74)
"""From the start of its hour: that hour, 72 h of retention, and one to spare."""
_AHEAD_RETRY_SECONDS = 30.0
FEW = 16
"""Of more keys than these it is asked first which there are: making one, in vain where it is there, costs more than the asking."""
HEARD_SECONDS = 1.0
"""How often the list of destroyed keys is looked at, at most."""
_LOOK_BACK_SECONDS = 120.0
"""How far each look reaches back: transactions do not commit in the order of their times."""
_DEAF_SECONDS = 60.0
"""After a longer silence nothing in memory is believed: the list may have been missed."""

K = TypeVar("K")
V = TypeVar("V")


class Keyring:
    """Safe for any number of tasks of one event loop. Async methods raise Unavailable when Postgres is away."""

    def __init__(
        self,
        keys: AsyncEngine | KeyStore,
        master_keys: SecretStr,
        *,
        max_cached: int = 50_000,
        cache_seconds: float = 900.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cache_seconds`: how long a key stays in memory at most. Should Postgres be out of reach of one process alone, a key
        that was destroyed meanwhile serves there until then.
        """
        self._store: KeyStore = PostgresKeys(keys) if isinstance(keys, AsyncEngine) else keys
        self._master = MasterKeys(master_keys)
        self._monotonic = monotonic
        self._max_cached = max_cached
        self._cache_seconds = cache_seconds
        self._by_name: OrderedDict[tuple[str, str], tuple[DataKey, float]] = OrderedDict()
        self._by_id: OrderedDict[str, tuple[DataKey, float]] = OrderedDict()
        # Outside the LRU: the front door must find them however busy the rest is, and while Postgres is away.
        self._deliveries: dict[tuple[str, str, int], DataKey] = {}
        self._ahead: dict[tuple[str, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._root: bytes | None = None
        self._heard_at = self._monotonic()
        self._asked_at = self._heard_at
        self._hearing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Keyring({len(self._by_id)} cached)"

    async def start(self) -> None:
        """Load the root of `fingerprint`. Every other async method does so too, so calling it is optional."""
        if self._root is None:
            wanted = self._wrapped(_drawn("", "root", "fingerprint"))
            self._root = self._unwrap((await self._store.get_or_create([wanted]))[0]).material

    async def stop(self) -> None:
        """Cancel what is being made ahead."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def for_records(self, refs: Collection[RecordRef]) -> dict[RecordRef, DataKey]:
        """A key per CRM record, made where there is none; one round trip for all that are not cached."""
        names = {ref: str(ref) for ref in refs}
        keys = await self._named("record", {name: ref.tenant for ref, name in names.items()})
        return {ref: keys[name] for ref, name in names.items()}

    async def for_names(self, tenants: dict[str, str]) -> dict[str, DataKey]:
        """`for_records` by name (`str(RecordRef)`) → tenant, for whoever has the names at hand."""
        return await self._named("record", tenants)

    async def for_tenant(self, tenant: str) -> DataKey:
        """The tenant's own key: for what belongs to no record, and for the wrapper of dead letters."""
        return (await self._named("tenant", {tenant: tenant}))[tenant]

    async def for_delivery(self, tenant: str, endpoint: str, at: datetime) -> DataKey:
        """The key of this endpoint and hour (UTC); the next hour's is made in the same round trip."""
        found = self.cached_delivery_key(tenant, endpoint, at)
        return found or await self._make_deliveries(tenant, endpoint, _hour(at))

    def cached_delivery_key(self, tenant: str, endpoint: str, at: datetime) -> DataKey | None:
        """`for_delivery` from memory alone, for the hot path. Sees to it that the next hour's key is made ahead."""
        hour = _hour(at)
        if self._is_deaf():
            self._listen()
        found = self._deliveries.get((tenant, endpoint, hour))
        if found is not None and (tenant, endpoint, hour + 1) not in self._deliveries:
            self._make_ahead(tenant, endpoint, hour)
        return found

    async def by_id(self, key_ids: Collection[str]) -> dict[str, DataKey]:
        """Keys by id; an absent one was destroyed or has expired. Raises SettingsError when the master key is missing."""
        await self._hear()
        now = self._monotonic()
        found: dict[str, DataKey] = {}
        missing: list[str] = []
        for key_id in set(key_ids):
            cached = self._by_id.get(key_id)
            if cached and cached[1] > now:
                found[key_id] = cached[0]
                self._by_id.move_to_end(key_id)
            else:
                missing.append(key_id)
        if missing:
            for row in await self._store.by_id(missing):
                key = self._unwrap(row)
                found[key.id] = key
                self._remember(key)
        await self.start()
        return found

    async def destroy_records(self, refs: Collection[RecordRef]) -> int:
        """Destroy these records' keys: what they sealed can never be read again. Returns how many there were."""
        names = [str(ref) for ref in refs]
        self._forget(cached[0].id for name in names if (cached := self._by_name.get(("record", name))))
        return await self._store.destroy("record", names)

    async def record_key_ids(self, refs: Collection[RecordRef]) -> list[str]:
        """The ids of the keys that these records have now; none is made."""
        return await self._store.ids("record", [str(ref) for ref in refs])

    async def destroy_keys(self, key_ids: Collection[str]) -> int:
        """Destroy keys by their ids; returns how many there were. Safe to call again."""
        self._forget(key_ids)
        return await self._store.destroy_ids(key_ids)

    async def delivery_key_ids(self, tenant: str, endpoints: Collection[str]) -> list[str]:
        """All keys that deliveries to these endpoints are sealed with, retired ones included."""
        return [row.key_id for row in await self._deliveries_of(tenant, endpoints)]

    async def retire_deliveries(self, tenant: str, endpoints: Collection[str]) -> list[str]:
        """Let these endpoints' keys seal nothing more, though they still open; returns the ids of all that do so now.

        Every process makes itself another key within two seconds. Safe to call again: newer ones are retired, too.
        """
        rows = await self._deliveries_of(tenant, endpoints)
        retiring = []
        for row in rows:
            if _RETIRED not in row.name:
                name = f"{row.name}{_RETIRED}{row.key_id}"
                wrapped = self._master.wrap(self._unwrap(row).material, row.key_id, row.scope, name, row.tenant)
                retiring.append((row.key_id, row.wrapped, name, wrapped))
        if retiring:
            await self._store.rename(retiring)
        self._forget(row.key_id for row in rows)
        return [row.key_id for row in rows]

    async def _deliveries_of(self, tenant: str, endpoints: Collection[str]) -> list[WrappedKey]:
        prefixes = [f"{tenant}/{_unnamed(endpoint)}/" for endpoint in endpoints]
        return await self._store.named_under("delivery", prefixes) if prefixes else []

    def person_mark(self, ref: RecordRef) -> bytes:
        """What stands for a person on the list of the erased (32 bytes). Needs `start`, as `fingerprint` does."""
        return self.fingerprint(ref.tenant, f"erased\0{ref}".encode())

    async def destroy_expired(self) -> int:
        """Destroy delivery keys whose deliveries are past retention; call it hourly. Returns how many."""
        return await self._store.destroy_expired()

    async def rewrap(self, page: int = 1_000) -> int:
        """Wrap every key under the first master key; afterwards the older ones may go. Returns how many changed."""
        changed, after = 0, ""
        while rows := await self._store.page(after, page):
            after = rows[-1].key_id
            stale = [row for row in rows if not self._master.is_current(row.wrapped)]
            if stale:
                changed += await self._store.rewrap(
                    [
                        (row.key_id, row.wrapped, self._master.wrap(self._unwrap(row).material, *_bound(row)))
                        for row in stale
                    ]
                )
        return changed

    def seal_secret(self, plaintext: bytes, *, purpose: str) -> bytes:
        """Seal one of our own secrets under the master key; `purpose` is `table.column` and whatever else it must stay with."""
        return self._master.seal_secret(plaintext, purpose=purpose)

    def open_secret(self, sealed: bytes, *, purpose: str) -> bytes:
        """Raises Undecryptable."""
        return self._master.open_secret(sealed, purpose=purpose)

    def fingerprint(self, tenant: str, data: bytes) -> bytes:
        """HMAC-SHA256 of content (32 bytes), equal for equal content of one tenant only. Survives master-key rotation."""
        if self._root is None:
            raise RuntimeError("fingerprint: call `await keyring.start()` first")
        return hmac.digest(self._root, _owner(tenant) + data, "sha256")

    async def _named(self, scope: str, tenants: dict[str, str]) -> dict[str, DataKey]:
        await self._hear()
        now = self._monotonic()
        found: dict[str, DataKey] = {}
        missing: list[str] = []
        for name in tenants:
            cached = self._by_name.get((scope, name))
            if cached and cached[1] > now:
                found[name] = cached[0]
                self._by_name.move_to_end((scope, name))
            else:
                missing.append(name)
        if missing:
            there = await self._store.named(scope, missing) if len(missing) > FEW else []
            known = {row.name for row in there}
            # A key that is made here need not be unwrapped, should it be the one that stays.
            drawn = [_drawn(tenants[name], scope, name) for name in missing if name not in known]
            wanted = [self._wrapped(key) for key in drawn]
            own = {key.id: key for key in drawn}
            if self._root is None:
                wanted.append(self._wrapped(_drawn("", "root", "fingerprint")))
            for row in [*there, *(await self._store.get_or_create(wanted) if wanted else ())]:
                key = own.get(row.key_id) or self._unwrap(row)
                if row.scope == "root":
                    self._root = key.material
                    continue
                found[row.name] = key
            erased = await self._erased([found[name] for name in missing], wanted) if scope == "record" else set()
            for name in missing:
                if name in erased:
                    found[name] = self._keep(scope, name, _drawn(tenants[name], scope, name))
                else:
                    self._remember(found[name])
        return found

    async def _erased(self, keys: Collection[DataKey], wanted: Collection[WrappedKey]) -> set[str]:
        """The names of those whose person was erased. A key that was made for one this moment is destroyed again; one from
        before is the eraser's to destroy, who may still have to read what it sealed.
        """
        if not self._store.any_erased or not keys:
            return set()
        marks = {self.fingerprint(key.tenant, f"erased\0{key.name}".encode()): key for key in keys}
        found = [marks[mark] for mark in await self._store.erased(list(marks))]
        made = {key.key_id for key in wanted} & {key.id for key in found}
        if made:
            await self._store.destroy_ids(made)
        return {key.name for key in found}

    # Hearing of destroyed keys

    def _is_deaf(self) -> bool:
        return self._monotonic() - self._asked_at > HEARD_SECONDS and bool(self._by_id or self._deliveries)

    async def _hear(self) -> None:
        if self._is_deaf():
            await asyncio.shield(self._listen())

    def _listen(self) -> asyncio.Task[None]:
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.get_running_loop().create_task(self._look_up(), name="keyring-forgets")
            self._tasks.add(self._hearing)
            self._hearing.add_done_callback(self._tasks.discard)
        return self._hearing

    async def _look_up(self) -> None:
        began = self._monotonic()
        try:
            gone = await self._store.forgotten(_LOOK_BACK_SECONDS)
        except Unavailable:
            # Keys in memory go on serving; asked again with the next use, a second from now.
            self._asked_at = began
            return
        if began - self._heard_at > _DEAF_SECONDS:
            self._by_id.clear()
            self._by_name.clear()
            self._deliveries.clear()
        self._heard_at = self._asked_at = began
        self._forget(gone)

    def _forget(self, key_ids: Iterable[str]) -> None:
        gone = set(key_ids)
        for key_id in gone:
            cached = self._by_id.pop(key_id, None)
            if cached:
                named = self._by_name.get((cached[0].scope, cached[0].name))
                if named and named[0].id == key_id:
                    del self._by_name[cached[0].scope, cached[0].name]
        for place in [place for place, key in self._deliveries.items() if key.id in gone]:
            del self._deliveries[place]

    async def _make_deliveries(self, tenant: str, endpoint: str, hour: int) -> DataKey:
        wanted = []
        for each in (hour, hour + 1):
            start = datetime.fromtimestamp(each * 3600, UTC)
            name = f"{tenant}/{_unnamed(endpoint)}/{start:%Y-%m-%dT%H}"
            wanted.append(self._wrapped(_drawn(tenant, "delivery", name), start + DELIVERY_KEY_LIFE))
        hours = {key.name: each for key, each in zip(wanted, (hour, hour + 1), strict=True)}
        for row in await self._store.get_or_create(wanted):
            key = self._unwrap(row)
            self._deliveries[tenant, endpoint, hours[row.name]] = key
            self._remember(key)
        for place in [place for place in self._deliveries if place[:2] == (tenant, endpoint) and place[2] < hour - 1]:
            del self._deliveries[place]
        return self._deliveries[tenant, endpoint, hour]

    def _make_ahead(self, tenant: str, endpoint: str, hour: int) -> None:
        now = self._monotonic()
        if self._ahead.get((tenant, endpoint), 0.0) > now:
            return
        self._ahead[tenant, endpoint] = now + _AHEAD_RETRY_SECONDS

        async def make() -> None:
            try:
                await self._make_deliveries(tenant, endpoint, hour)
            except Unavailable:
                return
            self._ahead.pop((tenant, endpoint), None)

        task = asyncio.get_running_loop().create_task(make(), name="keyring-ahead")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wrapped(self, key: DataKey, expires_at: datetime | None = None) -> WrappedKey:
        wrapped = self._master.wrap(key.material, key.id, key.scope, key.name, key.tenant)
        return WrappedKey(key.id, key.tenant, key.scope, key.name, wrapped, expires_at)

    def _unwrap(self, row: WrappedKey) -> DataKey:
        cached = self._by_id.get(row.key_id)
        if cached:
            return cached[0]
        try:
            material = self._master.unwrap(row.wrapped, *_bound(row))
        except Undecryptable as error:
            # Laying every message aside would empty the topics: a missing master key is for the operator, not for dead letters.
            raise SettingsError(f"data key {row.key_id} cannot be unwrapped: {error}") from error
        return DataKey(row.key_id, row.tenant, row.scope, row.name, material)

    def _keep(self, scope: str, name: str, key: DataKey) -> DataKey:
        """By its name alone: nobody opens what it sealed, this process neither."""
        self._by_name[scope, name] = (key, self._monotonic() + self._cache_seconds)
        return key

    def _remember(self, key: DataKey) -> None:
        cached = key, self._monotonic() + self._cache_seconds
        _put_last(self._by_id, key.id, cached, self._max_cached)
        if key.scope != "delivery":
            _put_last(self._by_name, (key.scope, key.name), cached, self._max_cached)


def _drawn(tenant: str, scope: str, name: str) -> DataKey:
    return DataKey(new_id(), tenant, scope, name, os.urandom(KEY_BYTES))


def _put_last(cache: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)


_RETIRED = "/retired-"


@lru_cache(maxsize=4_096)
def _owner(tenant: str) -> bytes:
    """What the fingerprints of one tenant begin with; the length keeps ("ab", "c") and ("a", "bc") apart."""
    owner = tenant.encode()
    return len(owner).to_bytes(2, "big") + owner


def _unnamed(endpoint: str) -> str:
    # For a sender that signs nothing the endpoint's id is its secret: rows of keys need not hold it.
    return hashlib.sha256(endpoint.encode()).hexdigest()[:32]


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // 3600


def _bound(row: WrappedKey) -> tuple[str, str, str, str]:
    return row.key_id, row.scope, row.name, row.tenant
