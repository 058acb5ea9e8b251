"""What a plan refuses before anything is opened."""

from __future__ import annotations

import pytest

from console.replay.filter import Filter
from console.replay.session import REFRESHES, REPLAYABLE, check_filter
from console.runtime import ConsoleError
from schemas.topics import INSIGHTS


@pytest.mark.parametrize("topic", REPLAYABLE)
def test_a_choice_that_a_topic_cannot_keep_to_is_refused_and_never_ignored(topic: str) -> None:
    """INVARIANT: a replay never does more than was chosen; else one meant for a table would write to the CRMs as well."""
    check_filter(topic, Filter(tenant="acme", object="deal"))
    if topic == INSIGHTS.name:
        check_filter(topic, Filter(destination="postgres"))
    else:
        with pytest.raises(ConsoleError, match=rf"--destination chooses nothing from {topic}.*--topic {INSIGHTS.name}"):
            check_filter(topic, Filter(destination="postgres"))
    if topic in REFRESHES:
        with pytest.raises(ConsoleError, match=rf"--analysis chooses nothing from {topic}.*--topic crm.records"):
            check_filter(topic, Filter(analyses=("lead_intel",)))
    else:
        check_filter(topic, Filter(analyses=("lead_intel",)))
