"""What a part of `hookline status` is.

Law: `look` returns plain data (what JSON holds, and no content of a customer); `show` renders that same data and asks nothing
more, so that what people read and what `--json` says cannot differ. A new part is one such constant in `console.status.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import Registry
from infra.keyring import Keyring
from infra.settings import Settings


@dataclass(frozen=True, slots=True)
class Sight:
    """What a part looks with."""

    settings: Settings
    engine: AsyncEngine
    registry: Registry
    keyring: Keyring


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the status."""

    name: str
    """Its member of the JSON object."""
    look: Callable[[Sight], Awaitable[Any]]
    """Raises what Kafka and the database raise. Parts look one after the other, in their order."""
    show: Callable[[Any], Sequence[RenderableType]]
    """Nothing where there is nothing to say."""
