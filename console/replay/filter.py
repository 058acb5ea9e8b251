"""Which messages a replay is about, as a person says it and as the table `replays` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from console.reading import Selection
from console.runtime import ConsoleError
from schemas.record import RecordRef


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty fields mean any."""

    tenant: str = ""
    account: str = ""
    object: str = ""
    record: str = ""
    """`tenant/account/object/id`."""
    analyses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    partition: int | None = None
    start: int | None = None
    """Offset, inclusive."""
    stop: int | None = None
    """Offset, exclusive."""
    destination: str = ""
    """From `crm.insights`: for whom; empty: all."""

    @property
    def ref(self) -> RecordRef | None:
        """The one record; raises ConsoleError when it is not written as one."""
        if not self.record:
            return None
        try:
            return RecordRef.parse(self.record)
        except ValueError as error:
            raise ConsoleError(str(error)) from error

    def selection(self, *, by_key: bool = True) -> Selection:
        """What keys and headers can say of it. `by_key=False`: a delivery's key names its tenant alone."""
        since = int(self.since.timestamp() * 1000) if self.since else None
        until = int(self.until.timestamp() * 1000) if self.until else None
        tenant = self.tenant or (self.ref.tenant if self.ref else "")
        if not by_key:
            return Selection(tenant=tenant, since_ms=since, until_ms=until)
        return Selection(tenant, self.account, self.object, self.ref, since, until)

    def takes(self, ref: RecordRef) -> bool:
        """Whether a record is meant."""
        return (
            (not self.tenant or ref.tenant == self.tenant)
            and (not self.account or ref.account == self.account)
            and (not self.object or ref.object == self.object)
            and (self.ref is None or ref == self.ref)
        )

    def as_json(self) -> dict[str, Any]:
        """For the table; what says nothing is left out."""
        found = {name: value for name, value in asdict(self).items() if value not in {None, "", ()}}
        for name in ("since", "until"):
            if name in found:
                found[name] = found[name].isoformat()
        return found

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From `as_json`."""
        found = dict(given)
        for name in ("since", "until"):
            if name in found:
                found[name] = datetime.fromisoformat(found[name])
        return cls(**{**found, "analyses": tuple(found.get("analyses", ()))})

    def words(self) -> str:
        """For people."""
        given = self.as_json()
        return (
            ", ".join(
                f"{name} {', '.join(value) if isinstance(value, list | tuple) else value}"
                for name, value in given.items()
            )
            or "every record as it stands"
        )
