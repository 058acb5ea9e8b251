# ruff: noqa: A002 - `object` is the protocol's word
"""Everything that was changed since a moment: nothing left out at a page's edge, whatever happens while one pages."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.accounts import Account
from infra.crm import hubspot_changed, salesforce_changed
from infra.crm.changed import EPOCH, Changed, ChangedPage, Place, to_millis
from infra.crm.client import AccountUnavailable
from infra.crm.hubspot_portal import Rejected
from infra.crm.limits import is_bulk
from infra.crm.salesforce_org import Rejected as OrgRejected
from infra.local.sandbox import soql
from ingress.reconcile.since import changes_of, stretches

SINCE = datetime(2026, 11, 20, tzinfo=UTC)
UNTIL = SINCE + timedelta(seconds=60)
PORTAL = Account("hubspot:1", "acme", "hubspot", "", {}, {"access_token": "x"})
ORG = Account("salesforce:00D", "acme", "salesforce", "", {}, {"access_token": "x"})


def moment(millis: int) -> datetime:
    return SINCE + timedelta(milliseconds=millis)


class Crm:
    """Records by id with the moment of their last change; `later` are edits that happen while somebody pages, one a call."""

    def __init__(self, records: dict[int, int], later: list[tuple[int, int]], seed: int = 0) -> None:
        self.records = {one: moment(at) for one, at in records.items()}
        self.later = [(one, moment(at)) for one, at in later]
        self.edited: set[int] = set()
        self.random = random.Random(seed)
        self.calls = 0
        self.bulk: list[bool] = []

    def _something_happens(self) -> None:
        self.calls += 1
        self.bulk.append(is_bulk())
        if self.calls > 1 and self.later:
            one, at = self.later.pop()
            self.records[one] = at
            self.edited.add(one)


class HubSpot(Crm):
    """Its search: one sort rule, equal values in any order, another one each time."""

    async def call(self, account: Account, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._something_happens()
        assert (method, path) == ("POST", "/crm/v3/objects/deals/search")
        (group,), (sort,) = body["filterGroups"], body["sorts"]
        rows = [(one, at) for one, at in self.records.items() if all(_holds(f, one, at) for f in group["filters"])]
        self.random.shuffle(rows)
        rows.sort(key=lambda row: row[0] if sort["propertyName"] == "hs_object_id" else row[1])
        shown = [
            {"id": str(one), "properties": {"hs_lastmodifieddate": at.isoformat()}} for one, at in rows[: body["limit"]]
        ]
        return {"total": len(rows), "results": shown}

    async def changed(
        self, account: Account, object: str, since: datetime, until: datetime, after: str | None
    ) -> ChangedPage:
        pace = hubspot_changed.Pace(0)
        return await hubspot_changed.changed(self, pace, account, object, since=since, until=until, after=after)  # type: ignore[arg-type]


def _holds(condition: dict[str, Any], one: int, at: datetime) -> bool:
    have = one if condition["propertyName"] == "hs_object_id" else to_millis(at)
    want = int(condition["value"])
    return {"GTE": have >= want, "LTE": have <= want, "EQ": have == want, "GT": have > want}[condition["operator"]]


class Salesforce(Crm):
    """Its queries, as the sandbox understands SOQL."""

    absent: frozenset[str] = frozenset()

    async def call(self, account: Account, operation: str, ask: Any) -> Any:
        self._something_happens()
        return ask(self)

    def query(self, text: str, *, include_deleted: bool) -> dict[str, Any]:
        assert include_deleted
        asked = soql.parse(text)
        if asked.source in self.absent:
            raise OrgRejected(400, [{"errorCode": "INVALID_TYPE"}])
        rows = [
            {
                "Id": f"006{one:012}AAA",
                "SystemModstamp": at.isoformat(timespec="milliseconds"),
                "IsDeleted": one % 2 == 0,
            }
            for one, at in self.records.items()
        ]
        return {"records": soql.run(asked, rows), "done": True}

    async def changed(
        self, account: Account, object: str, since: datetime, until: datetime, after: str | None
    ) -> ChangedPage:
        return await salesforce_changed.changed(self, account, object, since=since, until=until, after=after)  # type: ignore[arg-type]


async def seen(crm: Any, account: Account, object: str = "deal") -> list[Any]:
    pages = [each async for each in stretches(crm, account, object, SINCE, until=UNTIL)]
    return [change for page in pages for row in page.records for change in changes_of(account, object, row)]


CRMS = pytest.mark.parametrize(("kind", "account"), [(HubSpot, PORTAL), (Salesforce, ORG)])
# Few moments and small pages: every edge that there is lies among equal times.
RECORDS = st.dictionaries(st.integers(1, 30), st.integers(-2, 6).map(lambda n: n * 10_000), max_size=25)
EDITS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9).map(lambda n: n * 10_000)), max_size=8)


@CRMS
@given(records=RECORDS, edits=EDITS, page=st.integers(2, 5), seed=st.integers(0, 5))
def test_no_record_is_left_out_at_a_pages_edge_whatever_is_edited_meanwhile(kind, account, records, edits, page, seed):
    # An edit never lies before what the record had: a CRM's clock goes forward.
    edits = [(one, at) for one, at in edits if one not in records or at > records[one]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hubspot_changed, "PAGE", page)
        patch.setattr(salesforce_changed, "PAGE", page)
        crm = kind(records, edits, seed)
        found = asyncio.run(seen(crm, account))
    ids = {int(each.id[3:15]) if kind is Salesforce else int(each.id) for each in found}
    owed = {one for one, at in records.items() if SINCE <= moment(at) <= UNTIL}
    # What was edited meanwhile may be seen, and must be where it still lies within the stretch's end.
    untouched = owed - crm.edited
    assert untouched <= ids
    assert ids <= owed | crm.edited
    assert all(crm.bulk), "every call is bulk work"
    assert not is_bulk(), "and nobody else's calls become so"


@CRMS
@given(records=RECORDS, page=st.integers(2, 5), stop=st.integers(1, 6))
def test_it_goes_on_where_it_stood(kind, account, records, page, stop):
    async def in_two(crm: Any) -> list[str]:
        ids: list[str] = []
        after = None
        place = 0
        async for read in stretches(crm, account, "deal", SINCE, until=UNTIL):
            ids += [row.id for row in read.records]
            place, after = place + 1, read.next
            if place == stop:
                break
        if after is not None:
            async for read in stretches(crm, account, "deal", SINCE, until=UNTIL, after=after):
                ids += [row.id for row in read.records]
        return ids

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hubspot_changed, "PAGE", page)
        patch.setattr(salesforce_changed, "PAGE", page)
        found = asyncio.run(in_two(kind(records, [])))
        assert set(found) == {each.id for each in asyncio.run(seen(kind(records, []), account))}


async def test_an_import_of_many_records_in_one_moment_is_walked_by_id():
    crm = HubSpot(dict.fromkeys(range(1, 351), 1_000) | {999: 2_000}, [])
    found = await seen(crm, PORTAL)
    assert {int(each.id) for each in found} == {*range(1, 351), 999}
    assert crm.calls <= 7


async def test_a_deleted_record_is_a_deletion_and_a_merged_one_is_named_with_the_one_that_stayed():
    (deleted,) = await seen(Salesforce({2: 0}, []), ORG)
    assert (deleted.kind, deleted.reason) == ("deleted", "reconcile")

    class Merged:
        async def changed(self, *_: Any) -> ChangedPage:
            return ChangedPage((Changed("7", SINCE, merged_ids=("8", "9")),), None)

    found = await seen(Merged(), PORTAL, "contact")
    assert [(each.id, each.kind) for each in found] == [("7", "updated"), ("8", "deleted"), ("9", "deleted")]


async def test_salesforces_several_kinds_of_notes_are_one_and_those_that_an_org_lacks_are_passed_over():
    org = Salesforce({3: 0}, [])
    assert len(await seen(org, ORG, "note")) == 3
    org = Salesforce({3: 0}, [])
    org.absent = frozenset({"Note", "ContentNote"})
    assert len(await seen(org, ORG, "note")) == 1


async def test_what_may_not_be_read_is_said_and_not_taken_for_nothing():
    org = Salesforce({3: 0}, [])
    org.absent = frozenset({"Opportunity"})
    with pytest.raises(AccountUnavailable):
        await seen(org, ORG)

    class Closed(HubSpot):
        async def call(self, *_: Any, **__: Any) -> dict[str, Any]:
            raise Rejected(403, {"category": "MISSING_SCOPES"})

    with pytest.raises(AccountUnavailable):
        await seen(Closed({}, []), PORTAL)


async def test_searches_of_one_account_keep_their_distance_and_another_accounts_do_not_wait():
    now, waits = 100.0, []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    pace = hubspot_changed.Pace(0.25, clock=lambda: now, sleep=sleep)
    for account in ("hubspot:1", "hubspot:1", "hubspot:2", "hubspot:1"):
        await pace.turn(account)
    assert waits == [0.25, 0.5]


@given(
    st.integers(0, 4_000_000_000_000),
    st.one_of(st.none(), st.integers(0, 10**18).map(str), st.just("006000000000001AAA")),
)
def test_a_cursor_says_its_place_again(millis, one):
    place = Place(EPOCH + timedelta(milliseconds=millis), one)
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize("cursor", ["x", "-1/2", "12/'; DROP", "12/3/4", "٣"])
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(ValueError, match="no cursor"):
        Place.parse(cursor)
