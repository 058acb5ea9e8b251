"""Where insights are carried to, the same for every destination.

Law: a destination writes what is newer and differs, and decides nothing about routing, retries or dead letters: it says
what became of each insight. Its version of a record never goes down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import Account
from infra.settings import Settings
from schemas.dead_letter import Cause
from schemas.insight import Insight


@dataclass(frozen=True, slots=True)
class Written:
    """The destination acknowledged it."""


@dataclass(frozen=True, slots=True)
class Stale:
    """It already holds this version or a newer one."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Newer, but nothing that it shows differs; its version is noted."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The record is no longer there: nobody's mistake, and nothing to do."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not take this until a person changes something: a dead letter."""

    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not now, for this record or account alone: set aside. `retry_after` in seconds, where known."""

    cause: str
    retry_after: float | None = None


Outcome = Written | Stale | Unchanged | Gone | Refused | Later


class Accounts(Protocol):
    """What a destination asks about accounts: `infra.accounts.Directory`."""

    def account(self, id: str) -> Account | None:  # noqa: A002 - the directory's name
        """From memory; never blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What destinations are built from."""

    settings: Settings
    engine: AsyncEngine
    accounts: Accounts
    fingerprint: Callable[[str, bytes], bytes]
    """HMAC of content under a key of the tenant."""
    touch: Callable[..., Awaitable[None]]
    """`Registry.touch`: notes when an account last got an insight."""
    disconnect: Callable[[str, str], Awaitable[object]]
    """Marks an account disconnected, with the reason that an admin reads, unless it was connected anew this moment."""


class Destination(Protocol):
    """One place to which insights are carried."""

    name: str
    keeps_history: bool
    """Whether it wants every version; else it gets the newest per record and analysis."""

    @property
    def crm(self) -> str | None:
        """The one CRM whose insights may belong here; None: any. Others' are passed over unopened, by the account in the clear."""
        ...

    def accepts(self, insight: Insight) -> bool:
        """Whether this insight belongs here. Neither blocks nor raises."""
        ...

    async def write(self, insights: Sequence[Insight]) -> list[Outcome]:
        """Write a batch; one outcome an insight, in order.

        Repeating it is harmless. Insights of one record are never in two calls at the same time. May wait; raises
        Unavailable when nothing can be written now by anybody, and then some of the batch may have been.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; may be called twice."""
        ...


class DestinationPlugin(Protocol):
    """A plug-in of this package: the one typed constant PLUGIN in which a destination's module ends."""

    name: str
    """As in HOOKLINE_DESTINATIONS; its consumer group is `hookline.sink.<name>`."""

    def build(self, needs: Needs) -> Destination:
        """Make it; opens nothing yet."""
        ...


def newest(insights: Sequence[Insight]) -> Mapping[tuple[object, str], int]:
    """Where in `insights` the newest of each record and analysis stands; of equal versions, the last."""
    found: dict[tuple[object, str], int] = {}
    for place, insight in enumerate(insights):
        key = (insight.ref, insight.analysis)
        if key not in found or insight.version >= insights[found[key]].version:
            found[key] = place
    return found
