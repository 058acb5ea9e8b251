"""The demo's verdict comes from the journal: what it must find, it finds."""

from __future__ import annotations

from console.demo_report import Report, echo_rounds, from_journal
from infra.local.sandbox.journal import InsightWrite, Journal, Save

KEY = {"account": "hubspot:1", "object": "deal", "id": "7"}


def save(sequence, at, by="person"):
    return Save(sequence=sequence, at=at, modified_at=at, by=by, cause="edit", properties={"amount": str(at)}, **KEY)


def write(sequence, at, as_of):
    stamp = f"2026-11-22T12:00:00.{as_of:03}Z"
    return InsightWrite(sequence=sequence, at=at, values={"hookline_as_of": stamp}, changed=("hookline_as_of",), **KEY)


BASE = 1_795_348_800_000
"""2026-11-22T12:00:00Z in ms."""


def test_an_insight_that_moved_on_without_anybody_elses_save_is_an_echo_round():
    saves = [save(1, BASE + 10)]
    assert echo_rounds(saves, [write(2, BASE + 20, 10)]) == 0
    assert echo_rounds(saves, [write(2, BASE + 20, 10), write(3, BASE + 40, 25)]) == 1


def test_an_insight_after_another_save_is_none():
    saves = [save(1, BASE + 10), save(3, BASE + 30)]
    assert echo_rounds(saves, [write(2, BASE + 20, 10), write(4, BASE + 40, 30)]) == 0


def test_our_own_save_excuses_no_insight():
    saves = [save(1, BASE + 10), save(3, BASE + 30, by="hookline")]
    assert echo_rounds(saves, [write(2, BASE + 20, 10), write(4, BASE + 40, 30)]) == 1


def test_a_demo_without_any_save_is_not_accounted_for():
    assert not Report().accounted_for
    assert Report(saves=1).accounted_for
    assert not Report(saves=1, lost=1).accounted_for


def test_a_record_with_a_named_dead_letter_is_not_lost(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(
        f'{{"kind":"save","sequence":1,"account":"hubspot:1","object":"deal","id":"7","at":{BASE},"modified_at":{BASE},'
        '"by":"person","cause":"edit","properties":{"amount":"5"}}\n'
    )
    assert from_journal(Report(), Journal(path), excused=()).lost == 1
    assert from_journal(Report(), Journal(path), excused={("hubspot:1", "deal", "7")}).lost == 0
