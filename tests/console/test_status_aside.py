from __future__ import annotations

from console.status_aside import BY_ITSELF, REMEDIES, remedy
from processors.analyst import WAITS_FOR_BATCH


def test_what_waits_for_a_batch_says_what_for_and_how_to_have_it_sooner():
    said = remedy(WAITS_FOR_BATCH)
    assert said.startswith("Nothing: ")
    assert "batch" in said
    assert "HOOKLINE_MODEL_BATCH=false" in said


def test_a_cause_of_a_crms_own_is_tried_again_by_itself():
    assert "SOMETHING_OF_THEIRS" not in REMEDIES
    assert remedy("SOMETHING_OF_THEIRS") == BY_ITSELF
