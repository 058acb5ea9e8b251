"""A promoted shadow's results, said again as what they are: answers that were paid for already.

Law: a result speaks only for the very input that it was made from; for any other the analysis is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from processors.analyses.analysis import Analysis, Context, Finding
from processors.reading import Fingerprint, reading_of
from processors.replay.results import Keys, Results, opened
from processors.replay.seams import Tally
from processors.state import Kept
from schemas.record import RecordRef, RecordSnapshot

SHADOW_GENERATION = 0
"""What a shadow's results carry until they are promoted: below every live one."""


@dataclass(slots=True)
class Shelf:
    """The results of one page of records; `fetch` before the analyst is given the page."""

    results: Results
    keys: Keys
    fingerprint: Fingerprint
    tally: Tally
    _page: Mapping[RecordRef, Mapping[str, Kept]] = ()  # type: ignore[assignment]  # filled by fetch

    async def fetch(self, refs: Collection[RecordRef]) -> None:
        """One round trip for all of them."""
        self._page = await self.results.load(refs)

    async def take(self, analysis: Analysis, snapshot: RecordSnapshot) -> Finding | None:
        """What the shadow said of this very input."""
        kept = self._page.get(snapshot.ref, {}).get(analysis.name)
        if kept is None:
            return None
        if kept.input != reading_of(analysis, snapshot, SHADOW_GENERATION, self.fingerprint):
            return None
        key = (await self.keys.for_records([snapshot.ref]))[snapshot.ref]
        insight = opened(key, kept.sealed)
        if insight is None or insight.payload is None:
            return None
        self.tally("taken_over")
        return Finding(
            payload=insight.payload,
            model=insight.model,
            prompt_version=insight.prompt_version,
            usage=insight.usage,
            dropped_claims=insight.dropped_claims,
        )


class Prepared:
    """An analysis that looks at the shelf before it asks."""

    def __init__(self, inner: Analysis, shelf: Shelf) -> None:
        self._inner = inner
        self._shelf = shelf
        self.name = inner.name
        self.objects = inner.objects
        self.wants_matches = inner.wants_matches

    @property
    def version(self) -> str:
        """See Analysis."""
        return self._inner.version

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """See Analysis."""
        return self._inner.inputs(snapshot)

    def pieces(self, snapshot: RecordSnapshot) -> Mapping[str, Any]:
        """See Analysis."""
        return self._inner.pieces(snapshot)

    async def analyse(self, context: Context) -> Finding:
        """See Analysis."""
        return await self._shelf.take(self._inner, context.snapshot) or await self._inner.analyse(context)
