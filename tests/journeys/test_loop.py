"""Our own write-backs start no second round, and hide nobody's edit: the selection of `make loop`."""

from __future__ import annotations

import pytest

from bench.loop import loop
from tests.journeys.place import Place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


async def test_echoes_cause_no_analysis_and_no_edit_before_an_echo_is_missed(both: Place):
    """INVARIANT: a write-back ends its round, in both CRMs. If it fails, we pay a model for talking to ourselves, or
    overwrite what we never read.
    """
    found = await loop(both, 100, records=12)
    assert found["writes"] >= 100
    assert min(found["writes_by_crm"].values()) > 0
    assert found["echoes_delivered"] > 0, "the CRMs must send our own writes back, or this shows nothing"
    assert found["edits_between_write_and_echo"] > 0, "or it shows nothing of edits in between"
    assert (found["analyses_caused_by_echoes"], found["edits_missed"]) == (0, 0)
