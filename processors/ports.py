"""What the processors need of the outside, no more: so that a test can give them a world of its own.

Law: protocols alone; the real ones are in `infra`, and `app.py` brings the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from infra.accounts import Account
from infra.kafka.ports import Opens, Publishes
from infra.kafka.raw import Raw
from schemas.dead_letter import Cause
from schemas.record import RecordRef

__all__ = ["Accounts", "Letter", "Opens", "Publishes", "owner_of", "write_letters"]


class Accounts(Protocol):
    """`infra.accounts.Directory`."""

    def account(self, id: str) -> Account | None:  # noqa: A002 - the directory's word
        """From memory; never blocks or raises."""
        ...

    async def refresh(self) -> bool:
        """Look for changes now; True when there were any. Raises what the database raises."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that is to be written once everything else of its batch is safe."""

    raw: Raw
    cause: Cause
    detail: str
    tenant: str
    ref: RecordRef | None = None


async def write_letters(publisher: Publishes, stage: str, letters: Sequence[Letter]) -> None:
    """Write them, one after the other: there are few, or the pump stops the role. Raises Unavailable."""
    for letter in letters:
        ref = letter.ref
        await publisher.dead_letter(
            letter.raw,
            stage=stage,
            cause=letter.cause,
            detail=letter.detail,
            tenant=letter.tenant,
            account=ref.account if ref else None,
            object=ref.object if ref else None,
            record_id=ref.id if ref else None,
        )


def owner_of(raw: Raw) -> tuple[str, RecordRef | None]:
    """Tenant and record of a message that could not be opened, from its clear headers and key; empty where unreadable."""
    headers = dict(raw.headers)
    tenant = (headers.get("hl_tenant") or b"").decode("utf-8", "replace")
    try:
        ref = RecordRef.parse((raw.key or b"").decode())
    except ValueError:
        return tenant, None
    return tenant or ref.tenant, ref
