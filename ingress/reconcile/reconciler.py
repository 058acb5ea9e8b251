"""One account compared with its CRM: what was changed there and nobody told us goes onto the bulk lane.

Law: a record is announced by its id alone (the hydrator reads it, and counts it as missed if it differs from what was published).
All calls are bulk work: within the account's limits and the bulk share of its day. What is refused for one kind of record, or away
for one account, holds no other up; it is waited for where it stands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from infra import metrics
from infra.accounts import Account
from infra.crm.changed import Changed
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.crm.limits import bulk_work
from infra.telemetry import log
from ingress.reconcile.judging import is_known, was_seen
from ingress.reconcile.since import OBJECTS, Asks, changes_of, stretches
from ingress.reconcile.store import LostError, Reconciliations
from schemas.change import Change
from schemas.record import RecordRef

ACTIVITIES = frozenset({"note", "email"})
_BATCH = 100
_log = log("reconciler")


class Client(Asks, Protocol):
    """The side of `infra.crm.client.CrmClient` that is needed here."""

    own_objects: frozenset[str]

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:  # noqa: A002 - our word
        """See CrmClient."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """When, and how far back."""

    every: timedelta
    grace: timedelta
    """What is younger is left for the next time: its webhook may be under way, and a search index lags behind."""
    overlap: timedelta
    """Compared again, for the CRM's clock and index: more than both are late."""


class Reconciler:
    """Compares accounts, one at a time each; safe to call at once for different ones."""

    def __init__(
        self, store: Reconciliations, publish: Callable[[Sequence[Change]], Awaitable[Any]], pace: Pace
    ) -> None:
        """`publish` puts changes on the bulk lane and returns after the broker's acknowledgement."""
        self._store = store
        self._publish = publish
        self._pace = pace

    async def reconcile(self, account: Account, client: Client) -> int | None:
        """Go through every kind of record; returns how many were announced, None when somebody else is at it.

        Raises what the database and the broker raise; what the CRM refuses is noted.
        """
        async with self._store.owning(account.id) as held:
            # Asked again: another replica may have done it between the look and the lock.
            if not held or not await self._store.due([account.id], self._pace.every):
                return None
            fed = 0
            for object_ in OBJECTS:
                if object_ in client.own_objects or object_ in ACTIVITIES:
                    try:
                        fed += await self._kind(account, client, object_)
                    except LostError:
                        _log.warning("reconciliation_lost", account=account.id, object=object_)
                        break
                    except (AccountUnavailable, CrmUnavailable) as error:
                        cause = error.cause if isinstance(error, AccountUnavailable) else "CRM_UNAVAILABLE"
                        await self._store.wait(account.id, object_, cause)
                        _log.info("reconciliation_waits", account=account.id, object=object_, cause=cause)
                        if cause != "FORBIDDEN":
                            break
            return fed

    async def _kind(self, account: Account, client: Client, object_: str) -> int:
        pace = self._pace
        one = await self._store.begin(account, object_, first=pace.grace + pace.overlap, grace=pace.grace)
        assert one.until is not None
        fed = 0
        async for page in stretches(client, account, object_, one.since, until=one.until, after=one.position):
            if object_ in ACTIVITIES:
                found = await self._unseen_activities(account, client, object_, page.records)
            else:
                found = await self._unseen(account, object_, page.records)
            if found:
                await self._publish(found)
            fed += len(found)
            metrics.RECONCILED.labels(account.crm, "announced").inc(len(found))
            metrics.RECONCILED.labels(account.crm, "known").inc(max(0, len(page.records) - len(found)))
            one = await self._store.advance(one, page.next, compared=len(page.records), fed=len(found))
        await self._store.finish(one, pace.overlap)
        if fed:
            _log.info("reconciled", account=account.id, object=object_, compared=one.compared, announced=fed)
        return fed

    async def _unseen(self, account: Account, object_: str, rows: Sequence[Changed]) -> list[Change]:
        told = [(change, row) for row in rows for change in changes_of(account, object_, row)]
        knowledge = await self._store.known({change.ref for change, _ in told})
        found: dict[RecordRef, Change] = {}
        for change, row in told:
            # One that went into another is a deletion that nobody lists: HubSpot names it with the record that stayed.
            said = row if change.id == row.id else Changed(change.id, row.modified_at, deleted=True)
            if not is_known(said, change.ref, knowledge):
                found[change.ref] = change
        return list(found.values())

    async def _unseen_activities(
        self, account: Account, client: Client, object_: str, rows: Sequence[Changed]
    ) -> list[Change]:
        """A note shows on what it hangs on: those records are looked at, unless they were read since."""
        latest: dict[RecordRef, Changed] = {}
        living = [row for row in rows if not row.deleted]
        for start in range(0, len(living), _BATCH):
            some = {row.id: row for row in living[start : start + _BATCH]}
            with bulk_work():
                hang = await client.parents(account, object_, list(some))
            for ref, row in _pairs(account, some, hang):
                if ref not in latest or latest[ref].modified_at < row.modified_at:
                    latest[ref] = row
        knowledge = await self._store.known(latest)
        return [
            Change.model_validate(
                {
                    **ref._asdict(),
                    "kind": "associated",
                    "occurred_at": row.modified_at,
                    "properties": ("notes",),
                    "reason": "reconcile",
                }
            )
            for ref, row in latest.items()
            if ref not in knowledge.waiting
            and not ((known := knowledge.standings.get(ref)) and (known.deleted or was_seen(row.modified_at, known)))
        ]


def _pairs(
    account: Account, rows: dict[str, Changed], hang: dict[str, list[tuple[str, str]]]
) -> Iterable[tuple[RecordRef, Changed]]:
    for one, parents in hang.items():
        for object_, parent in parents:
            if one in rows and object_ not in ACTIVITIES and object_ != "other":
                yield RecordRef(account.tenant, account.id, object_, parent), rows[one]
