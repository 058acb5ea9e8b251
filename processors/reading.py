"""What an analysis has read of a record: a keyed digest of all of it, and a mark for each of the pieces that it reads one by one.

Law: pure; nothing can be read back from it. Two readings are equal where nothing that the analysis reads differs; a piece is
known where the earlier reading had it as it is now, and all that is no piece is as it was, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import orjson

from processors.analyses.analysis import Analysis
from schemas.record import RecordSnapshot

DIGEST_BYTES = 32
MARK_BYTES = 8
_PIECES = DIGEST_BYTES + MARK_BYTES
Fingerprint = Callable[[str, bytes], bytes]
"""The keyring's: (tenant, data) → 32 bytes."""


def reading_of(analysis: Analysis, snapshot: RecordSnapshot, generation: int, fingerprint: Fingerprint) -> bytes:
    """The digest alone where there are no pieces; else the digest, a mark of all that is no piece, a mark a piece in their order."""

    def keyed(read: object) -> bytes:
        return fingerprint(snapshot.tenant, orjson.dumps(read, option=orjson.OPT_SORT_KEYS))

    rest = [analysis.name, analysis.version, generation, analysis.inputs(snapshot)]
    pieces = analysis.pieces(snapshot)
    if not pieces:
        return keyed(rest)
    marks = [keyed([analysis.name, name, piece])[:MARK_BYTES] for name, piece in pieces.items()]
    return b"".join((keyed([*rest, pieces]), keyed(rest)[:MARK_BYTES], *marks))


def known_of(names: Iterable[str], now: bytes, before: bytes) -> frozenset[str]:
    """Of the pieces (`names`, in the order in which the reading `now` marks them) those that the reading `before` had as they are."""
    if before[DIGEST_BYTES:_PIECES] != now[DIGEST_BYTES:_PIECES]:
        return frozenset()
    marks = set(_marks(before))
    return frozenset(name for name, mark in zip(names, _marks(now), strict=False) if mark in marks)


def _marks(reading: bytes) -> list[bytes]:
    return [reading[at : at + MARK_BYTES] for at in range(_PIECES, len(reading), MARK_BYTES)]
