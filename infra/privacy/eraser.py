"""The eraser: one person, everywhere, in steps that may each be done twice.

Law: a step's effects come before its note, so a crash repeats a step and never leaves one out. Which keys are destroyed is
written down first: a runner that lost its place to another destroys nothing that the other made anew.

    requested    listed        whom records mention, which keys those have; from here on nobody hydrates the person
    listed       destroyed     those keys, and what the tables hold
    destroyed    relisted      what was under way has ended: the keys that were made meanwhile
    relisted     wiped         those, too; the tables once more; tombstones on the compacted topics
    wiped        republished   a trigger for every record that mentioned the person: read again, without
    republished  retired       only at once: the keys of raw deliveries seal nothing new
    retired      unreadable    only at once: when all that they sealed is translated, they are destroyed
    unreadable   cleared       our own fields on the person's record in the CRM, if it is still there; last, because a
                               disconnected account may keep it waiting for long
    cleared      done          the person's id is forgotten, the audit entry written
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.accounts import Account
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable
from infra.crm.own_fields import OWN_FIELDS
from infra.database.statement import Statements
from infra.kafka.codec import Outgoing
from infra.keyring import Keyring
from infra.privacy.mentions import Mentions
from infra.privacy.people import People
from infra.privacy.requests import Erasure, Erasures, Step
from infra.privacy.wiping import rows_of, wipe
from infra.telemetry import log
from schemas.change import Change
from schemas.envelope import Envelope
from schemas.record import RecordRef
from schemas.topics import CHANGES, INSIGHTS, RECORDS, Topic

CRM_RETRY_SECONDS = 60.0
TRANSLATOR_RETRY_SECONDS = 5.0
_PAGE = 500

_log = log("privacy")


class Publishes(Protocol):
    """`infra.kafka.broker.Publisher`. Methods raise Unavailable; publishing twice is harmless."""

    async def publish(
        self, topic: Topic[Any], payloads: Sequence[Any], *, traceparents: Sequence[str] | None = None
    ) -> object:
        """Seal and publish."""
        ...

    async def publish_sealed(self, topic: Topic[Any], outgoing: Sequence[Outgoing]) -> object:
        """Publish what needs no sealing."""
        ...


class Accounts(Protocol):
    """`infra.accounts.Directory`."""

    def account(self, id: str) -> Account | None:  # noqa: A002 -- the directory's word
        """From memory; never blocks or raises."""
        ...


Backlog = Callable[[Mapping[str, int] | None], Awaitable[tuple[dict[str, int], int]]]
"""Where `crm.deliveries` ends (or ended, if that is given) by partition, and how many before it wait for the translator."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an erasure would do, in numbers."""

    rows: Mapping[str, int]
    """Of the person, by table."""
    mentioned_in: Mapping[str, int]
    """Records that mention the person, by object: each gets another key and is read and analysed again."""
    keys: int
    delivery_keys: int
    """Endpoints' hours whose deliveries become unreadable, everybody's in them."""
    endpoints: int


class _Wait(Exception):  # noqa: N818 -- no error: it comes again
    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class Eraser:
    """Any number may run in any number of processes: a lock in Postgres lets one at a time work on one erasure."""

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: Keyring,
        publisher: Publishes,
        *,
        accounts: Accounts,
        clients: Mapping[str, CrmClient],
        backlog: Backlog,
        settle_seconds: float,
    ) -> None:
        """`settle_seconds`: in which whatever was under way about the person ends, and every process forgets the keys."""
        self.erasures = Erasures(engine)
        self.people = People(engine, keyring)
        self._mentions = Mentions(engine, keyring, self.people)
        self._engine = engine
        self._statements = Statements(engine)
        self._keyring = keyring
        self._publisher = publisher
        self._accounts = accounts
        self._clients = clients
        self._backlog = backlog
        self._settle = settle_seconds
        self._steps: dict[Step, Callable[[Erasure], Awaitable[bool]]] = {
            "requested": self._list,
            "listed": self._destroy,
            "destroyed": self._relist,
            "relisted": self._wipe,
            "wiped": self._republish,
            "republished": self._retire,
            "retired": self._make_unreadable,
            "unreadable": self._clear,
            "cleared": self.erasures.finish,
        }

    async def run(self, erasure_id: str) -> Erasure | None:
        """Go as far as it goes now; returns where it stands. Raises what Postgres, Kafka or the settings raise."""
        async with self._engine.connect() as connection:
            locked = await connection.exec_driver_sql(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 7))", (f"hookline-privacy/{erasure_id}",)
            )
            if not locked.scalar():
                return await self.erasures.load(erasure_id)
            # The lock is the session's: a transaction that stays open meanwhile would only be in everybody's way.
            await connection.commit()
            try:
                await self._keyring.start()
                while (
                    (erasure := await self.erasures.load(erasure_id)) is not None
                    and erasure.step != "done"
                    and erasure.is_due
                ):
                    try:
                        if not await self._steps[erasure.step](erasure):
                            break
                    except _Wait as wait:
                        await self.erasures.wait(erasure, wait.why, wait.seconds)
                    else:
                        _log.info("erasure_step", erasure=erasure.id, tenant=erasure.tenant, behind=erasure.step)
            finally:
                # Given back to the pool with the lock on it, it would keep everybody out.
                await connection.invalidate()
        return await self.erasures.load(erasure_id)

    async def plan(self, ref: RecordRef) -> Plan:
        """Count, and change nothing."""
        await self._keyring.start()
        forms = await self._mentions.values(ref)
        mentioning = await self._mentions.mentioning(ref, forms)
        by_object: dict[str, int] = {}
        for each in mentioning:
            by_object[each.object] = by_object.get(each.object, 0) + 1
        endpoints = await self._endpoints(ref)
        return Plan(
            rows=await rows_of(self._engine, ref),
            mentioned_in=by_object,
            keys=len(await self._keyring.record_key_ids([ref, *mentioning])),
            delivery_keys=len(await self._keyring.delivery_key_ids(ref.tenant, endpoints)),
            endpoints=len(endpoints),
        )

    # The steps

    async def _list(self, erasure: Erasure) -> bool:
        ref = erasure.ref
        forms = await self._mentions.values(ref)
        marks = self._mentions.marks(ref, forms)
        mentioning = await self._mentions.marked(ref, marks)
        await self._bar(erasure, mentioning, forms)
        work = {
            "mentioning": [[each.object, each.id] for each in mentioning],
            # Sealed under a key that is about to go: what later finds need of them is taken along as HMACs alone.
            "people": marks,
            "analyses": await self._analyses(ref),
            "keys": await self._keyring.record_key_ids([ref, *mentioning]),
        }
        return await self.erasures.advance(
            erasure, "listed", work=work, counts={**erasure.counts, "records": len(mentioning)}
        )

    async def _destroy(self, erasure: Erasure) -> bool:
        counts = await self._destroyed(erasure)
        return await self.erasures.advance(
            erasure, "destroyed", work={**erasure.work, "keys": []}, counts=counts, wait_seconds=self._settle
        )

    async def _relist(self, erasure: Erasure) -> bool:
        # Everything that mentions the person by now, and every key that was made meanwhile.
        ref = erasure.ref
        mentioning = sorted(set(self._listed(erasure)) | set(await self._mentions.marked(ref, erasure.work["people"])))
        work = {
            **erasure.work,
            "mentioning": [[each.object, each.id] for each in mentioning],
            "keys": await self._keyring.record_key_ids([ref, *mentioning]),
        }
        return await self.erasures.advance(
            erasure, "relisted", work=work, counts={**erasure.counts, "records": len(mentioning)}
        )

    async def _wipe(self, erasure: Erasure) -> bool:
        counts = await self._destroyed(erasure)
        ref = erasure.ref
        now = datetime.now(UTC)
        tombstones: list[tuple[Topic[Any], str]] = [
            (RECORDS, str(ref)),
            *((INSIGHTS, f"{ref}/{name}") for name in erasure.work["analyses"]),
        ]
        for topic, key in tombstones:
            envelope = Envelope(
                id=uuid.uuid4().hex, type=topic.type, source="hookline/privacy", time=now, tenant=ref.tenant,
                account=ref.account, key_id="-",
            )  # fmt: skip
            await self._publisher.publish_sealed(
                topic, [Outgoing(key.encode(), None, envelope.headers(), str(ref).encode())]
            )
        return await self.erasures.advance(
            erasure,
            "wiped",
            work={**erasure.work, "keys": []},
            counts={**counts, "tombstones": len(tombstones)},
        )

    async def _clear(self, erasure: Erasure) -> bool:
        ref = erasure.ref
        account = self._accounts.account(ref.account)
        client = self._clients.get(account.crm) if account else None
        counts = dict(erasure.counts)
        if account and client and account.tenant == ref.tenant and ref.object in client.own_objects:
            if account.state == "disconnected":
                raise _Wait("for the account to be connected again, to empty our own fields there", CRM_RETRY_SECONDS)
            try:
                await client.write(account, ref.object, {ref.id: dict.fromkeys(OWN_FIELDS, "")})
            except (AccountUnavailable, CrmUnavailable) as error:
                raise _Wait(
                    "for the CRM, to empty our own fields there", error.retry_after or CRM_RETRY_SECONDS
                ) from error
            counts["crm_records"] = 1
        return await self.erasures.advance(erasure, "cleared", work=erasure.work, counts=counts)

    async def _republish(self, erasure: Erasure) -> bool:
        mentioning = self._listed(erasure)
        now = datetime.now(UTC)
        for start in range(0, len(mentioning), _PAGE):
            changes = [
                # Whatever the hydrator kept of it: what it publishes now is readable again.
                Change.model_validate({**each._asdict(), "kind": "updated", "occurred_at": now, "reason": "redrive"})
                for each in mentioning[start : start + _PAGE]
            ]
            await self._publisher.publish(CHANGES, changes, traceparents=[""] * len(changes))
        await self._statements.run(
            """
            DELETE FROM key_people
            WHERE tenant = %(tenant)s AND account = %(account)s AND person = ANY(%(people)s::text[])
            """,
            {
                "tenant": erasure.tenant,
                "account": erasure.account,
                "people": [f"{erasure.object}/{erasure.person_id}", *erasure.work["people"]],
            },
        )
        return await self.erasures.advance(
            erasure, "republished", work={}, counts={**erasure.counts, "republished": len(mentioning)}
        )

    async def _retire(self, erasure: Erasure) -> bool:
        if not erasure.at_once:
            return await self.erasures.advance(erasure, "unreadable", work={}, counts=erasure.counts)
        keys = await self._keyring.retire_deliveries(erasure.tenant, await self._endpoints(erasure.ref))
        return await self.erasures.advance(
            erasure, "retired", work={"keys": keys}, counts=erasure.counts, wait_seconds=self._settle
        )

    async def _make_unreadable(self, erasure: Erasure) -> bool:
        ends, waiting = await self._backlog(erasure.work.get("ends"))
        if waiting:
            if "ends" not in erasure.work:
                # What came before this moment is all that these keys can have sealed.
                await self.erasures.advance(
                    erasure, "retired", work={**erasure.work, "ends": ends}, counts=erasure.counts
                )
            raise _Wait(
                f"for the translator, to read {waiting} deliveries that would be lost: run that role",
                TRANSLATOR_RETRY_SECONDS,
            )
        destroyed = await self._keyring.destroy_keys(erasure.work["keys"])
        before = erasure.counts.get("delivery_keys", 0)
        return await self.erasures.advance(
            erasure, "unreadable", work={}, counts={**erasure.counts, "delivery_keys": before + destroyed}
        )

    # What they stand on

    async def _destroyed(self, erasure: Erasure) -> dict[str, int]:
        counts = dict(erasure.counts)
        keys = await self._keyring.destroy_keys(erasure.work["keys"])
        rows = await wipe(self._engine, erasure.ref, self._listed(erasure))
        for name, found in {"keys": keys, **rows}.items():
            counts[name] = counts.get(name, 0) + found
        return counts

    def _listed(self, erasure: Erasure) -> list[RecordRef]:
        return [RecordRef(erasure.tenant, erasure.account, *each) for each in erasure.work["mentioning"]]

    async def _bar(self, erasure: Erasure, mentioning: Sequence[RecordRef], forms: Sequence[str]) -> None:
        """From here on: no key for the person, no hydration; and no record that mentions the person is published unscrubbed."""
        values = [(each, self.people.value_mark(each, form)) for each in mentioning for form in forms]
        await self._statements.run(
            """
            WITH barred AS (
              INSERT INTO erased_people (mark, tenant) VALUES (%(mark)s, %(tenant)s) ON CONFLICT DO NOTHING
            )
            INSERT INTO erased_values (tenant, account, object, record_id, value)
            SELECT %(tenant)s, %(account)s, o, r, v
            FROM unnest(%(objects)s::text[], %(ids)s::text[], %(values)s::bytea[]) AS u(o, r, v)
            ON CONFLICT DO NOTHING
            """,
            {
                "mark": erasure.mark,
                "tenant": erasure.tenant,
                "account": erasure.account,
                "objects": [each.object for each, _ in values],
                "ids": [each.id for each, _ in values],
                "values": [value for _, value in values],
            },
        )

    async def _analyses(self, ref: RecordRef) -> list[str]:
        rows = await self._statements.run(
            """
            SELECT analysis FROM insights WHERE (tenant, account, object, record_id) = (%(tenant)s, %(account)s, %(object)s, %(id)s)
            UNION SELECT analysis FROM analyst_state WHERE tenant = %(tenant)s AND object = %(object)s
            ORDER BY 1
            """,
            ref._asdict(),
        )
        return [str(row[0]) for row in rows]

    async def _endpoints(self, ref: RecordRef) -> list[str]:
        rows = await self._statements.run(
            "SELECT endpoint FROM endpoint_accounts WHERE account = %(account)s ORDER BY 1", {"account": ref.account}
        )
        return [str(row[0]) for row in rows]
