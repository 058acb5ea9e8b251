"""What a replay remembers: a shadow's results beside the live ones, and the last word after a replay that writes.

Law: results are sealed under their record's key, so who erases the record erases them. They are an AnalystState, so that a
shadow that was killed goes on where it was: what it said is known by its version.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from infra.keyring import DataKey, Undecryptable, open_sealed
from processors.analyst import PURPOSE
from processors.ports import Publishes
from processors.state import AnalystState, Kept, pack, unpack
from schemas.insight import Insight, Version
from schemas.record import RecordRef
from schemas.topics import INSIGHTS

PAGE = 500
_KEY = "tenant, account, object, record_id"
_REFS = "%(tenants)b::text[], %(accounts)b::text[], %(objects)b::text[], %(ids)b::text[]"
_LOAD = f"""
    SELECT k.ord, s.analysis, s.input, s.epoch, s.snapshot_offset, s.generation, s.sealed_insight
    FROM unnest({_REFS}) WITH ORDINALITY AS k ({_KEY}, ord)
    JOIN replay_results s USING ({_KEY}) WHERE s.replay = %(replay)s
"""  # noqa: S608 -- made of constants
_SAVE = f"""
    INSERT INTO replay_results AS s (replay, {_KEY}, analysis, input, epoch, snapshot_offset, generation, sealed_insight)
    SELECT %(replay)s, k.* FROM unnest({_REFS}, %(analyses)b::text[], %(inputs)b::bytea[], %(epochs)b::int[],
      %(offsets)b::bigint[], %(generations)b::int[], %(sealed)b::bytea[]) AS k
    ON CONFLICT (replay, {_KEY}, analysis) DO UPDATE SET
      input = EXCLUDED.input, epoch = EXCLUDED.epoch, snapshot_offset = EXCLUDED.snapshot_offset,
      generation = EXCLUDED.generation, sealed_insight = EXCLUDED.sealed_insight
"""  # noqa: S608 -- made of constants
_PAGE = f"""
    SELECT {_KEY}, analysis, input, epoch, snapshot_offset, generation, sealed_insight FROM replay_results
    WHERE replay = %(replay)s AND ({_KEY}, analysis) > (%(tenant)s, %(account)s, %(object)s, %(id)s, %(analysis)s)
    ORDER BY {_KEY}, analysis LIMIT {PAGE}
"""  # noqa: S608 -- made of constants


@dataclass(frozen=True, slots=True)
class Result:
    """What a shadow kept about one record and analysis."""

    ref: RecordRef
    analysis: str
    kept: Kept


class Results:
    """One replay's results: an AnalystState, and more. Methods raise Unavailable when Postgres is away."""

    def __init__(self, engine: AsyncEngine, replay: str) -> None:
        self._statements = Statements(engine)
        self._replay = replay

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """See AnalystState."""
        asked = list(refs)
        found: dict[RecordRef, dict[str, Kept]] = {}
        if asked:
            for place, analysis, *row in await self._statements.run(_LOAD, {**_refs(asked), "replay": self._replay}):
                found.setdefault(asked[place - 1], {})[analysis] = _kept(row)
        return found

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """See AnalystState."""
        if not rows:
            return
        kept = list(rows.values())
        given = {
            **_refs([ref for ref, _ in rows]),
            "replay": self._replay,
            "analyses": [analysis for _, analysis in rows],
            "inputs": [pack(row) for row in kept],
            "epochs": [row.version.epoch for row in kept],
            "offsets": [row.version.offset for row in kept],
            "generations": [row.version.generation for row in kept],
            "sealed": [row.sealed for row in kept],
        }
        await self._statements.run(_SAVE, given)

    async def pages(self) -> AsyncIterator[list[Result]]:
        """All of them, ordered by record."""
        last = ("", "", "", "", "")
        while True:
            names = ("tenant", "account", "object", "id", "analysis")
            given = {**dict(zip(names, last, strict=True)), "replay": self._replay}
            rows = await self._statements.run(_PAGE, given)
            if not rows:
                return
            yield [Result(RecordRef(*row[:4]), row[4], _kept(row[5:])) for row in rows]
            last = rows[-1][:5]

    async def clear(self) -> None:
        """Delete them."""
        await self._statements.run("DELETE FROM replay_results WHERE replay = %(replay)s", {"replay": self._replay})


class Keys(Protocol):
    """`infra.keyring.Keyring`, as far as it is used here."""

    async def for_records(self, refs: Collection[RecordRef]) -> Mapping[RecordRef, DataKey]:
        """A key per record, made where there is none; may wait for the database."""
        ...


class Guarded:
    """The live AnalystState during a replay that writes, with a second look at what it wrote.

    A live insight may be published between our look at the state and our own publication, and then lies before ours on a
    compacted topic, whose last word would be the older one. Whoever finds so on `settle` sends the newer one once more.
    """

    def __init__(self, inner: AnalystState, keys: Keys, publisher: Publishes) -> None:
        self._inner = inner
        self._keys = keys
        self._publisher = publisher
        self._written: dict[tuple[RecordRef, str], Version] = {}
        self._older: dict[tuple[RecordRef, str], Version] = {}

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """See AnalystState."""
        return await self._inner.load(refs)

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """See AnalystState."""
        await self._inner.save(rows)
        self._written.update({place: kept.version for place, kept in rows.items()})

    @property
    def wrote(self) -> bool:
        """Whether anything was written since the last `settle`."""
        return bool(self._written or self._older)

    async def settle(self) -> int:
        """Look again at what had been written before the last call, so that some time lies in between; returns how many had
        been overtaken. Safe to call again.
        """
        written, self._older, self._written = self._older, self._written, {}
        if not written:
            return 0
        try:
            states = await self._inner.load({ref for ref, _ in written})
            newer = {
                (ref, name): kept
                for (ref, name), version in written.items()
                if (kept := states.get(ref, {}).get(name)) is not None and kept.version > version
            }
            keys = await self._keys.for_records({ref for ref, _ in newer}) if newer else {}
            insights = [
                insight for (ref, _), kept in newer.items() if (insight := opened(keys[ref], kept.sealed)) is not None
            ]
            await self._publisher.publish(INSIGHTS, insights)
        except BaseException:
            self._older = {**written, **self._older}
            raise
        return len(insights)


def opened(key: DataKey, sealed: bytes) -> Insight | None:
    """The insight; None when it is sealed with a key that was destroyed."""
    try:
        return Insight.model_validate_json(open_sealed(key, sealed, purpose=PURPOSE))
    except Undecryptable:
        return None


def _kept(row: Sequence[Any]) -> Kept:
    packed, epoch, offset, generation, sealed = row
    return Kept(*unpack(bytes(packed)), Version(epoch, offset, generation), bytes(sealed))


def _refs(refs: list[RecordRef]) -> dict[str, list[str]]:
    return {
        "tenants": [ref.tenant for ref in refs],
        "accounts": [ref.account for ref in refs],
        "objects": [ref.object for ref in refs],
        "ids": [ref.id for ref in refs],
    }
