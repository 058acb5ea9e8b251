"""Which letters are meant: what a person typed, as conditions on the index.

Law: pure. A filter that was given nothing matches every letter of its state, so whoever acts on many asks for more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from console.runtime import ConsoleError
from infra.database.tables import dead_letters as table
from schemas.dead_letter import Cause, Kind, kind_of

State = Literal["open", "redriven", "discarded", "all"]
IS_OPEN = sa.and_(table.c.redriven_at.is_(None), table.c.discarded_at.is_(None))
STATES: dict[str, sa.ColumnElement[bool]] = {
    "open": IS_OPEN,
    "redriven": sa.and_(table.c.redriven_at.is_not(None), table.c.discarded_at.is_(None)),
    "discarded": table.c.discarded_at.is_not(None),
    "all": sa.true(),
}
KINDS = ("poison", "account")


class LetterId(NamedTuple):
    """Where a letter lies on `crm.dead-letters`; people write it `3-1042`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> LetterId:
        """Raises ConsoleError when it is none."""
        partition, _, offset = text.partition("-")
        if not (partition.isdigit() and offset.isdigit()):
            raise ConsoleError(f"{text!r} is no letter's id: they look like 3-1042, see `hookline dead-letters list`")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Filter:
    """An empty field means any."""

    tenant: str = ""
    account: str = ""
    stage: str = ""
    cause: str = ""
    object: str = ""
    record: str = ""
    """The CRM's id of the record."""
    kind: str = ""
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""
    state: State = "open"

    def __post_init__(self) -> None:
        """Raises ConsoleError naming what is unknown."""
        if self.cause and self.cause not in Cause.__members__:
            raise ConsoleError(f"there is no cause {self.cause!r}: choose one of {', '.join(Cause)}")
        if self.kind and self.kind not in KINDS:
            raise ConsoleError(f"there is no kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.state not in STATES:
            raise ConsoleError(f"there is no state {self.state!r}: choose one of {', '.join(STATES)}")

    @property
    def narrow(self) -> bool:
        """Whether anything at all was asked for."""
        return any(getattr(self, each.name) for each in fields(self) if each.name != "state")

    def where(self) -> sa.ColumnElement[bool]:
        """As a condition on the index."""
        wanted: list[sa.ColumnElement[bool]] = [STATES[self.state]]
        for value, column in (
            (self.tenant, table.c.tenant),
            (self.account, table.c.account),
            (self.stage, table.c.stage),
            (self.cause, table.c.cause),
            (self.object, table.c.object),
            (self.record, table.c.record_id),
        ):
            if value:
                wanted.append(column == value)
        if self.kind:
            ours = _causes_of("account")
            wanted.append(table.c.cause.in_(ours) if self.kind == "account" else table.c.cause.not_in(ours))
        if self.since:
            wanted.append(table.c.at >= self.since)
        if self.until:
            wanted.append(table.c.at < self.until)
        return sa.and_(*wanted)


def _causes_of(kind: Kind) -> list[Any]:
    return [cause.value for cause in Cause if kind_of(cause) == kind]
