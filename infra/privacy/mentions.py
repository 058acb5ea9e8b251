"""What is known of a person before it goes: by what values others call them, and which records do.

Law: reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from infra.keyring import Keyring, Undecryptable, key_id_of, open_sealed
from infra.privacy.people import PURPOSE, People
from schemas.record import RecordRef


class Mentions:
    """Stateless. Every method raises Unavailable when Postgres is away; the keyring is to be started before."""

    def __init__(self, engine: AsyncEngine, keyring: Keyring, people: People) -> None:
        self._statements = Statements(engine)
        self._keyring = keyring
        self._people = people

    async def values(self, ref: RecordRef) -> list[str]:
        """What the person is called, in normal form; empty when nothing is known or it cannot be read any more."""
        rows = await self._statements.run(
            """
            SELECT sealed_values FROM privacy_identifiers
            WHERE tenant = %(tenant)s AND account = %(account)s AND object = %(object)s AND record_id = %(id)s
            """,
            ref._asdict(),
        )
        if not rows:
            return []
        sealed = bytes(rows[0][0])
        try:
            key = (await self._keyring.by_id([key_id_of(sealed)])).get(key_id_of(sealed))
            found: list[str] = orjson.loads(open_sealed(key, sealed, purpose=PURPOSE)) if key else []
        except Undecryptable:
            return []
        return found

    def marks(self, ref: RecordRef, forms: Collection[str]) -> list[str]:
        """How the person's addresses stand in the index."""
        return [self._people.address_mark(ref.tenant, form) for form in forms if form.startswith("mail:")]

    async def mentioning(self, ref: RecordRef, forms: Collection[str]) -> list[RecordRef]:
        """The records whose keys sealed something about the person, in order; the person's own is not among them."""
        return await self.marked(ref, self.marks(ref, forms))

    async def marked(self, ref: RecordRef, marks: Sequence[str]) -> list[RecordRef]:
        """The same, by marks of addresses."""
        rows = await self._statements.run(
            """
            SELECT DISTINCT tenant, account, object, record_id FROM key_people
            WHERE tenant = %(tenant)s AND account = %(account)s AND person = ANY(%(people)s::text[])
              AND (object, record_id) <> (%(object)s, %(id)s)
            ORDER BY 1, 2, 3, 4
            """,
            {**ref._asdict(), "people": [f"{ref.object}/{ref.id}", *marks]},
        )
        return [RecordRef(*row) for row in rows]
