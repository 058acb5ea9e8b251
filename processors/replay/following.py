"""What the analyst will find where records are read from the CRM anew: their snapshots and its own state, as they will be then.

Law: knows nothing of what the CRM says now. A snapshot is taken as the refresh will publish it if nothing has changed; the
state either as it stands, or as if everything that an analysis reads had changed. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from infra.kafka.codec import Received
from infra.kafka.raw import Raw
from processors.analyst import UNANSWERED
from processors.ports import Opens
from processors.replay.seams import P
from processors.state import AnalystState, Kept
from schemas.dead_letter import Cause
from schemas.insight import Version
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import Topic

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_EARLIER = Version(0, 0, 0)


class Reread:
    """Opens: each snapshot as a refresh makes it. `seen` and `deleted` say of whom there was one."""

    def __init__(self, inner: Opens) -> None:
        self._inner = inner
        self.seen: set[RecordRef] = set()
        self.deleted: set[RecordRef] = set()

    async def open(
        self, topic: Topic[P], raws: Sequence[Raw]
    ) -> tuple[list[Received[P]], list[tuple[Raw, Cause, str]]]:
        """See Opens. What was deleted asks nothing, and is left out."""
        opened, refused = await self._inner.open(topic, raws)
        kept = []
        for each in opened:
            if isinstance(each.payload, RecordSnapshot) and each.payload.deleted:
                self.deleted.add(each.payload.ref)
            elif isinstance(each.payload, RecordSnapshot):
                self.seen.add(each.payload.ref)
                kept.append(replace(each, payload=each.payload.model_copy(update={"reason": "replay", "lane": "bulk"})))
        return kept, refused


class Overtaken:
    """AnalystState: what was said, of snapshots that are older than those to come; with `changed` made from something else."""

    def __init__(self, inner: AnalystState, *, changed: bool) -> None:
        self._inner = inner
        self._changed = changed

    async def load(self, refs: Collection[RecordRef]) -> dict[RecordRef, dict[str, Kept]]:
        """See AnalystState."""
        found = await self._inner.load(refs)
        return {ref: {name: self._as_then(kept) for name, kept in rows.items()} for ref, rows in found.items()}

    async def save(self, rows: Mapping[tuple[RecordRef, str], Kept]) -> None:
        """Does nothing."""

    def _as_then(self, kept: Kept) -> Kept:
        read = UNANSWERED if self._changed else kept.input
        return replace(kept, input=read, read_at=_LONG_AGO, version=_EARLIER)
