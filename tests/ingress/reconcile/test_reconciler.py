# ruff: noqa: A002 - `object` is the protocol's word
"""One account compared with its CRM: what is announced, what is known, and who may say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.accounts import Account
from infra.crm.changed import Changed, ChangedPage
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.crm.limits import is_bulk
from infra.unavailable import BrokerUnavailable
from ingress.reconcile.judging import Knowledge, Known, is_known
from ingress.reconcile.reconciler import Pace, Reconciler
from ingress.reconcile.store import LostError, Standing
from schemas.change import Change
from schemas.record import RecordRef

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ACCOUNT = Account("hubspot:1", "acme", "hubspot", "", {}, {"access_token": "x"})
PACE = Pace(timedelta(minutes=15), timedelta(minutes=2), timedelta(minutes=5))


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def ref(id: str = "7", object: str = "deal") -> RecordRef:
    return RecordRef("acme", ACCOUNT.id, object, id)


def known(modified: float, read: float, *, deleted: bool = False) -> Known:
    return Known(at(modified), at(read), deleted)


@dataclass
class Store:
    """The table in memory."""

    rows: dict[str, Standing] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    """By object, what it waits for; empty: for nothing."""
    standings: dict[RecordRef, Known] = field(default_factory=dict)
    waiting: set[RecordRef] = field(default_factory=set)
    held: bool = False
    rested: bool = False
    now: datetime = NOW

    @asynccontextmanager
    async def owning(self, account: str) -> AsyncIterator[bool]:
        mine, self.held = not self.held, True
        yield mine
        self.held = not mine

    async def due(self, accounts: Collection[str], every: timedelta) -> list[str]:
        return [] if self.rested else list(accounts)

    async def begin(self, account: Account, object_: str, *, first: timedelta, grace: timedelta) -> Standing:
        empty = Standing(account.id, object_, self.now - first, None, None, 0)
        row = self.rows.get(object_, empty)
        until = row.until or max(row.since, self.now - grace)
        self.rows[object_] = replace(row, until=until)
        self.causes.setdefault(object_, "")
        return self.rows[object_]

    def _mine(self, one: Standing) -> None:
        row = self.rows[one.object]
        if (row.until, row.position) != (one.until, one.position):
            raise LostError

    async def advance(self, one: Standing, position: str | None, *, compared: int, fed: int) -> Standing:
        self._mine(one)
        self.rows[one.object] = replace(one, position=position, compared=one.compared + compared)
        return self.rows[one.object]

    async def finish(self, one: Standing, overlap: timedelta) -> None:
        self._mine(one)
        assert one.until is not None
        since = max(one.since, one.until - overlap)
        self.rows[one.object] = replace(one, since=since, until=None, position=None)
        self.causes[one.object] = ""

    async def wait(self, account: str, object_: str, why: str) -> None:
        self.causes[object_] = why

    async def known(self, refs: Collection[RecordRef]) -> Knowledge:
        return Knowledge({one: self.standings[one] for one in refs if one in self.standings}, frozenset(self.waiting))


@dataclass
class Crm:
    """Pages by object; an exception among them is raised."""

    pages: dict[str, list[Sequence[Changed] | Exception]] = field(default_factory=dict)
    hang: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, datetime, datetime, str | None]] = field(default_factory=list)
    own_objects: frozenset[str] = frozenset({"contact", "company", "deal", "lead"})

    async def changed(
        self, account: Account, object: str, since: datetime, until: datetime, after: str | None
    ) -> ChangedPage:
        assert is_bulk()
        self.asked.append((object, since, until, after))
        pages = self.pages.get(object, [()])
        place = int(after or 0)
        page = pages[place]
        if isinstance(page, Exception):
            raise page
        return ChangedPage(tuple(page), str(place + 1) if place + 1 < len(pages) else None)

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        assert is_bulk()
        return {one: self.hang.get(one, []) for one in ids}


@dataclass
class Bench:
    store: Store = field(default_factory=Store)
    crm: Crm = field(default_factory=Crm)
    published: list[Change] = field(default_factory=list)
    away: bool = False

    async def publish(self, changes: Sequence[Change]) -> None:
        if self.away:
            raise BrokerUnavailable
        self.published += changes

    async def run(self) -> int | None:
        return await Reconciler(self.store, self.publish, PACE).reconcile(ACCOUNT, self.crm)  # type: ignore[arg-type]

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(one.object, one.id, one.kind) for one in self.published]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("row", "standing", "expected"),
    [
        (Changed("7", at(0)), None, False),
        (Changed("7", at(0)), known(0, 5), True),
        (Changed("7", at(10)), known(0, 5), False),
        (Changed("7", at(10)), known(0, 20), False),
        (Changed("7", at(10)), known(0, 60), True),
        (Changed("7", at(10)), known(5, 60, deleted=True), False),
        (Changed("7", at(5)), known(5, 60, deleted=True), True),
        (Changed("7", at(10), deleted=True), None, True),
        (Changed("7", at(10), deleted=True), known(5, 60, deleted=True), True),
        (Changed("7", at(10), deleted=True), known(5, 60), False),
    ],
    ids=[
        "a record that we never saw",
        "a state that was published",
        "a later state",
        "read so shortly after that clocks may differ",
        "read well after it: nothing differed then",
        "restored",
        "deleted, and still in the search index",
        "deleted before we ever saw it",
        "deleted, as we know",
        "deleted, as nobody told us",
    ],
)
def test_what_is_known(row, standing, expected):
    assert is_known(row, ref(), Knowledge({ref(): standing} if standing else {})) is expected


def test_what_waits_to_be_read_is_known():
    assert is_known(Changed("7", at(0)), ref(), Knowledge({}, frozenset({ref()})))


async def test_only_what_is_not_known_is_announced(bench):
    bench.crm.pages["deal"] = [[Changed("1", at(-300)), Changed("2", at(-300))]]
    bench.store.standings[ref("1")] = known(-300, -290)
    assert await bench.run() == 1
    (change,) = bench.published
    assert (change.ref, change.reason, change.kind, change.occurred_at) == (ref("2"), "reconcile", "updated", at(-300))


async def test_records_that_went_into_another_are_deletions_unless_they_are_known(bench):
    bench.crm.pages["contact"] = [[Changed("1", at(-300), merged_ids=("8", "9", "10"))]]
    bench.store.standings = {
        ref("1", "contact"): known(-300, -290),
        ref("8", "contact"): known(-400, -390),
        ref("9", "contact"): known(-400, -390, deleted=True),
    }
    await bench.run()
    assert bench.told == [("contact", "8", "deleted")]


async def test_a_note_is_a_change_of_what_it_hangs_on_once_and_only_if_that_was_not_read_since(bench):
    bench.crm.pages["note"] = [
        [Changed("n1", at(-300)), Changed("n2", at(-290)), Changed("n3", at(-300), deleted=True)]
    ]
    bench.crm.hang = {"n1": [("deal", "1"), ("deal", "2")], "n2": [("deal", "1"), ("note", "n1")]}
    bench.store.standings = {ref("1"): known(-400, -390), ref("2"): known(-400, -10)}
    await bench.run()
    (change,) = bench.published
    assert (change.ref, change.kind, change.properties, change.occurred_at) == (
        ref("1"),
        "associated",
        ("notes",),
        at(-290),
    )


async def test_a_stretch_ends_before_what_may_be_under_way_and_the_next_overlaps_it(bench):
    await bench.run()
    bench.store.now = at(900)
    await bench.run()
    (_, _, first_until, _), (_, since, until, _) = [each for each in bench.crm.asked if each[0] == "deal"]
    assert first_until == at(-120)
    assert (since, until) == (at(-120 - 300), at(900 - 120))


async def test_after_a_crash_between_acknowledgement_and_note_a_page_is_told_again_and_none_is_left_out(bench):
    bench.crm.pages["deal"] = [[Changed("1", at(-300))], [Changed("2", at(-300))]]
    bench.crm.pages["company"] = [[Changed("3", at(-300))]]
    advance, crashes = bench.store.advance, [True]

    async def dies(one: Standing, position: str | None, **numbers: Any) -> Standing:
        if one.object == "deal" and crashes:
            crashes.clear()
            raise KeyboardInterrupt
        return await advance(one, position, **numbers)

    bench.store.advance = dies
    with pytest.raises(KeyboardInterrupt):
        await bench.run()
    bench.store.held = False
    until = bench.store.rows["deal"].until
    bench.store.now = at(1)
    await bench.run()
    assert [one for kind, one, _ in bench.told if kind == "deal"] == ["1", "1", "2"]
    assert [each[2] for each in bench.crm.asked if each[0] == "deal"] == [until] * 3, (
        "the stretch under way is ended first"
    )


async def test_while_the_broker_is_away_nothing_counts_as_told(bench):
    bench.crm.pages["deal"] = [[Changed("1", at(-300))]]
    bench.away = True
    with pytest.raises(BrokerUnavailable):
        await bench.run()
    bench.away, bench.store.held = False, False
    await bench.run()
    assert bench.told == [("deal", "1", "updated")]


async def test_one_kind_that_may_not_be_read_does_not_hold_the_others_up(bench):
    bench.crm.pages = {
        "company": [AccountUnavailable(ACCOUNT.id, "FORBIDDEN", "MISSING_SCOPES")],
        "deal": [[Changed("1", at(-300))]],
    }
    await bench.run()
    assert bench.told == [("deal", "1", "updated")]
    assert (bench.store.causes["company"], bench.store.causes["deal"]) == ("FORBIDDEN", "")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (AccountUnavailable(ACCOUNT.id, "QUOTA_SPENT"), "QUOTA_SPENT"),
        (AccountUnavailable(ACCOUNT.id, "TOKEN_REVOKED"), "TOKEN_REVOKED"),
        (CrmUnavailable("hubspot"), "CRM_UNAVAILABLE"),
    ],
)
async def test_what_is_spent_revoked_or_away_is_waited_for_where_it_stands(bench, error, cause):
    bench.crm.pages["contact"] = [[Changed("1", at(-300))], error]
    await bench.run()
    assert bench.store.causes["contact"] == cause
    assert "deal" not in bench.store.rows, "no further call of this account"
    bench.crm.pages["contact"] = [[Changed("1", at(-300))], [Changed("2", at(-300))]]
    await bench.run()
    assert bench.told == [("contact", "1", "updated"), ("contact", "2", "updated")]
    assert bench.store.causes["contact"] == ""


async def test_one_replica_compares_and_another_that_comes_later_finds_it_done(bench):
    bench.store.held = True
    assert await bench.run() is None
    bench.store.held, bench.store.rested = False, True
    assert await bench.run() is None
    assert bench.crm.asked == []


async def test_an_owner_that_wakes_up_late_changes_nothing(bench):
    bench.crm.pages["deal"] = [[Changed("1", at(-300))], [Changed("2", at(-300))]]
    changed = bench.crm.changed

    async def hangs(account: Account, object: str, *rest: Any) -> ChangedPage:
        page = await changed(account, object, *rest)
        if object == "deal":  # meanwhile somebody else ends this stretch
            bench.store.rows["deal"] = replace(bench.store.rows["deal"], until=None, since=at(50))
        return page

    bench.crm.changed = hangs
    await bench.run()
    assert bench.store.rows["deal"].since == at(50)
