# ruff: noqa: A001, A002 - `id` and `object` are the protocols' words
"""A small world for the processors: a Kafka of lists, a CRM of records, tables of dictionaries; each keeps its protocol.

A handler can be killed between any two of its effects (`World.crash_at`), and a batch is then given again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from infra.accounts import Account
from infra.crm.client import CrmClient, Gone, Read, Refused
from infra.kafka.codec import Received
from infra.kafka.raw import Raw, RawMessage
from infra.keyring import DataKey
from infra.set_aside import Aside
from infra.unavailable import BrokerUnavailable
from processors.state import Kept, Published, Standing
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.envelope import Envelope
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import BY_NAME, Topic

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Crash(BaseException):
    """The process is gone: nothing catches this."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def account(id: str = "hubspot:1", **more: Any) -> Account:
    given = {"tenant": "acme", "crm": id.partition(":")[0], "name": "", "config": {}, "credentials": None, **more}
    return Account(id=id, **given)


def ref(id: str = "7", object: str = "contact", account: str = "hubspot:1", tenant: str = "acme") -> RecordRef:
    return RecordRef(tenant, account, object, id)


def change(record: RecordRef | None = None, when: float = 0.0, **more: Any) -> Change:
    given = {"kind": "updated", "occurred_at": at(when), "properties": ("jobtitle",), **more}
    return Change.model_validate({**(record or ref())._asdict(), **given})


def read(when: float = 0.0, notes: Sequence[Any] = (), **fields: str) -> Read:
    return Read(modified_at=at(when), fields=fields, known_fields=tuple(fields), concepts={}, notes=tuple(notes))


@dataclass
class World:
    """The clock, and where the process dies."""

    now: datetime = START
    effects: int = 0
    crash_at: int | None = None
    """Die before the effect of this number."""

    def step(self, seconds: float = 0.01) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def effect(self) -> None:
        if self.crash_at is not None and self.effects >= self.crash_at:
            self.crash_at = None
            raise Crash
        self.effects += 1


@dataclass
class Log:
    """A Kafka of one partition a topic; implements Opens and Publishes. Payloads lie open: sealing has its own tests."""

    world: World = field(default_factory=World)
    topics: dict[str, list[tuple[Any, str]]] = field(default_factory=dict)
    letters: list[tuple[Cause, str, str | None]] = field(default_factory=list)
    """Cause, detail, record."""
    away: bool = False
    unreadable: set[int] = field(default_factory=set)

    def of(self, topic: Topic[Any]) -> list[Any]:
        return [payload for payload, _ in self.topics.get(topic.name, [])]

    def raws(self, topic: Topic[Any], start: int = 0, end: int | None = None) -> list[Raw]:
        found: list[Raw] = []
        for offset, (payload, trace) in itertools.islice(enumerate(self.topics.get(topic.name, [])), start, end):
            headers = [("traceparent", trace.encode()), ("hl_tenant", payload.tenant.encode())]
            found.append(RawMessage(topic.name, 0, offset, topic.key(payload).encode(), b"x", headers))
        return found

    def put(self, topic: Topic[Any], *payloads: Any, trace: str = "") -> list[Raw]:
        """Publish from outside, and return what a pump would hand over."""
        lines = self.topics.setdefault(topic.name, [])
        first = len(lines)
        lines.extend((payload, trace) for payload in payloads)
        return self.raws(topic, first)

    async def open(
        self, topic: Topic[Any], raws: Sequence[Raw]
    ) -> tuple[list[Received[Any]], list[tuple[Raw, Cause, str]]]:
        good, bad = [], []
        for raw in raws:
            if raw.offset in self.unreadable:
                bad.append((raw, Cause.UNDECRYPTABLE, "its data key was destroyed or has expired"))
                continue
            payload, trace = self.topics[topic.name][raw.offset]
            envelope = Envelope("i", topic.type, "test", START, payload.tenant, traceparent=trace)
            good.append(Received(payload, envelope, topic.name, 0, raw.offset, 0, raw))
        return good, bad

    async def publish(
        self, topic: Topic[Any], payloads: Sequence[Any], *, traceparents: Sequence[str] | None = None
    ) -> list[tuple[int, int]]:
        assert topic.name in BY_NAME
        if self.away:
            raise BrokerUnavailable
        places = []
        for payload, trace in zip(payloads, traceparents or [""] * len(payloads), strict=True):
            self.world.effect()  # one by one: a batch may arrive in part
            lines = self.topics.setdefault(topic.name, [])
            places.append((0, len(lines)))
            lines.append((topic.payload.model_validate_json(payload.model_dump_json()), trace))
        return places

    async def dead_letter(self, raw: Raw, *, stage: str, cause: Cause, detail: str, tenant: str, **place: Any) -> None:
        assert tenant, "a dead letter without its tenant is nobody's"
        self.world.effect()
        self.letters.append((cause, detail, place.get("record_id")))


@dataclass
class Directory:
    accounts: dict[str, Account]
    registered_since: dict[str, Account] = field(default_factory=dict)
    """What the view does not show before it is refreshed."""
    just_connected: set[str] = field(default_factory=set)

    def account(self, id: str) -> Account | None:
        return self.accounts.get(id)

    async def refresh(self) -> bool:
        changed = bool(self.registered_since)
        self.accounts.update(self.registered_since)
        self.registered_since.clear()
        return changed

    async def disconnect(self, id: str, reason: str) -> bool:
        if id in self.just_connected:
            return False
        self.accounts[id] = replace(self.accounts[id], state="disconnected", state_reason=reason)
        return True


@dataclass
class FakeCrm:
    """Implements CrmClient as far as the hydrator asks; `raises` per account."""

    name: str = "hubspot"
    own_prefix: str = "hookline_"
    own_objects: frozenset[str] = frozenset({"contact", "deal"})
    records: dict[tuple[str, str, str], Read | Refused] = field(default_factory=dict)
    hangs_on: dict[tuple[str, str, str], list[tuple[str, str]]] = field(default_factory=dict)
    raises: dict[str, Exception] = field(default_factory=dict)
    user: str | None = None
    calls: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    on_read: Any = None

    def save(self, record: RecordRef, state: Read | Refused) -> None:
        self.records[record.account, record.object, record.id] = state

    def delete(self, record: RecordRef) -> None:
        self.records.pop((record.account, record.object, record.id), None)

    async def read(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, Read | Gone | Refused]:
        self.calls.append((account.id, object, tuple(ids)))
        if account.id in self.raises:
            raise self.raises[account.id]
        answer = {id: self.records.get((account.id, object, id), Gone()) for id in ids}
        if self.on_read:
            await self.on_read()
        return answer

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        if account.id in self.raises:
            raise self.raises[account.id]
        return {id: self.hangs_on.get((account.id, object, id), []) for id in ids}

    async def integration_user(self, account: Account) -> str | None:
        return self.user

    async def own_fields(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError

    async def write(self, account: Account, object: str, rows: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        raise NotImplementedError

    async def provision(self, account: Account) -> list[str]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def _implements(crm: FakeCrm) -> CrmClient:
    return crm


@dataclass
class MemoryHydratorState:
    """HydratorState; the clock is the world's."""

    world: World
    rows: dict[RecordRef, Standing] = field(default_factory=dict)

    async def load(self, refs: Collection[RecordRef]) -> tuple[datetime, dict[RecordRef, Standing]]:
        return self.world.step(), {ref: self.rows[ref] for ref in refs if ref in self.rows}

    async def save(self, rows: Mapping[RecordRef, Published]) -> set[RecordRef]:
        self.world.effect()
        contested = set()
        for record, given in rows.items():
            there = self.rows.get(record)
            if (there.read_at if there else None) != (given.loaded.read_at if given.loaded else None):
                contested.add(record)
            if there is None or there.read_at <= given.standing.read_at:
                self.rows[record] = given.standing
        return contested

    async def looked(self, rows: Mapping[RecordRef, tuple[datetime, datetime]]) -> None:
        for record, (before, now) in rows.items():
            there = self.rows.get(record)
            if there is not None and there.read_at == before < now:
                self.rows[record] = replace(there, read_at=now)


@dataclass
class MemoryAnalystState:
    """AnalystState."""

    world: World
    rows: dict[tuple[RecordRef, str], Kept] = field(default_factory=dict)

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        found: dict[RecordRef, dict[str, Kept]] = {}
        for (record, name), kept in self.rows.items():
            if record in refs:
                found.setdefault(record, {})[name] = kept
        return found

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        self.world.effect()
        for place, kept in rows.items():
            if place not in self.rows or self.rows[place].version < kept.version:
                self.rows[place] = kept


@dataclass
class MemorySetAside:
    """SetAsideStore."""

    world: World
    rows: dict[tuple[RecordRef, str], Aside] = field(default_factory=dict)

    async def put(self, rows: Sequence[Aside]) -> None:
        if rows:
            self.world.effect()
        self.rows.update({(row.ref, row.stage): row for row in rows})


def fingerprint(tenant: str, data: bytes) -> bytes:
    return blake2b(data, key=tenant.encode(), digest_size=32).digest()


async def keys(refs: Collection[RecordRef]) -> dict[RecordRef, DataKey]:
    return {
        record: DataKey(
            id=blake2b(str(record).encode(), digest_size=16).hexdigest(),
            tenant=record.tenant,
            scope="record",
            name=str(record),
            material=blake2b(str(record).encode(), digest_size=32).digest(),
        )
        for record in refs
    }


def snapshot(
    record: RecordRef | None = None, when: float = 0.0, read_when: float | None = None, **more: Any
) -> RecordSnapshot:
    given: dict[str, Any] = {
        "crm": "hubspot",
        "fields": {"jobtitle": "CFO"},
        "modified_at": at(when),
        "read_at": at(when if read_when is None else read_when),
    }
    return RecordSnapshot.model_validate({**(record or ref())._asdict(), **given, **more})


def scorable(record: RecordRef | None = None, when: float = 0.0, title: str = "CFO", **more: Any) -> RecordSnapshot:
    """A snapshot that lead intelligence asks about: it has as many facts to cite as a score needs."""
    fields = {"jobtitle": title, "email": "ida@ek.example"}
    return snapshot(record, when, fields=fields, concepts={"job_title": "jobtitle", "email": "email"}, **more)
