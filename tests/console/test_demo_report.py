"""The demo's verdict comes from the journal: what it must find, it finds."""

from __future__ import annotations

from datetime import UTC, datetime

from console.demo_report import Report, echo_rounds, judge
from infra.local.sandbox.journal import Journal, Save
from schemas.record import RecordSnapshot

KEY = {"account": "hubspot:1", "object": "deal", "id": "7"}


def save(sequence, at, by="person"):
    return Save(sequence=sequence, at=at, modified_at=at, by=by, cause="edit", properties={"amount": str(at)}, **KEY)


BASE = 1_795_348_800_000
"""2026-11-22T12:00:00Z in ms."""


def snapshot(at, amount, **more):
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return RecordSnapshot(
        tenant="t", crm="hubspot", fields={"amount": amount}, modified_at=moment, read_at=moment, **KEY, **more
    )


def test_a_snapshot_that_says_the_same_without_anybody_elses_save_is_an_echo_round():
    saves = [save(1, BASE + 10)]
    first, again = snapshot(BASE + 10, "5"), snapshot(BASE + 25, "5")
    assert echo_rounds(saves, [first]) == 0
    assert echo_rounds(saves, [first, again]) == 1


def test_a_snapshot_with_something_new_is_none():
    assert echo_rounds([save(1, BASE + 10)], [snapshot(BASE + 10, "5"), snapshot(BASE + 25, "6")]) == 0


def test_a_value_that_somebody_set_back_is_none():
    saves = [save(1, BASE + 10), save(2, BASE + 30)]
    assert echo_rounds(saves, [snapshot(BASE + 10, "5"), snapshot(BASE + 30, "5")]) == 0


def test_our_own_save_excuses_no_round():
    saves = [save(1, BASE + 10), save(2, BASE + 30, by="hookline")]
    assert echo_rounds(saves, [snapshot(BASE + 10, "5"), snapshot(BASE + 30, "5")]) == 1


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
    assert judge(Report(), Journal(path), excused=()).lost == 1
    assert judge(Report(), Journal(path), excused={("hubspot:1", "deal", "7")}).lost == 0
