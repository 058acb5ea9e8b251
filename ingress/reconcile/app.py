"""Wires the reconciler: a role of its own. Law: wires, looks who is due, and nothing else.

Why a role of its own: it needs the vendors' libraries and a way out to the CRMs, which the front door and the translator do
without; it consumes nothing; and a deployment may run one of it, or two for when one dies, whatever the others' numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from infra.accounts import Account
from infra.crm.client import CrmClient
from infra.crm.vendors import connect
from infra.role import Parts, Role
from infra.settings import Settings
from infra.unavailable import as_unavailable
from ingress.reconcile.reconciler import Pace, Reconciler
from ingress.reconcile.store import Reconciliations
from schemas.change import Change
from schemas.topics import CHANGES_BULK

LOOK_SECONDS = 5.0
AT_ONCE = 4
"""Accounts that one process compares at the same time."""


class ReconcilerRole(Role):
    """Every account compared with its CRM, every so often, by one of the replicas."""

    def __init__(self, settings: Settings, parts: Parts | None = None, *, look_seconds: float = LOOK_SECONDS) -> None:
        """`look_seconds`: how often it looks whose time has come."""
        super().__init__(settings, "reconciler", topics=[CHANGES_BULK], parts=parts)
        self._look_seconds = look_seconds
        self._clients: Mapping[str, CrmClient] = {}

    async def setup(self) -> None:
        """Wire."""
        self._clients = connect(self.settings)
        for client in self._clients.values():
            self.closing(client.close)
        if self.settings.reconcile_every_seconds > 0:
            self.background(self._run, "accounts")

    async def _run(self) -> None:
        settings = self.settings
        pace = Pace(
            every=timedelta(seconds=settings.reconcile_every_seconds),
            grace=timedelta(seconds=settings.reconcile_grace_seconds),
            overlap=timedelta(seconds=settings.reconcile_overlap_seconds),
        )
        store = Reconciliations(self.parts.engine)
        reconciler = Reconciler(store, self._publish, pace)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(account: Account) -> None:
            async with places:
                await self._patiently(reconciler, account)

        while True:
            try:
                known = {
                    each.id: each
                    for each in self.parts.directory.accounts().values()
                    if each.state == "active" and each.credentials is not None and each.crm in self._clients
                }
                async with asyncio.TaskGroup() as group:
                    for each in await store.due(list(known), pace.every):
                        group.create_task(one(known[each]))
            except Exception as error:
                if as_unavailable(error) is None:
                    raise
                self.log.warning("reconciliation_pauses", error=type(error).__name__)
            await asyncio.sleep(self._look_seconds)

    async def _patiently(self, reconciler: Reconciler, account: Account) -> None:
        """What one account meets is not the others' trouble: what is away now is tried when its time comes again."""
        try:
            await reconciler.reconcile(account, self._clients[account.crm])
        except Exception as error:
            if as_unavailable(error) is None:
                # A bug of ours with this account: said, and the others go on.
                self.log.exception("reconciliation_failed", account=account.id)
            else:
                self.log.warning("reconciliation_pauses", account=account.id, error=type(error).__name__)

    async def _publish(self, changes: Sequence[Change]) -> Any:
        return await self.publisher.publish(CHANGES_BULK, changes)


def build_app(settings: Settings, parts: Parts | None = None) -> ReconcilerRole:
    """The role."""
    return ReconcilerRole(settings, parts)
