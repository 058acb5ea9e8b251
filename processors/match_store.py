"""Where records wait to be recognised: table match_index, blocking keys as HMACs, features sealed under the record's key.

Law: tenant, account and kind of record are part of every condition; no name, address or number is readable in the table.
One record is compared with PER_RECORD others at most, and one block gives PER_BLOCK of them, so that a value that
everybody has costs no more than any other. A record whose key is destroyed is never found again.
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Protocol

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import WITHOUT_FLUSH, Statements
from infra.keyring import DataKey, Undecryptable, key_id_of, open_sealed, seal
from processors.matching import OBJECTS, Features, Match, blocking_keys, features, likely
from schemas.record import RecordRef, RecordSnapshot

PURPOSE = "match_index.sealed_features"
PER_BLOCK = 25
PER_RECORD = 50
MOST_MATCHES = 5
_BLOCK_BYTES = 15
ROWS_IN_MEMORY = 10_000
"""Rows that stay opened, some 10 MB; one is used only as long as its key is there."""
ROWS_AT_HAND = 500
"""Records whose blocks are not worked out again."""
_ROWS_AT_ONCE = 25
"""Compared without letting others of the process go on: a batch compares thousands."""

# A conflict locks its row even where nothing differs: what stands there already is left out. The batch that this belongs to keeps
# its own state afterwards, which takes this to the disk with it.
_UPSERT = f"""
    INSERT INTO match_index (tenant, account, object, record_id, blocks, sealed_features)
    SELECT tenant, account, object, record_id, string_to_array(blocks, ','), sealed
    FROM {WITHOUT_FLUSH} CROSS JOIN
         unnest(%(tenant)s::text[], %(account)s::text[], %(object)s::text[], %(record_id)s::text[],
                %(blocks)s::text[], %(sealed)s::bytea[]) AS given(tenant, account, object, record_id, blocks, sealed)
    WHERE NOT EXISTS (
        SELECT FROM match_index m
        WHERE (m.tenant, m.account, m.object, m.record_id) = (given.tenant, given.account, given.object, given.record_id)
          AND m.blocks = string_to_array(given.blocks, ',')
    )
    ON CONFLICT (tenant, account, object, record_id) DO UPDATE
    SET blocks = excluded.blocks, sealed_features = excluded.sealed_features
    WHERE match_index.blocks IS DISTINCT FROM excluded.blocks
"""  # noqa: S608 - made of constants
_REMOVE = """
    DELETE FROM match_index USING unnest(%(tenant)s::text[], %(account)s::text[], %(object)s::text[],
                                         %(record_id)s::text[]) AS given(tenant, account, object, record_id)
    WHERE match_index.tenant = given.tenant AND match_index.account = given.account
      AND match_index.object = given.object AND match_index.record_id = given.record_id
"""
# Only the index of blocks may be used to find: by the primary key each look would go through the whole account, and with few
# or no statistics that looks cheaper. Hence conditions that no index serves, and a materialised part: it is planned as if
# all of it were read, and yet only as much is read as is asked for.
_CANDIDATES = """
    WITH asked AS (
        SELECT * FROM unnest(%(place)s::int[], %(tenant)s::text[], %(account)s::text[], %(object)s::text[],
                             %(record_id)s::text[], %(block)s::text[]) AS q(place, tenant, account, object, record_id, block)
    ), hits AS (
        SELECT asked.place, other.record_id, other.row
        FROM asked CROSS JOIN LATERAL (
            WITH block AS MATERIALIZED (
                SELECT m.record_id, m.ctid AS row FROM match_index m
                WHERE m.blocks @> ARRAY[asked.block] AND m.tenant IS NOT DISTINCT FROM asked.tenant
                  AND m.account IS NOT DISTINCT FROM asked.account AND m.object IS NOT DISTINCT FROM asked.object
                  AND m.record_id <> asked.record_id
            )
            SELECT record_id, row FROM block LIMIT %(per_block)s::int
        ) AS other
    ), ranked AS (
        SELECT place, row, row_number() OVER (PARTITION BY place ORDER BY count(*) DESC, record_id) AS rank
        FROM hits GROUP BY place, record_id, row
    )
    SELECT ranked.place, m.record_id, m.sealed_features
    FROM ranked JOIN match_index m ON m.ctid = ranked.row
    WHERE ranked.rank <= %(per_record)s::int
"""


class Keys(Protocol):
    """`infra.keyring.Keyring`, as far as it is used here."""

    async def start(self) -> None:
        """Load what `fingerprint` needs."""
        ...

    async def for_records(self, refs: Collection[RecordRef]) -> dict[RecordRef, DataKey]:
        """A key per record, made where there is none."""
        ...

    async def by_id(self, key_ids: Collection[str]) -> dict[str, DataKey]:
        """Keys by id; an absent one is destroyed."""
        ...

    def fingerprint(self, tenant: str, data: bytes) -> bytes:
        """HMAC under the tenant's own key."""
        ...


class MatchStore:
    """Safe for any number of tasks of one event loop; what it keeps in memory are rows as they were opened. Every method raises what the engine and the keyring raise when Postgres is away."""

    def __init__(self, engine: AsyncEngine, keyring: Keys) -> None:
        self._statements = Statements(engine)
        self._keyring = keyring
        self._seen: OrderedDict[bytes, Features] = OrderedDict()
        self._blocked: OrderedDict[tuple[str, str, Features], list[str]] = OrderedDict()

    async def upsert(self, snapshots: Sequence[RecordSnapshot]) -> None:
        """Keep what these records are recognised by; one that can no longer be recognised is dropped. Safe to call again."""
        # Of other kinds there is nothing to keep, hence nothing to drop.
        known: dict[RecordRef, Features | None] = {
            snapshot.ref: features(snapshot) for snapshot in snapshots if snapshot.object in OBJECTS
        }
        await self.remove([ref for ref, found in known.items() if found is None])
        kept = {ref: found for ref, found in known.items() if found is not None}
        if not kept:
            return
        await self._keyring.start()
        keys = await self._keyring.for_records(kept)
        rows = []
        for ref in sorted(kept):  # one order for all, so that two batches never wait for each other
            plaintext = orjson.dumps(kept[ref].as_json(), option=orjson.OPT_SORT_KEYS)
            # The last block stands for the features as a whole and for their key: without a change there is nothing to write.
            whole = self._block(ref, b"whole:" + keys[ref].id.encode() + plaintext)
            blocks = [*self._blocks(ref, kept[ref]), whole]
            rows.append((*ref, ",".join(blocks), seal(keys[ref], plaintext, purpose=PURPOSE)))
        names = ("tenant", "account", "object", "record_id", "blocks", "sealed")
        await self._statements.run(_UPSERT, {name: [row[i] for row in rows] for i, name in enumerate(names)})

    async def remove(self, refs: Collection[RecordRef]) -> None:
        """Forget these records. Safe to call again."""
        if refs:
            ordered = sorted(set(refs))
            names = ("tenant", "account", "object", "record_id")
            await self._statements.run(_REMOVE, {name: [ref[i] for ref in ordered] for i, name in enumerate(names)})

    async def candidates(self, snapshots: Sequence[RecordSnapshot]) -> dict[RecordRef, tuple[Match, ...]]:
        """Likely duplicates of each record, best first, at most MOST_MATCHES; records without any are absent."""
        known = [(snapshot.ref, found) for snapshot in snapshots if (found := features(snapshot))]
        if not known:
            return {}
        await self._keyring.start()
        asked = [(place, *ref, block) for place, (ref, found) in enumerate(known) for block in self._blocks(ref, found)]
        names = ("place", "tenant", "account", "object", "record_id", "block")
        given = {name: [row[i] for row in asked] for i, name in enumerate(names)}
        rows = await self._statements.run(_CANDIDATES, {**given, "per_block": PER_BLOCK, "per_record": PER_RECORD})
        sealed_with = [key_id_of(sealed) for _, _, sealed in rows]
        keys = await self._keyring.by_id(set(sealed_with))
        found_by: dict[RecordRef, list[Match]] = {}
        for number, ((place, record_id, sealed), key_id) in enumerate(zip(rows, sealed_with, strict=True)):
            if number % _ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            ref, own = known[place]
            other = self._opened(sealed, keys.get(key_id))
            if other is not None and (judged := likely(own, other)) is not None:
                found_by.setdefault(ref, []).append(Match(record_id, *judged))
        return {
            ref: tuple(sorted(matches, key=lambda match: (-match.probability, match.id))[:MOST_MATCHES])
            for ref, matches in found_by.items()
        }

    def _blocks(self, ref: RecordRef, found: Features) -> list[str]:
        # Wanted twice a batch: to keep, and to look.
        asked = (ref.tenant, ref.account, found)
        blocks = self._blocked.pop(asked, None) or [self._block(ref, key.encode()) for key in blocking_keys(found)]
        self._blocked[asked] = blocks
        if len(self._blocked) > ROWS_AT_HAND:
            self._blocked.popitem(last=False)
        return blocks

    def _block(self, ref: RecordRef, key: bytes) -> str:
        # The account is part of the hash, so that one account's blocks say nothing about another's.
        digest = self._keyring.fingerprint(ref.tenant, f"match:{ref.account}\0".encode() + key)
        return base64.urlsafe_b64encode(digest[:_BLOCK_BYTES]).decode()

    def _opened(self, sealed: bytes, key: DataKey | None) -> Features | None:
        """What a row says; None where its key is destroyed. The same rows come again and again: one block gives the same ones."""
        if key is None:
            self._seen.pop(sealed, None)
            return None
        found = self._seen.get(sealed)
        if found is None:
            found = _open(sealed, key)
            if found is not None:
                self._seen[sealed] = found
                if len(self._seen) > ROWS_IN_MEMORY:
                    self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(sealed)
        return found


def _open(sealed: bytes, key: DataKey) -> Features | None:
    try:
        return Features.from_json(orjson.loads(open_sealed(key, sealed, purpose=PURPOSE)))
    except (Undecryptable, ValueError, TypeError):
        return None
