"""The hydrator: a change names a record, the CRM says how it stands, and a snapshot follows if there is news in it.

Law: the CRM is read, never believed from a message; what the CRM refuses for one account or record holds nobody else up.
Order of effects: what was redriven noted → snapshot acknowledged → state kept → asides and dead letters → the pump commits. A
crash anywhere between repeats the batch, at worst with the same snapshot again.

Two owners at once: a member that lost its partitions without noticing (or the other lane) may publish what it read before
somebody else read and published. Who keeps its state and finds that another was kept since it loaded triggers the record
again (`fenced`), so that the last snapshot is the freshest. Should such a member die between publishing and keeping, the
analyst sees it: every snapshot carries the database's time from before its read began, and one whose time lies before
that of its predecessor on the topic triggers the record again, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import orjson

from infra import metrics
from infra.accounts import JUST_CONNECTED_SECONDS, Account
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable, Gone, Read, Refused
from infra.crm.limits import bulk_work
from infra.kafka.giving_way import GivingWay
from infra.kafka.raw import Raw
from infra.privacy.calling import PEOPLE
from infra.privacy.people import People
from infra.set_aside import Aside, SetAsideStore
from infra.telemetry import log, traceparent
from infra.together import all_of
from infra.unavailable import Unavailable
from processors import snapshots
from processors.hydration import (
    ACTIVITIES,
    LAG_ENDS_AFTER,
    OVERTAKEN,
    STAGE,
    Batch,
    Publication,
    by_account_and_object,
    fenced,
    fresh,
    is_late,
    parents_of,
    to_millis,
)
from processors.missed import Missed
from processors.ports import Accounts, Letter, Opens, Publishes, owner_of, write_letters
from processors.redriven import Redriven, asking_once
from processors.snapshots import SnapshotTooLargeError
from processors.state import HydratorState, Published, Standing
from processors.tracing import begin
from processors.triggers import Trigger, fold
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.record import MAX_SNAPSHOT_BYTES, Reason, RecordRef, RecordSnapshot
from schemas.topics import CHANGES, CHANGES_BULK, RECORDS, Topic

READ_LAGGED = "READ_LAGGED"
"""Aside: the CRM's answer is older than what it told us; read again shortly."""
DELETION_UNSEEN = "DELETION_UNSEEN"
"""Aside: the CRM announced a deletion and still answers; read again shortly."""
CREATION_UNSEEN = "CREATION_UNSEEN"
"""Aside: the CRM announced a creation and does not know the record yet; read again shortly."""
CLOCK_TOLERANCE = timedelta(seconds=2)
"""An event's time and its record's last-modified time come from two clocks of the CRM."""
LAG_SECONDS = 2.0
READS_AT_ONCE = 16
AT_ONE_GO = 16
"""Records that are looked at before others get their turn."""
OTHERS_HEARD_SECONDS = 30.0
"""Another account that answered within this time shows that it is not everybody's trouble."""

_NO_NEWS_THEMSELVES: frozenset[Reason] = frozenset({"webhook", "gap", "backfill", "reconcile"})

_log = log(STAGE)
T = TypeVar("T")


class Hydrator:
    """One per process, for both lanes. `handle` may run any number of times at once, on disjoint records."""

    def __init__(
        self,
        *,
        codec: Opens,
        publisher: Publishes,
        state: HydratorState,
        clients: Mapping[str, CrmClient],
        accounts: Accounts,
        set_aside: SetAsideStore,
        fingerprint: Callable[[str, bytes], bytes],
        disconnect: Callable[[str, str], Awaitable[object]],
        people: People | None = None,
        missed: Missed | None = None,
        redriven: Redriven | None = None,
        way: GivingWay | None = None,
        max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fingerprint` is the keyring's; `disconnect(account, reason)` tells the registry that
        access was revoked, which knows whether the account was connected anew meanwhile. `people`: whom records speak of, and
        who was erased; without it nobody was. `missed`: where it is counted what no webhook told. `redriven`: what was
        redriven before; without it nothing was.
        `way`: what the bulk lane gives way by; somebody else runs it.
        """
        self._codec = codec
        self._publisher = publisher
        self._state = state
        self._clients = clients
        self._accounts = accounts
        self._set_aside = set_aside
        self._fingerprint = fingerprint
        self._disconnect = disconnect
        self._people = people
        self._missed = missed
        self._redriven = redriven
        self._way = way or GivingWay()
        self._max_snapshot_bytes = max_snapshot_bytes
        self._monotonic = monotonic
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._heard: dict[str, float] = {}
        self._ours: dict[str, str | None] = {}
        self._counted: Counter[tuple[str, str]] = Counter()

    def on(self, topic: Topic[Change]) -> Callable[[Sequence[Raw]], Awaitable[None]]:
        """The handler for one lane's pump."""

        async def live(raws: Sequence[Raw]) -> None:
            self._way.saw_live()
            with bulk_work(False):
                await self.handle(topic, raws)

        async def bulk(raws: Sequence[Raw]) -> None:
            with bulk_work(True):
                async with self._way.turn():
                    await self.handle(topic, raws)

        return bulk if topic is CHANGES_BULK else live

    async def handle(self, topic: Topic[Change], raws: Sequence[Raw]) -> None:
        """Return when all that these changes cause is acknowledged. Raises Unavailable when nobody can go on now."""
        received, refused = await self._codec.open(topic, raws)
        letters = [Letter(raw, cause, detail, *owner_of(raw)) for raw, cause, detail in refused]
        if self._redriven is not None:
            received = await asking_once(received, self._redriven)
        triggers = fold(received)
        metrics.COALESCED.inc(len(received) - len(triggers))
        await self._leave_out_erased(triggers)
        if any(self._accounts.account(ref.account) is None for ref in triggers):
            # Its view follows within a second; before an account is called foreign, it is asked once more.
            await self._accounts.refresh()
        records, activities, waiting = self._sort(triggers.values(), letters)
        asked = [each.ref for each in (*records, *waiting) if each.erased and each.ref.object in PEOPLE]
        if asked and self._people is not None:
            await self._people.request(asked)
        clock, standings = await self._state.load([trigger.ref for trigger in records])
        batch = Batch(clock, standings, bulk=topic is CHANGES_BULK, letters=letters)
        for trigger in waiting:
            batch.aside(trigger, "TOKEN_REVOKED", JUST_CONNECTED_SECONDS)
        try:
            parents = await self._look(batch, records, activities)
            await self._publish(batch, topic, parents)
            await self._state.looked(batch.looked)
            await self._note_missed(batch)
        finally:
            self._show_counts()
            for span in batch.spans:
                span.end()
        await self._set_aside.put(batch.asides)
        await write_letters(self._publisher, STAGE, batch.letters)

    async def _leave_out_erased(self, triggers: dict[RecordRef, Trigger]) -> None:
        """Whoever was erased is not looked at again, whatever the CRM says of them."""
        if self._people is not None:
            for ref in await self._people.erased(triggers):
                self._count(triggers.pop(ref), "erased")

    def _sort(
        self, triggers: Iterable[Trigger], letters: list[Letter]
    ) -> tuple[list[Trigger], list[Trigger], list[Trigger]]:
        """What to read, what to look up the parents of, and what waits for its account."""
        records: list[Trigger] = []
        activities: list[Trigger] = []
        waiting: list[Trigger] = []
        for trigger in triggers:
            ref = trigger.ref
            account = self._accounts.account(ref.account)
            refusal: tuple[Cause, str] | None = None
            if account is None or account.tenant != ref.tenant or account.crm not in self._clients:
                refusal = Cause.FOREIGN_ACCOUNT, "no such account is registered for this tenant"
            elif ref.object == "other":
                refusal = Cause.UNSUPPORTED_EVENT, "no analysis reads this kind of object"
            if refusal:
                letters.append(Letter(trigger.newest.raw, *refusal, ref.tenant, ref))
            elif account is not None and account.state == "disconnected":
                waiting.append(trigger)
            elif ref.object in ACTIVITIES:
                activities.append(trigger)
            else:
                records.append(trigger)
        return records, activities, waiting

    # Reading

    async def _look(self, batch: Batch, records: list[Trigger], activities: list[Trigger]) -> list[tuple[Change, str]]:
        """Ask the CRMs about everything at once; fills the batch, and returns the parents' changes with their traces."""
        wanted = []
        for trigger in records:
            standing = batch.standings.get(trigger.ref)
            if trigger.erased:
                # Whoever asked for erasure is not to be read again, whatever the CRM still answers.
                self._gone(batch, trigger, standing, None)
            elif standing and standing.deleted and is_late(trigger, standing):
                self._count(trigger, "unchanged")
            else:
                wanted.append(trigger)
        reads = [(self._read, group) for group in by_account_and_object(wanted)]
        lookups = [(self._parents, group) for group in by_account_and_object(activities)]
        calls = [*reads, *lookups]
        answers: list[Any] = await all_of([ask(group) for ask, group in calls])
        failed: list[tuple[list[Trigger], CrmUnavailable]] = []
        parents: list[tuple[Change, str]] = []
        for (ask, group), answer in zip(calls, answers, strict=True):
            if isinstance(answer, AccountUnavailable):
                await self._without_account(batch, group, answer)
            elif isinstance(answer, CrmUnavailable):
                failed.append((group, answer))
            elif isinstance(answer, BaseException):
                raise answer
            elif ask == self._parents:
                parents.extend(parents_of(group, answer))
            else:
                await self._consider_all(batch, group, answer)
        self._without_crm(batch, failed)
        return parents

    async def _read(self, group: list[Trigger]) -> dict[str, Read | Gone | Refused]:
        account, client = self._account_of(group)
        ref = group[0].ref
        found = await self._asking(account, client.read(account, ref.object, [trigger.ref.id for trigger in group]))
        return found if self._people is None else await self._people.cleaned(ref.tenant, account.id, ref.object, found)

    async def _parents(self, group: list[Trigger]) -> dict[str, list[tuple[str, str]]]:
        account, client = self._account_of(group)
        return await self._asking(
            account, client.parents(account, group[0].ref.object, [trigger.ref.id for trigger in group])
        )

    async def _asking(self, account: Account, call: Awaitable[T]) -> T:
        async with self._reads:
            answer = await call
        self._heard[account.id] = self._monotonic()
        return answer

    def _account_of(self, group: list[Trigger]) -> tuple[Account, CrmClient]:
        account = self._accounts.account(group[0].ref.account)
        if account is None:
            # It was there when the batch began: the retry of the batch finds it gone and says so.
            raise CrmUnavailable(group[0].ref.account, "its account was removed this moment")
        return account, self._clients[account.crm]

    async def _without_account(self, batch: Batch, group: list[Trigger], error: AccountUnavailable) -> None:
        retry_after = error.retry_after
        if error.cause == "TOKEN_REVOKED":
            detail = error.detail or "the CRM refuses our access: connect the account again"
            await self._disconnect(error.account, detail)
            retry_after = JUST_CONNECTED_SECONDS
        for trigger in group:
            batch.aside(trigger, error.cause, retry_after)
            self._count(trigger, "set_aside")
        _log.warning("account_unavailable", account=error.account, cause=error.cause, records=len(group))

    def _without_crm(self, batch: Batch, failed: list[tuple[list[Trigger], CrmUnavailable]]) -> None:
        """A CRM that answers others is one account's trouble and costs only its records; else everybody waits."""
        if not failed:
            return
        troubled = {group[0].ref.account for group, _ in failed}
        now = self._monotonic()
        if not any(at > now - OTHERS_HEARD_SECONDS for account, at in self._heard.items() if account not in troubled):
            error = failed[0][1]
            raise Unavailable("crm", error.retry_after, error.crm)
        for group, error in failed:
            _log.warning("crm_unavailable", account=group[0].ref.account, records=len(group))
            for trigger in group:
                batch.aside(trigger, "CRM_UNAVAILABLE", error.retry_after)
                self._count(trigger, "set_aside")

    # Deciding

    async def _consider_all(
        self, batch: Batch, group: list[Trigger], answer: Mapping[str, Read | Gone | Refused]
    ) -> None:
        for place, trigger in enumerate(group):
            if place % AT_ONE_GO == 0:
                await asyncio.sleep(0)  # hundreds of records must not keep the loop from another's one
            await self._consider(batch, trigger, answer[trigger.ref.id])

    async def _consider(self, batch: Batch, trigger: Trigger, answer: Read | Gone | Refused) -> None:
        standing = batch.standings.get(trigger.ref)
        if isinstance(answer, Refused):
            batch.dead(trigger, Cause.CRM_REFUSED_READ, answer.category)
            self._count(trigger, "refused")
        elif isinstance(answer, Gone):
            if standing is None and trigger.reason == "webhook" and fresh(trigger.created_at, batch.clock):
                batch.aside(trigger, CREATION_UNSEEN, LAG_SECONDS)
            else:
                self._gone(batch, trigger, standing, answer)
        else:
            await self._found(batch, trigger, standing, answer)

    def _gone(self, batch: Batch, trigger: Trigger, standing: Standing | None, answer: Gone | None) -> None:
        explained = trigger.erased or trigger.deleted_at is not None or (standing is not None and standing.deleted)
        if not explained:
            batch.dead(trigger, Cause.RECORD_GONE, "the CRM no longer has this record")
        # A later deletion is told again: somebody may have seen the record alive in between, and not have said so yet.
        told = standing is not None and standing.deleted and trigger.occurred_at <= standing.modified_at
        if told and trigger.reason in {"webhook", "reconcile"}:
            self._count(trigger, "unchanged")
            return
        self._count(trigger, "gone")
        if standing is not None and not standing.deleted:
            batch.note_missed(trigger)
        at = max(trigger.occurred_at, standing.modified_at) if standing else trigger.occurred_at
        read_at = to_millis(batch.clock)
        snapshot = snapshots.gone(
            trigger.ref,
            trigger.ref.account.partition(":")[0],
            at=at,
            read_at=read_at,
            reason=trigger.reason,
            merged_into=answer.merged_into if answer else None,
        )
        self._will_publish(batch, trigger, snapshot, Standing(snapshots.DELETED, "{}", True, at, read_at))

    async def _found(self, batch: Batch, trigger: Trigger, standing: Standing | None, read: Read) -> None:
        account, client = self._account_of([trigger])
        prefix = client.own_prefix
        webhook = trigger.reason == "webhook"
        if webhook and fresh(trigger.deleted_at, batch.clock) and not trigger.revived:
            batch.aside(trigger, DELETION_UNSEEN, 10 * LAG_SECONDS)
            self._count(trigger, "set_aside")
            return
        alive = standing if standing and not standing.deleted else None
        if webhook and alive and read.modified_at < alive.modified_at and batch.clock - alive.read_at < LAG_ENDS_AFTER:
            batch.aside(trigger, READ_LAGGED, LAG_SECONDS)
            self._count(trigger, "set_aside")
            return
        try:
            content = snapshots.digest(self._key(trigger.ref), read, prefix)
        except (UnicodeEncodeError, orjson.JSONEncodeError):
            read = snapshots.repaired(read)
            content = snapshots.digest(self._key(trigger.ref), read, prefix)
        named_at = trigger.named_at(prefix)
        if webhook and named_at and read.modified_at + CLOCK_TOLERANCE < named_at and fresh(named_at, batch.clock):
            # What was announced may not be in here yet. What is, goes on at once.
            batch.aside(trigger, READ_LAGGED, LAG_SECONDS)
        reason = trigger.reason
        told_at = read.modified_at
        if reason in _NO_NEWS_THEMSELVES and alive and alive.content == content.whole:
            if await self._touched(trigger, alive, read, account, client):
                reason = "webhook"  # the edit weighs more than the sweep that it came together with
            elif webhook:
                self._count(trigger, "unchanged")
                return
            elif reason == "reconcile":
                # Nothing was missed (a write of our own, most often). That it was looked at is kept: it is not listed again.
                batch.looked[trigger.ref] = alive.read_at, to_millis(batch.clock)
                self._count(trigger, "unchanged")
                return
            else:
                # A sweep that found nothing new tells people nothing: an edit that did is still to be told, however late.
                told_at = alive.modified_at
        difference = snapshots.compare(content, alive.marks if alive else None, trigger.named, read.modified_at)
        read_at = to_millis(batch.clock)
        try:
            snapshot = snapshots.build(
                trigger.ref,
                account.crm,
                read,
                difference,
                own_prefix=prefix,
                read_at=read_at,
                edited_by=await self._editor(trigger, read, account, client),
                reason=reason,
                limit=self._max_snapshot_bytes,
            )
        except SnapshotTooLargeError as error:
            batch.dead(trigger, Cause.SNAPSHOT_TOO_LARGE, str(error))
            self._count(trigger, "refused")
            return
        self._count(trigger, "published")
        batch.note_missed(trigger)
        self._will_publish(batch, trigger, snapshot, Standing(content.whole, difference.marks, False, told_at, read_at))

    async def _touched(
        self, trigger: Trigger, alive: Standing, read: Read, account: Account, client: CrmClient
    ) -> bool:
        """Whether somebody else's edit left everything as it was: a value set and set back. It is news all the same, because
        people see on the record how new its insights are.
        """
        if read.modified_at <= alive.modified_at or trigger.occurred_at <= alive.modified_at:
            return False
        ours = await self._our_user(account, client) if trigger.authors else None
        news_at = trigger.news_at(client.own_prefix, ours)
        return news_at is not None and news_at > alive.modified_at

    async def _editor(self, trigger: Trigger, read: Read, account: Account, client: CrmClient) -> str | None:
        """Who made the last foreign edit, as far as anybody says."""
        for who in (trigger.edited_by, read.edited_by):
            if who and who != await self._our_user(account, client):
                return who
        return None

    async def _our_user(self, account: Account, client: CrmClient) -> str | None:
        configured = account.config.get("integration_user")
        if configured:
            return str(configured)
        if account.id not in self._ours:
            try:
                self._ours[account.id] = await client.integration_user(account)
            except (AccountUnavailable, CrmUnavailable):
                return None
        return self._ours[account.id]

    def _key(self, ref: RecordRef) -> bytes:
        return self._fingerprint(ref.tenant, f"hydrator\0{ref}".encode())

    # Publishing

    def _will_publish(self, batch: Batch, trigger: Trigger, snapshot: RecordSnapshot, standing: Standing) -> None:
        if batch.bulk:
            snapshot = snapshot.model_copy(update={"lane": "bulk"})
        span = begin("hydrate", trigger.traceparents, trigger.ref, batch.began_ns)
        batch.spans.append(span)
        batch.publications.append(Publication(snapshot, standing, trigger, span))

    async def _publish(self, batch: Batch, lane: Topic[Change], parents: list[tuple[Change, str]]) -> None:
        ready = batch.publications
        if parents:
            # The parent's own key orders them with whatever else happens to it.
            await self._publisher.publish(
                lane, [change for change, _ in parents], traceparents=[trace for _, trace in parents]
            )
        if not ready:
            return
        if self._people is not None:
            # Before anything is sealed: who is erased a moment later must be found by what lies on the topic.
            await self._people.index([each.snapshot for each in ready])
        await self._publisher.publish(
            RECORDS, [each.snapshot for each in ready], traceparents=[traceparent(each.span) for each in ready]
        )
        late = await self._state.save(
            {each.trigger.ref: Published(each.standing, batch.standings.get(each.trigger.ref)) for each in ready}
        )
        again = [each for each in ready if each.trigger.ref in late and each.trigger.reason != "fenced"]
        # Not at once: a fenced trigger that fences again would spin, should the database's clock be set back.
        later = [each for each in ready if each.trigger.ref in late and each.trigger.reason == "fenced"]
        if later:
            await self._set_aside.put([Aside(each.trigger.ref, STAGE, OVERTAKEN) for each in later])
        if again:
            _log.warning("fenced", records=len(again))
            await self._publisher.publish(
                CHANGES,
                [fenced(each.snapshot) for each in again],
                traceparents=[traceparent(each.span) for each in again],
            )

    async def _note_missed(self, batch: Batch) -> None:
        for (_, object_), number in batch.missed.items():
            metrics.MISSED.labels(object_).inc(number)
        if batch.missed and self._missed is not None:
            await self._missed.note(batch.missed)

    def _count(self, trigger: Trigger, outcome: str) -> None:
        self._counted[trigger.ref.object, outcome] += 1

    def _show_counts(self) -> None:
        """Once a batch: a counter's lock and look-up for each record cost more than counting."""
        counted, self._counted = self._counted, Counter()
        for (kind, outcome), number in counted.items():
            metrics.SNAPSHOTS.labels(kind, outcome).inc(number)
