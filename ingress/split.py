"""A delivery that is too large for one message, cut between its events.

Law: the only place where the door parses, and only what was verified and is too large. Every event's bytes stay exactly as
they were; what cannot be cut so that each part fits is refused whole. Nothing is ever truncated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol, runtime_checkable

_SPACE = " \t\n\r"
MAX_PARTS = 64


@runtime_checkable
class Splittable(Protocol):
    """A source whose deliveries are lists of events."""

    split: Callable[[bytes, int], list[bytes] | None]
    """The parts, each of at most so many bytes, or None where it cannot be cut. Must not raise; may take a while."""


def split_array(body: bytes, limit: int) -> list[bytes] | None:
    """Cut a JSON array into arrays of at most `limit` bytes, in order; None when it is none, or one event alone is larger."""
    try:
        text = body.decode()
        events = _events(text)
    except (ValueError, RecursionError):
        return None
    parts: list[bytes] = []
    waiting: list[bytes] = []
    size = 2
    for event in events:
        piece = event.encode()
        if len(piece) + 2 > limit:
            return None
        if waiting and size + len(piece) + 1 > limit:
            parts.append(b"[" + b",".join(waiting) + b"]")
            waiting, size = [], 2
        waiting.append(piece)
        size += len(piece) + 1
    if waiting:
        parts.append(b"[" + b",".join(waiting) + b"]")
    return parts if 0 < len(parts) <= MAX_PARTS else None


def _events(text: str) -> list[str]:
    """The elements of the array as they stand there; raises ValueError when it is no array."""
    scan = json.JSONDecoder().raw_decode
    place = _after_space(text, 0)
    if text[place : place + 1] != "[":
        raise ValueError("no array")
    found: list[str] = []
    place = _after_space(text, place + 1)
    while True:
        _, end = scan(text, place)
        found.append(text[place:end])
        place = _after_space(text, end)
        mark = text[place : place + 1]
        place = _after_space(text, place + 1)
        if mark == "]":
            if place != len(text):
                raise ValueError("something follows the array")
            return found
        if mark != ",":
            raise ValueError("no array")


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place
