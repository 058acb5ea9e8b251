"""Ids and times in the vendors' spellings.

Law: pure functions and counters; nothing here knows a record.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SUFFIX = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


_second_cache: tuple[int, str] = (0, "")


def iso(ms: int) -> str:
    """`2026-11-22T21:49:24.123Z`, as HubSpot writes times."""
    global _second_cache  # noqa: PLW0603 - formatting one second once is a third of a read's cost
    second, rest = divmod(ms, 1000)
    known, text = _second_cache
    if known != second:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second_cache = (second, text)
    return f"{text}.{rest:03d}Z"


def salesforce_time(ms: int) -> str:
    """`2026-11-22T21:49:24.123+0000`, as Salesforce's REST API writes times."""
    return f"{iso(ms)[:-1]}+0000"


def millis(text: str) -> int | None:
    """Epoch milliseconds of an ISO date or time in either spelling, or of digits; None for anything else."""
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def salesforce_id(prefix: str, number: int, pod: str = "5g") -> str:
    """An 18-character id: object prefix, pod, number, and the suffix that makes it safe where case is lost."""
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = _ALPHABET[rest] + digits
    return with_suffix(f"{prefix}{pod}00000{digits.rjust(5, '0')}"[:15])


def with_suffix(short: str) -> str:
    """The 18-character form of a 15-character id; anything of another length is returned as it is.

    Rule: Salesforce Help, "What are record IDs?": each of three blocks of five gives a letter that tells its capitals.
    """
    if len(short) != 15:
        return short
    suffix = ""
    for block in (short[:5], short[5:10], short[10:]):
        suffix += _SUFFIX[sum(1 << i for i, c in enumerate(block) if "A" <= c <= "Z")]
    return short + suffix
