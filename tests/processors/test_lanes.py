"""One record on both lanes at once: whichever comes last, the freshest read has the last word."""

from __future__ import annotations

import pytest

from schemas.topics import CHANGES, CHANGES_BULK
from tests.processors.test_hydrator import Stage
from tests.processors.world import change, read, ref


@pytest.mark.parametrize(("slow", "fast"), [(CHANGES_BULK, CHANGES), (CHANGES, CHANGES_BULK)])
async def test_a_lane_that_read_earlier_and_published_later_triggers_the_record_again(slow, fast):
    """INVARIANT: the lanes are safe together. If it fails, a record that was edited during a flood keeps a stale insight."""
    stage = Stage()
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))

    async def the_other_lane() -> None:
        stage.hubspot.on_read = None
        stage.hubspot.save(ref(), read(2, jobtitle="CEO"))
        await stage.hydrator.handle(fast, stage.log.put(fast, change(when=2)))

    stage.hubspot.on_read = the_other_lane
    await stage.hydrator.handle(slow, stage.log.put(slow, change(when=1)))
    assert stage.snapshots[-1].fields["jobtitle"] == "CFO", "the stale one came last"
    again = stage.log.of(CHANGES)[-1]
    assert again.reason == "fenced"
    await stage.see(again)
    assert stage.snapshots[-1].fields["jobtitle"] == "CEO"


async def test_a_change_on_the_bulk_lane_that_the_live_lane_has_covered_publishes_nothing():
    stage = Stage()
    stage.hubspot.save(ref(), read(2, jobtitle="CEO"))
    await stage.see(change(when=2))
    assert await stage.see(change(when=1), topic=CHANGES_BULK) == []


@pytest.mark.parametrize(("topic", "lane"), [(CHANGES, "live"), (CHANGES_BULK, "bulk")])
async def test_a_snapshot_says_on_which_lane_its_changes_came(topic, lane):
    stage = Stage()
    stage.hubspot.save(ref(), read(1, jobtitle="CFO"))
    (made,) = await stage.see(change(when=1), topic=topic)
    assert made.lane == lane
