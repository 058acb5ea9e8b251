import re

import pytest

from infra.crm.concepts import CONCEPTS, MAPS, concepts_of
from infra.crm.own_fields import OWN_FIELDS
from infra.crm.salesforce_shapes import OWN_NAMES


def test_every_concept_is_named_once():
    for objects in MAPS.values():
        for concepts in objects.values():
            assert set(concepts) <= CONCEPTS
            assert len(set(concepts.values())) == len(concepts)


def test_a_field_that_the_account_lacks_has_no_concept():
    assert concepts_of("hubspot", "contact", {"email"}) == {"email": "email"}
    assert concepts_of("nobody", "contact", {"email"}) == {}


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_names_and_labels_fit_both_vendors(name):
    """HubSpot: lower case, digits, underscore. Salesforce: 40 characters, no double or final underscore, label of 40."""
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
    assert "__" not in name
    assert len(OWN_NAMES[name].removesuffix("__c")) <= 40
    assert len(OWN_FIELDS[name].label) <= 40


def test_the_names_that_reps_and_dashboards_know_stay():
    """INVARIANT: names are forever. If it fails, customers' lists, reports and cards break."""
    assert OWN_NAMES["as_of"] == "Hookline_As_Of__c"
    assert list(OWN_FIELDS) == [
        "score", "grade", "summary", "why", "what_changed", "next_step", "next_step_due", "requirements", "open_questions",
        "data_quality", "data_health", "duplicates", "as_of", "analyzed_at", "model", "version",
        "feedback", "feedback_note",
    ]  # fmt: skip
