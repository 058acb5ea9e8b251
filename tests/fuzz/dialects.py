"""What must hold of a dialect whatever a body holds, and where the fuzzer's corpus lies."""

from __future__ import annotations

import re
import time
from pathlib import Path

from infra.accounts import Endpoint
from ingress.sources.source import Event, Ignored, Untranslatable
from tests.ingress.fakes import delivery, endpoint, sources

CORPUS = Path(__file__).parent / "corpus"
DIALECTS = ("hubspot", "salesforce", "standard_webhooks", "custom")
_DECLARED = {"preset": "salesforce_callout"}
MOST_SECONDS = 2.0
"""Of CPU for one body of 64 KB; on a busy machine too."""
MOST_OF_ACCOUNT = 255
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,255}")
SOURCES = sources()


class BrokenPromiseError(AssertionError):
    """A dialect did what it must never do; the body is the finding."""


def seeds(dialect: str) -> list[bytes]:
    """The corpus as it is kept."""
    return [path.read_bytes() for path in sorted((CORPUS / dialect).iterdir())]


def of(dialect: str) -> Endpoint:
    """The endpoint whose bodies these are."""
    return endpoint(dialect, config=_DECLARED) if dialect == "custom" else endpoint(dialect)


def check(dialect: str, body: bytes) -> frozenset[tuple[str, str]]:
    """Translate; returns what kinds of results came of it. Raises BrokenPromiseError."""
    before = time.process_time()
    try:
        found = list(SOURCES[dialect].translate(delivery(body, dialect, endpoint=of(dialect).id), of(dialect)))
    except Exception as error:
        raise BrokenPromiseError(f"it raised {type(error).__name__}") from error
    if time.process_time() - before > MOST_SECONDS:
        raise BrokenPromiseError(f"it took {time.process_time() - before:.1f} s")
    kinds: set[tuple[str, str]] = set()
    for one in found:
        if isinstance(one, Event):
            if not _ID.fullmatch(one.id) or not one.key or one.occurred_at.tzinfo is None:
                raise BrokenPromiseError("an event without shape")
            if not 0 < len(one.account) <= MOST_OF_ACCOUNT:
                raise BrokenPromiseError("an event of no account")
            kinds.add((one.object, one.kind))
        elif isinstance(one, Untranslatable):
            if len(one.detail) > 500 or "CANARY" in one.detail:
                raise BrokenPromiseError("a detail that repeats what was sent")
            kinds.add(("untranslatable", f"{one.cause} {re.sub(r'[0-9]+', '#', one.detail)}"))
        elif isinstance(one, Ignored):
            kinds.add(("ignored", one.reason))
        else:
            raise BrokenPromiseError(f"a result that is none: {type(one).__name__}")
    return frozenset(kinds)
