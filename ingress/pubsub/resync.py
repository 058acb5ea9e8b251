"""Reading again what the bus could not tell: all of an object that was changed in a stretch of time, announced on the bulk lane.

Law: the place is kept behind Kafka's acknowledgement, under the stream's fence; whoever goes on after a crash repeats one page at
most, which is harmless. What is away is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from infra import metrics
from infra.accounts import Account
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.telemetry import log
from infra.unavailable import as_unavailable
from ingress.pubsub.store import Job, Owned, StreamStore
from ingress.reconcile.since import OBJECTS, Asks, changes_of, stretches
from schemas.change import Change

LOOK_EVERY_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 15.0

_log = log("salesforce-events")


class Resyncs:
    """The jobs of one stream that is ours."""

    def __init__(
        self,
        owned: Owned,
        *,
        account: Callable[[], Account | None],
        client: Asks,
        store: StreamStore,
        publish: Callable[[Sequence[Change]], Awaitable[Any]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`publish` puts changes on the bulk lane and returns after Kafka's acknowledgement."""
        self._owned = owned
        self._account = account
        self._client = client
        self._store = store
        self._publish = publish
        self._sleep = sleep

    async def run(self) -> None:
        """For as long as the stream is ours; raises Fenced afterwards."""
        while True:
            wait = LOOK_EVERY_SECONDS
            try:
                account = self._account()
                job = await self._store.next_job(self._owned.endpoint)
                if job is not None and account is not None and account.state == "active":
                    await self.do(account, job)
                    wait = 0.0
            except (AccountUnavailable, CrmUnavailable) as error:
                wait = max(AGAIN_SECONDS, error.retry_after or 0.0)
            except Exception as error:
                away = as_unavailable(error)
                if away is None:
                    raise
                wait = away.retry_after or AGAIN_SECONDS
            await self._sleep(wait)

    async def do(self, account: Account, job: Job) -> None:
        """One job to its end. Raises Fenced, AccountUnavailable, CrmUnavailable and Unavailable."""
        _log.info("resync", account=account.id, object=job.object, cause=job.cause, since=job.since.isoformat())
        if not job.position:
            metrics.RESYNCS.labels(job.cause).inc()
        if job.object not in OBJECTS:
            # Nobody reads these as a whole; each is looked at when it is next told of.
            await self._store.advance(self._owned, job, None, 0)
            return
        after = job.position or None
        async for page in stretches(self._client, account, job.object, job.since, until=job.until, after=after):
            changes = [change for row in page.records for change in changes_of(account, job.object, row)]
            if changes:
                await self._publish(changes)
            await self._store.advance(self._owned, job, page.next, len(changes))
            metrics.RESYNC_RECORDS.inc(len(changes))
