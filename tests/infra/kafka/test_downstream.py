"""A bulk lane goes as fast as those behind it, and no stopped reader holds it for ever."""

from __future__ import annotations

from infra.kafka.downstream import MOST_BEHIND, STANDS_STILL_SECONDS, Downstream, Reader
from infra.settings import Settings
from processors.app import SINK_GROUP
from sinks.app import group_of

ANALYST = Reader("analyst", "crm.records", vital=True)
SINK = Reader("sink", "crm.insights")


class Desk:
    def __init__(self) -> None:
        self.now, self.said = 0.0, []
        self.downstream = Downstream(
            Settings(_env_file=None),
            [ANALYST, SINK],
            pause=lambda: self.said.append("pause"),
            resume=lambda: self.said.append("resume"),
            clock=lambda: self.now,
        )

    def see(self, analyst, sink=(0, 0), seconds=0.5):
        self.now += seconds
        self.downstream.judge({ANALYST: analyst, SINK: sink})


def test_it_waits_for_a_reader_that_is_behind_and_goes_on_at_half():
    desk = Desk()
    desk.see((MOST_BEHIND, 0))
    assert desk.said == []
    desk.see((MOST_BEHIND + 1, 10))
    desk.see((MOST_BEHIND - 1, 20))
    assert desk.said == ["pause"]
    desk.see((MOST_BEHIND // 2, 30))
    desk.see((0, 40))
    assert desk.said == ["pause", "resume"]


def test_the_slowest_reader_counts():
    desk = Desk()
    desk.see((0, 5), sink=(MOST_BEHIND + 1, 5))
    assert desk.said == ["pause"]


def test_a_destination_that_stands_still_holds_nobody_up():
    desk = Desk()
    desk.see((0, 5), sink=(10_000, 5))
    assert desk.said == ["pause"]
    desk.see((0, 5), sink=(10_000, 5), seconds=STANDS_STILL_SECONDS)
    assert desk.said == ["pause", "resume"]
    desk.see((0, 5), sink=(9_000, 1_005))
    assert desk.said[-1] == "pause"


def test_a_vital_reader_that_stands_still_is_waited_for():
    desk = Desk()
    desk.see((10_000, 5))
    desk.see((10_000, 5), seconds=10 * STANDS_STILL_SECONDS)
    assert desk.said == ["pause"]


def test_the_sinks_groups_are_called_as_the_sinks_call_them():
    assert SINK_GROUP.format("hubspot") == group_of("hubspot")


def test_a_lane_that_stands_still_looks_at_nobody_unless_it_holds():
    """INVARIANT: a lane that waits goes on when those behind it have caught up. If it fails, an import stops for ever."""
    stands = [(0, 0)]
    downstream = Downstream(
        Settings(_env_file=None), [ANALYST], pause=lambda: None, resume=lambda: None, stands=lambda: stands[0]
    )
    assert [downstream.is_worth_a_look() for _ in range(3)] == [True, False, False]
    for stands[0] in [(5, 5), (5, 2), (9, 0)]:
        assert downstream.is_worth_a_look()
    downstream.judge({ANALYST: (MOST_BEHIND + 1, 1)})
    assert all(downstream.is_worth_a_look() for _ in range(3))
    downstream.judge({ANALYST: (0, 2_000)})
    assert not downstream.is_worth_a_look()
