"""Moments as a person types them: `2026-11-23`, `2026-11-23T14:05Z`, or so long ago: `90s`, `15m`, `2h`, `3d`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from console.runtime import ConsoleError

_AGO = re.compile(r"(\d+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, *, now: datetime | None = None) -> datetime | None:
    """None for an empty text; without a zone it is UTC. Raises ConsoleError."""
    if not text:
        return None
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConsoleError(
            f"{text!r} is no time: write 2026-11-23, 2026-11-23T14:05Z, or how long ago: 90s, 15m, 2h, 3d"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
