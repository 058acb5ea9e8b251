"""The index of whom each record speaks of, and the list of the erased, as the hydrator asks them.

Law: the index is written before anything is sealed, so that nothing lies on a topic whose people nobody knows; it only
grows until an erasure. Persons stand in it by the CRM's id or by the HMAC of an e-mail address, never by a value.
As long as nobody was erased, the list costs one small question a second.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.crm.client import Gone, Read, Refused
from infra.database.statement import Statements
from infra.keyring import DataKey, Keyring, seal
from infra.privacy.calling import PEOPLE, addresses, related_people, values_of, without
from infra.privacy.requests import REQUEST, requested
from schemas.record import RecordRef, RecordSnapshot, Related

PURPOSE = "privacy_identifiers.sealed_values"
ASK_SECONDS = 1.0
"""How often it is asked whether anybody was erased at all."""
MOST_NOTED = 50_000
"""Records of which is remembered what was noted, some 10 MB; of another one the database is asked again."""

_MARK_BYTES = 15
_INDEX = """
    INSERT INTO key_people (tenant, account, person, object, record_id)
    SELECT g.* FROM (
      SELECT DISTINCT * FROM unnest(%(tenant)s::text[], %(account)s::text[], %(person)s::text[], %(object)s::text[],
                                    %(record_id)s::text[]) AS u(tenant, account, person, object, record_id)
    ) AS g
    WHERE NOT EXISTS (SELECT FROM key_people k WHERE (k.tenant, k.account, k.person, k.object, k.record_id)
                                                   = (g.tenant, g.account, g.person, g.object, g.record_id))
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT DO NOTHING
"""
_KNOWN = """
    SELECT g.place FROM unnest(%(place)s::int[], %(tenant)s::text[], %(account)s::text[], %(object)s::text[],
                               %(record_id)s::text[], %(mark)s::bytea[]) AS g(place, tenant, account, object, record_id, mark)
    JOIN privacy_identifiers p USING (tenant, account, object, record_id, mark)
"""
_KEEP = """
    INSERT INTO privacy_identifiers (tenant, account, object, record_id, mark, sealed_values)
    SELECT * FROM unnest(%(tenant)s::text[], %(account)s::text[], %(object)s::text[], %(record_id)s::text[],
                         %(mark)s::bytea[], %(sealed)s::bytea[])
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant, account, object, record_id) DO UPDATE SET mark = excluded.mark, sealed_values = excluded.sealed_values
"""
_ERASED = "SELECT mark FROM erased_people WHERE mark = ANY(%(marks)s::bytea[])"
_VALUES = """
    SELECT record_id, value FROM erased_values
    WHERE tenant = %(tenant)s AND account = %(account)s AND object = %(object)s AND record_id = ANY(%(ids)s::text[])
"""


class People:
    """Remembers what it noted, and for ASK_SECONDS whether anybody was erased; safe for any number of tasks. Methods raise
    Unavailable when Postgres is away.
    """

    def __init__(self, engine: AsyncEngine, keyring: Keyring) -> None:
        self._statements = Statements(engine)
        self._keyring = keyring
        self._any = False
        self._asked_at = float("-inf")
        self._noted: OrderedDict[RecordRef, bytes] = OrderedDict()

    async def index(self, snapshots: Sequence[RecordSnapshot]) -> None:
        """Note whom these speak of; call it before they are sealed. Safe to call again."""
        await self._keyring.start()
        keys = await self._keyring.for_records({each.ref for each in snapshots})
        mentions: list[tuple[str, str, str, str, str]] = []
        values: dict[RecordRef, Sequence[str]] = {}
        noted: dict[RecordRef, bytes] = {}
        for each in snapshots:
            people, mails, called = related_people(each), addresses(each), values_of(each)
            # Whatever an erasure takes out of the index, it destroys the record's key with: under another key it is noted anew.
            said = orjson.dumps((keys[each.ref].id, sorted(people), sorted(mails), called))
            mark = hashlib.blake2b(said, digest_size=16).digest()
            if self._noted.get(each.ref) == mark:
                continue
            noted[each.ref] = mark
            mentions += [
                (each.tenant, each.account, person, each.object, each.id)
                for person in [*people, *(self.address_mark(each.tenant, form) for form in mails)]
                if person != f"{each.object}/{each.id}"
            ]
            if called:
                values[each.ref] = called
        if mentions:
            names = ("tenant", "account", "person", "object", "record_id")
            await self._statements.run(_INDEX, {name: [row[i] for row in mentions] for i, name in enumerate(names)})
        await self._keep(values, keys)
        self._noted.update(noted)
        while len(self._noted) > MOST_NOTED:
            self._noted.popitem(last=False)

    async def _keep(self, values: Mapping[RecordRef, Sequence[str]], keys: Mapping[RecordRef, DataKey]) -> None:
        if not values:
            return
        rows = []
        for ref in sorted(values):
            plain = orjson.dumps(values[ref])
            mark = self._keyring.fingerprint(
                ref.tenant, b"called\0" + keys[ref].id.encode() + str(ref).encode() + plain
            )
            rows.append((*ref, mark, plain))
        names = ("tenant", "account", "object", "record_id", "mark")
        given = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        known = {row[0] for row in await self._statements.run(_KNOWN, {**given, "place": list(range(len(rows)))})}
        new = [row for place, row in enumerate(rows) if place not in known]
        if new:
            sealed = [seal(keys[RecordRef(*row[:4])], row[5], purpose=PURPOSE) for row in new]
            await self._statements.run(
                _KEEP, {**{name: [row[i] for row in new] for i, name in enumerate(names)}, "sealed": sealed}
            )

    def person_mark(self, ref: RecordRef) -> bytes:
        """A person as it stands in `erased_people`. Needs the keyring started."""
        return self._keyring.person_mark(ref)

    def address_mark(self, tenant: str, form: str) -> str:
        """An e-mail address as it stands in `key_people.person`. Needs the keyring started."""
        digest = self._keyring.fingerprint(tenant, b"person\0" + form.encode())
        return f"mail:{base64.urlsafe_b64encode(digest[:_MARK_BYTES]).decode()}"

    def value_mark(self, ref: RecordRef, form: str) -> bytes:
        """A value as it stands in `erased_values` of the record `ref`: of another record it is another."""
        return self._keyring.fingerprint(ref.tenant, f"value\0{ref}\0{form}".encode())

    async def erased(self, refs: Collection[RecordRef]) -> set[RecordRef]:
        """Which of these records are people who were erased."""
        people = [ref for ref in refs if ref.object in PEOPLE]
        if not people or not await self._anybody():
            return set()
        marks = {self._keyring.person_mark(ref): ref for ref in people}
        rows = await self._statements.run(_ERASED, {"marks": list(marks)})
        return {marks[bytes(row[0])] for row in rows}

    async def cleaned(
        self, tenant: str, account: str, object_: str, answers: Mapping[str, Read | Gone | Refused]
    ) -> dict[str, Read | Gone | Refused]:
        """What the CRM answered, without the people who were erased."""
        reads = {record_id: read for record_id, read in answers.items() if isinstance(read, Read)}
        if not reads or not await self._anybody():
            return dict(answers)

        def ref_of(each: Related) -> RecordRef:
            return RecordRef(tenant, account, each.object, each.id)

        gone = await self.erased({ref_of(each) for read in reads.values() for each in read.related})
        given = {"tenant": tenant, "account": account, "object": object_, "ids": list(reads)}
        called: dict[str, set[bytes]] = {}
        for record_id, value in await self._statements.run(_VALUES, given):
            called.setdefault(record_id, set()).add(bytes(value))
        clean = dict(answers)
        for record_id, read in reads.items():
            own = RecordRef(tenant, account, object_, record_id)
            values = called.get(record_id)
            marked = self._marked(own, values) if values else None
            clean[record_id] = without(object_, read, lambda each: ref_of(each) in gone, marked)
        return clean

    def _marked(self, ref: RecordRef, values: set[bytes]) -> _Marked:
        return _Marked(self, ref, values)

    async def request(self, refs: Collection[RecordRef]) -> None:
        """The CRM says that these people are to be erased. Safe to call again."""
        await self._keyring.start()
        for ref in refs:
            await self._statements.run(REQUEST, requested(ref, self._keyring.person_mark(ref), by="crm"))

    async def _anybody(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at > ASK_SECONDS:
            await self._keyring.start()
            rows = await self._statements.run("SELECT EXISTS (SELECT FROM erased_people)", {})
            self._any = bool(rows[0][0])
            self._asked_at = now
        return self._any


class _Marked:
    """Remembers what it was asked: a text says the same words again and again."""

    def __init__(self, people: People, ref: RecordRef, values: set[bytes]) -> None:
        self._people = people
        self._ref = ref
        self._values = values
        self._known: dict[str, bool] = {}

    def __call__(self, form: str) -> bool:
        found = self._known.get(form)
        if found is None:
            found = self._known[form] = self._people.value_mark(self._ref, form) in self._values
        return found
