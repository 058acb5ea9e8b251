"""Which messages are handled, in which order, and what is left after a crash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from console.replay.filter import Filter
from console.replay.index import PAGE, WINDOW, Index, Item, _keep, windows
from console.replay.refresh import refreshing
from console.runtime import ConsoleError
from schemas.change import Change
from schemas.record import RecordRef

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ref(number: int, object_: str = "deal", account: str = "hubspot:1") -> RecordRef:
    return RecordRef("acme", account, object_, str(number))


def change(kind: str, seconds: float) -> Change:
    return Change.model_validate(
        {**ref(1)._asdict(), "kind": kind, "occurred_at": NOON + timedelta(seconds=seconds), "properties": ("amount",)}
    )


def test_a_page_of_a_refresh_is_of_one_account_and_kind() -> None:
    items = [
        Item(0, number, ref(number, object_, account))
        for number, (account, object_) in enumerate(
            [(f"hubspot:{n % 3}", "deal" if n % 2 else "contact") for n in range(WINDOW + 250)]
        )
    ]
    seen = []
    for pages, finished in windows(items, grouped=True):
        assert len(finished) <= WINDOW
        for page in pages:
            assert len(page) <= PAGE
            assert len({(item.ref.account, item.ref.object) for item in page}) == 1
        assert sorted(item.offset for page in pages for item in page) == [item.offset for item in finished]
        seen += finished
    assert seen == items


def test_a_page_of_snapshots_is_as_large_as_its_turn_says() -> None:
    sizes = iter([1, 5, 50, 100])
    pages = [
        page
        for (page,), _ in windows([Item(0, n, ref(n)) for n in range(120)], grouped=False, size=lambda: next(sizes))
    ]
    assert [len(page) for page in pages] == [1, 5, 50, 64]


def test_what_was_committed_is_not_handled_again() -> None:
    items = tuple(Item(partition, offset, ref(offset)) for partition in (0, 1) for offset in (3, 7))
    assert [(i.partition, i.offset) for i in Index(4, 4, items).after({0: 7})] == [(0, 7), (1, 3), (1, 7)]


def test_nothing_undoes_an_erasure_and_else_the_later_change_counts() -> None:
    found: dict[tuple[RecordRef, str], Item] = {}
    for place, given in enumerate([change("updated", 5), change("erased", 1), change("updated", 9)]):
        _keep(found, Item(0, place, ref(1), given))
    (item,) = found.values()
    assert item.offset == 2
    assert item.change is not None
    assert item.change.kind == "erased"


def test_a_trigger_says_nothing_of_who_changed_what_when() -> None:
    made = refreshing(change("created", 0).model_copy(update={"edited_by": "userId:1"}))
    assert (made.kind, made.reason, made.properties, made.edited_by) == ("updated", "replay", (), None)
    assert refreshing(change("deleted", 0)).kind == "deleted"


def test_a_filter_survives_its_table_and_a_record_is_written_as_one() -> None:
    wanted = Filter(tenant="acme", analyses=("lead_intel",), since=NOON, start=3)
    assert Filter.of(wanted.as_json()) == wanted
    assert Filter().words() == "every record as it stands"
    with pytest.raises(ConsoleError, match="tenant/account/object/id"):
        _ = Filter(record="7").ref
