"""Which promotion speaks."""

from __future__ import annotations

from typing import Any

import pytest

from processors.analyses.lead_intel import PLUGIN as LEAD
from processors.analyses.requirements import PLUGIN as ASKS
from processors.analyst import AsInstalled
from processors.replay.candidate import reprompted
from processors.replay.promotions import EVERYBODY, Promoted, Promotion

TEXT = "---\nname: lead_intel\nversion: 9\n---\n# system\nJudge.\n# user\n{{record}}\n"
INSTALLED = AsInstalled({"lead_intel": LEAD, "requirements": ASKS}, 3)


def rules(*promotions: Promotion, base: AsInstalled = INSTALLED) -> Promoted:
    door: Any = object()
    return Promoted(
        base,
        {(each.tenant, each.analysis): each for each in promotions},
        {(each.tenant, each.analysis): reprompted(LEAD, each.prompt) for each in promotions if each.prompt},
        {each.model: door for each in promotions if each.model},
    )


def test_without_promotions_it_is_as_installed() -> None:
    found = rules()
    assert found.analyses("acme") is INSTALLED.installed
    assert found.generation("acme", "lead_intel") == 3
    assert found.gateway("acme", "lead_intel") is None


def test_a_promotion_speaks_for_its_tenant_and_analysis_alone() -> None:
    found = rules(Promotion("acme", "lead_intel", 4, TEXT, "a/model"))
    assert found.analyses("acme")["lead_intel"].version.startswith("9/")
    assert found.generation("acme", "lead_intel") == 4
    assert found.gateway("acme", "lead_intel") is not None
    assert found.analyses("acme")["requirements"] is ASKS
    assert found.generation("acme", "requirements") == 3
    assert found.analyses("other")["lead_intel"] is LEAD
    assert found.gateway("other", "lead_intel") is None


@pytest.mark.parametrize(("own", "everybodys", "speaks"), [(4, 5, 5), (6, 5, 6)])
def test_the_highest_generation_speaks_whosever_it_is(own: int, everybodys: int, speaks: int) -> None:
    """INVARIANT: a generation never falls; else a destination would refuse what is said from now on."""
    found = rules(Promotion("acme", "lead_intel", own), Promotion(EVERYBODY, "lead_intel", everybodys))
    assert found.generation("acme", "lead_intel") == speaks


def test_a_release_with_a_higher_generation_takes_over() -> None:
    found = rules(Promotion("acme", "lead_intel", 4, TEXT), base=AsInstalled(INSTALLED.installed, 5))
    assert found.generation("acme", "lead_intel") == 5
    assert found.analyses("acme")["lead_intel"] is LEAD
