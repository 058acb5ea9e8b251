"""A short selection of the campaign (`make faults`), and proof that its judge can say no."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.__main__ import FAULTS
from tests.faults.campaign import Pace, Round, run_round
from tests.faults.judge import Judge
from tests.faults.stand import Stand, open_stand

pytestmark = [pytest.mark.connected, pytest.mark.timeout(480)]

SELECTION = ("kill-receiver", "postgres-cut", "redis-emptied", "kill-salesforce-events")
PACE = Pace(rate=30.0, before=1.0, after=0.5, long=False, patience=90.0, hurry=True)
SETTINGS = {"HOOKLINE_COALESCE_WINDOW_SECONDS": "0.3"}
SEED = 1


def test_nothing_lost_nothing_twice_nothing_backwards(tmp_path: Path):
    """INVARIANT: what the door has acknowledged reaches its record once, in order, whatever dies meanwhile."""
    with open_stand(tmp_path / "stand", seed=SEED, nodes=1, portal_size=300, settings=SETTINGS) as stand:
        asyncio.run(_rounds(stand))


async def _rounds(stand: Stand) -> None:
    judge = Judge(stand)
    await judge.open()
    await stand.scale()
    watching = asyncio.create_task(stand.roles.watch())
    told: list[str] = []
    try:
        for name in SELECTION:
            done = await run_round(stand, judge, FAULTS[name](), SEED, PACE, told.append)
            assert done.passed, "\n".join(told)
            assert done.verdict.acknowledged > 0
        await _the_judge_can_say_no(stand, judge, done)
        await _what_nobody_tells_is_lost(stand, judge)
    finally:
        watching.cancel()
        await judge.close()


async def _the_judge_can_say_no(stand: Stand, judge: Judge, last: Round) -> None:
    """What it would find if a sink lost, repeated or turned back a version."""
    assert last.verdict.clean
    key = next(key for key, changed in judge.journal.changed.items() if changed.wanted and not changed.gone)
    where = "WHERE account = %s AND object = %s AND record_id = %s AND analysis = 'data_quality'"
    stand.sql(f"UPDATE insights SET written_at = now() {where}", key)
    assert [each for each in (await judge.verdict()).twice if key.id in each]
    stand.sql(f"UPDATE insights SET snapshot_offset = snapshot_offset - 1 {where}", key)
    assert [each for each in (await judge.verdict()).out_of_order if key.id in each]
    stand.sql(f"DELETE FROM insights {where}", key)
    assert [each for each in (await judge.verdict()).lost if key.id in each]


async def _what_nobody_tells_is_lost(stand: Stand, judge: Judge) -> None:
    """What it would find if the event stream or the reconciler did not do their work."""
    await stand.scale()
    await judge.begin()
    (account,) = stand.untold
    lead = (await stand.crm.acall("records", account=account, object="lead"))[0]
    await stand.crm.acall("save", account=account, object="lead", id=lead, properties={"Title": "Head of Nothing"})
    assert [each for each in (await judge.verdict()).lost if lead in each]
