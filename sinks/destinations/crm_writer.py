"""A CRM as a destination, the same for every vendor: compare, note, write in one row a record, note again.

Law: one record is one row of one call, whatever number of analyses speak of it; nothing is sent that would change nothing.
Routing is the account's: an insight goes back to the org that its record came from.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from infra.accounts import JUST_CONNECTED_SECONDS, Account
from infra.crm.client import AccountUnavailable, AnswerLost, Busy, CrmClient, CrmUnavailable
from infra.crm.client import Gone as CrmGone
from infra.crm.client import Refused as CrmRefused
from infra.crm.client import Written as CrmWritten
from infra.together import all_of
from infra.unavailable import Unavailable
from schemas.dead_letter import Cause
from schemas.insight import Insight
from schemas.record import RecordRef
from sinks.destinations.crm_plan import Plan, as_found, plan
from sinks.destinations.crm_state import RECORD, CrmState, Row
from sinks.destinations.destination import Gone, Later, Needs, Outcome, Refused, Stale, Unchanged, Written, newest

T = TypeVar("T")
PROVISION_SECONDS = 600.0
"""After this long a missing field is provisioned again; more often, somebody is deleting it."""

TICK_SECONDS = 0.5
STANDSTILL_SECONDS = 5.0
"""A process that was stopped for this long may have lost its partitions: half of its session in the consumer group."""
MOST_UNCONFIRMED = 10_000
"""Records whose unconfirmed write a process remembers; older ones are known from their note alone."""
_WRITE_TRIES = 3
"""While answers are lost; between two of them the records are asked what arrived."""
_MARK_BYTES = 15


@dataclass(slots=True)
class _Turn:
    """One call of `write`."""

    claim: str
    """By which it is known whether somebody else took up the same record meanwhile."""
    began: float
    """By the monotonic clock, from before the look at what is known."""
    waited: float = 0.0
    """Seconds of it in which the CRM, or the account's limit, was waited for with the process alive."""

    async def waiting(self, call: Coroutine[Any, Any, T]) -> T:
        """What the call returns; waiting for it is no standstill."""
        task = asyncio.create_task(call)
        try:
            while not task.done():
                before = time.monotonic()
                await asyncio.wait((task,), timeout=TICK_SECONDS)
                # A tick that takes as long as a standstill was one.
                took = time.monotonic() - before
                self.waited += took if took < STANDSTILL_SECONDS else 0.0
            return task.result()
        finally:
            task.cancel()


@dataclass(slots=True)
class _Record:
    ref: RecordRef
    plan: Plan
    known: Mapping[str, Row]
    outcome: Outcome | None = None


class CrmDestination:
    """Implements Destination over a CrmClient."""

    keeps_history = False

    def __init__(self, needs: Needs, client: CrmClient, *, state: CrmState | None = None) -> None:
        self.name = self.crm = client.name
        self._client = client
        self._accounts = needs.accounts
        self._fingerprint = needs.fingerprint
        self._disconnect = needs.disconnect
        self._state = state if state is not None else CrmState(needs.engine, client.name)
        self._provisioned: dict[str, float] = {}
        self._unconfirmed: dict[RecordRef, None] = {}
        """What this process has sent and not noted as done, oldest first: a server that is killed forgets a note that was young."""

    def accepts(self, insight: Insight) -> bool:
        """See Destination."""
        return insight.crm == self.name and insight.object in self._client.own_objects

    async def close(self) -> None:
        """See Destination."""
        await self._client.close()

    async def write(self, insights: Sequence[Insight]) -> list[Outcome]:
        """See Destination."""
        last = newest(insights)
        by_ref: dict[RecordRef, list[Insight]] = {}
        for place in last.values():
            by_ref.setdefault(insights[place].ref, []).append(insights[place])
        groups: dict[tuple[str, str], list[RecordRef]] = {}
        for ref in by_ref:
            groups.setdefault((ref.account, ref.object), []).append(ref)
        barred = {
            ref: outcome
            for (account, _), refs in groups.items()
            if (outcome := self._barred(self._accounts.account(account), refs)) is not None
            for ref in refs
        }
        # What is there, and the note that a write begins, in one round trip: a crash from here on leaves a record to be asked.
        turn = _Turn(secrets.token_hex(8), time.monotonic())
        known = await self._state.take_up(
            {
                ref: {} if ref in barred else {one.analysis: one.version for one in given if not one.retracted}
                for ref, given in by_ref.items()
            },
            turn.claim,
        )
        records = {ref: _Record(ref, Plan((), {}, ()), known[ref], outcome) for ref, outcome in barred.items()}
        # One account's trouble is its own; only what concerns the whole CRM is raised, after the others are done.
        answers = await all_of(
            [
                self._group(account, object_, {ref: by_ref[ref] for ref in refs}, known, turn)
                for (account, object_), refs in groups.items()
                if refs[0] not in barred
            ]
        )
        for answer in answers:
            if isinstance(answer, CrmUnavailable):
                raise Unavailable(answer.crm, answer.retry_after, answer.detail) from answer
            if isinstance(answer, BaseException):
                raise answer
            records.update(answer)
        return [self._outcome(insight, place, last, records) for place, insight in enumerate(insights)]

    @staticmethod
    def _outcome(
        insight: Insight, place: int, last: Mapping[tuple[object, str], int], records: Mapping[RecordRef, _Record]
    ) -> Outcome:
        record = records[insight.ref]
        if last[insight.ref, insight.analysis] != place:
            return Stale()
        if isinstance(record.outcome, Written | Unchanged) and insight not in record.plan.fresh:
            return Stale()
        return record.outcome or Stale()

    async def _group(
        self,
        account_id: str,
        object_: str,
        by_ref: Mapping[RecordRef, Sequence[Insight]],
        known: Mapping[RecordRef, Mapping[str, Row]],
        turn: _Turn,
    ) -> dict[RecordRef, _Record]:
        """Records of one object of one account."""
        account = self._accounts.account(account_id)
        if account is None:
            # It was there a moment ago: the retry of the batch finds it gone and says so.
            raise CrmUnavailable(self.name, "its account was removed this moment")
        turn = replace(turn)  # others wait for other accounts
        unsure = {ref for ref in by_ref if ref in self._unconfirmed or known[ref].get(RECORD, Row()).pending}
        try:
            for tries_left in reversed(range(_WRITE_TRIES)):
                held = await self._held(account, object_, unsure, turn)
                records = {
                    ref: self._planned(ref, insights, known[ref], held.get(ref)) for ref, insights in by_ref.items()
                }
                sent = [record for record in records.values() if record.plan.values]
                try:
                    await self._send(account, object_, sent, turn)
                    break
                except AnswerLost:
                    if not tries_left:
                        raise
                    unsure |= {record.ref for record in sent}
        except AccountUnavailable as error:
            retry_after = error.retry_after
            if error.cause == "TOKEN_REVOKED":
                await self._disconnect(account.id, error.detail or error.cause)
                retry_after = JUST_CONNECTED_SECONDS
            later = Later(error.cause, retry_after)
            return {ref: _Record(ref, Plan((), {}, ()), known[ref], later) for ref in by_ref}
        await self._note(records, turn)
        return records

    def _barred(self, account: Account | None, refs: Sequence[RecordRef]) -> Outcome | None:
        if account is None or any(ref.tenant != account.tenant for ref in refs):
            return Refused(
                Cause.CRM_REFUSED_WRITE,
                "the account is not registered with this tenant: `hookline account add`, then redrive",
            )
        if account.state == "disconnected":
            return Later("DISCONNECTED", JUST_CONNECTED_SECONDS)
        return None

    async def _held(
        self, account: Account, object_: str, refs: Collection[RecordRef], turn: _Turn
    ) -> dict[RecordRef, Mapping[str, str] | CrmGone]:
        """What records hold of which a write was begun and never confirmed."""
        if not refs:
            return {}
        found = await turn.waiting(self._client.own_fields(account, object_, [ref.id for ref in refs]))
        return {ref: found[ref.id] for ref in refs}

    def _planned(
        self,
        ref: RecordRef,
        insights: Sequence[Insight],
        known: Mapping[str, Row],
        held: Mapping[str, str] | CrmGone | None,
    ) -> _Record:
        def mark(name: str, value: str) -> str:
            digest = self._fingerprint(ref.tenant, f"{self.name}/{ref.object}/{name}\0{value}".encode())
            return base64.b64encode(digest[:_MARK_BYTES]).decode()

        if isinstance(held, CrmGone):
            return _Record(ref, Plan((), {}, ()), known, Gone())
        if held is not None:
            known = as_found(known, held, mark)
        made = plan(insights, known, mark)
        if made.fresh:
            # The mark of a begun write is on the record's own row: it comes off with the others. And what the record was found
            # to hold is noted for all analyses: the next batch may speak of another one.
            noted = {RECORD: known.get(RECORD, Row())} if held is None else known
            made = replace(made, rows=tuple({**noted, **dict(made.rows)}.items()))
        return _Record(ref, made, known, None if made.values else Unchanged() if made.fresh else Stale())

    async def _send(self, account: Account, object_: str, records: Sequence[_Record], turn: _Turn) -> None:
        """Write and set each record's outcome."""
        if not records:
            return
        if (stood := time.monotonic() - turn.began - turn.waited) > STANDSTILL_SECONDS:
            # Others may have these records by now: what is known of them is looked at anew, should they still be ours.
            raise Unavailable("process", why=f"it stood still for {stood:.0f} s")
        rows = {record.ref.id: record.plan.values for record in records}
        self._remember(record.ref for record in records)
        answer = await self._client.write(account, object_, rows)
        missing = [one for one, found in answer.items() if isinstance(found, CrmRefused) and found.unknown_fields]
        if missing and time.monotonic() - self._provisioned.get(account.id, float("-inf")) > PROVISION_SECONDS:
            # An admin deleted a field of ours, or never had them made.
            self._provisioned[account.id] = time.monotonic()
            await self._client.provision(account)
            answer |= await self._client.write(account, object_, {one: rows[one] for one in missing})
        for record in records:
            record.outcome = _translated(answer[record.ref.id])

    def _remember(self, refs: Iterable[RecordRef]) -> None:
        self._unconfirmed.update(dict.fromkeys(refs))
        for ref in list(islice(self._unconfirmed, max(0, len(self._unconfirmed) - MOST_UNCONFIRMED))):
            del self._unconfirmed[ref]

    async def _note(self, records: dict[RecordRef, _Record], turn: _Turn) -> None:
        done = [
            (record.ref, analysis, row)
            for record in records.values()
            if isinstance(record.outcome, Written | Unchanged | Stale)
            for analysis, row in record.plan.rows
        ]
        overtaken = await self._state.done(done, turn.claim)
        for ref in records:
            self._unconfirmed.pop(ref, None)
        if overtaken:
            # Somebody else wrote while we wrote: which of the two came last, only the record itself can say.
            await self._state.doubt(overtaken)
            for ref in overtaken:
                records[ref].outcome = Later("OVERTAKEN")


def _translated(found: CrmWritten | CrmGone | CrmRefused | Busy) -> Outcome:
    if isinstance(found, CrmWritten):
        return Written()
    if isinstance(found, CrmGone):
        return Gone()
    if isinstance(found, Busy):
        return Later(found.category, found.retry_after)
    return Refused(Cause.CRM_REFUSED_WRITE, f"{found.category}{f': {found.detail}' if found.detail else ''}")
