"""What the judge reads out of the senders' journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.faults.journal_tail import JournalTail, Key

KEY = Key("hubspot:1", "contact", "7")


class Book:
    """A journal that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path / "journal.jsonl"
        self.path.touch()
        self.tail = JournalTail(self.path)
        self._number = 0

    def line(self, kind: str, **values: Any) -> None:
        self._number += 1
        given = {"kind": kind, "sequence": self._number, **KEY._asdict(), **values}
        with self.path.open("ab") as file:
            file.write(orjson.dumps(given) + b"\n")
        self.tail.read()

    def save(self, at: int, **more: Any) -> None:
        given = {"at": at, "modified_at": at, "by": "person", "cause": "edit", "properties": {"city": "Oslo"}, **more}
        self.line("save", **given)

    def write(self, at: int, version: str, as_of: int, changed: tuple[str, ...] | None = None, **values: str) -> None:
        shown = {"hookline_version": version, "hookline_as_of": str(as_of), **values}
        self.line("insight_write", at=at, values=shown, changed=list(shown) if changed is None else list(changed))


def test_a_save_is_open_until_the_record_shows_an_insight_as_new_as_it(tmp_path):
    book = Book(tmp_path)
    book.save(1_000)
    book.save(1_500, properties={"hookline_score": "1"})
    book.save(2_000, by="hookline")
    assert (book.tail.open_saves, book.tail.changed[KEY].wanted) == (1, 1_000)
    book.write(1_900, "1.4.1", 999)
    assert book.tail.open_saves == 1
    book.write(2_500, "1.5.1", 1_000)
    assert (book.tail.open_saves, book.tail.latencies) == (0, [(1_000, 1_500)])


def test_nothing_is_owed_to_a_record_that_is_gone(tmp_path):
    book = Book(tmp_path)
    book.save(1_000)
    book.save(2_000, cause="delete", properties={})
    assert book.tail.open_saves == 0
    assert book.tail.changed[KEY].gone


def test_a_write_that_changes_nothing_and_a_value_that_comes_again_are_twice(tmp_path):
    book = Book(tmp_path)
    book.write(1, "1.4.1", 10, hookline_grade="A")
    book.write(2, "1.4.1", 10, changed=())
    assert len(book.tail.twice) == 1
    book.write(3, "1.4.1", 10, changed=("hookline_grade",), hookline_grade="B")
    book.write(4, "1.4.1", 10, changed=("hookline_grade",), hookline_grade="A")
    assert len(book.tail.twice) == 2
    book.write(5, "1.5.1", 11, hookline_grade="B")
    assert len(book.tail.twice) == 2, "under another version it is news"


def test_what_goes_down_is_out_of_order_over_rounds(tmp_path):
    book = Book(tmp_path)
    book.write(1, "1.10.1", 10)
    book.tail.begin()
    book.write(2, "1.9.1", 11)
    book.write(3, "1.11.1", 10)
    assert len(book.tail.out_of_order) == 2


def test_only_what_the_door_acknowledged_counts(tmp_path):
    book = Book(tmp_path)
    for status, accepted in ((202, True), (503, False), (0, False)):
        book.line("delivery", status=status, accepted=accepted, events=3, problem="timeout" if not status else "")
    assert (book.tail.accepted, book.tail.events) == (1, 3)
    assert book.tail.answers == {"202": 1, "503": 1, "timeout": 1}
