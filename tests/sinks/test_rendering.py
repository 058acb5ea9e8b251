from hypothesis import given
from hypothesis import strategies as st

from infra.crm.own_fields import OWN_FIELDS
from schemas.insight import Contradiction, Requirements
from sinks.rendering import ANALYSIS_FIELDS, RECORD_FIELDS, render, stamp
from tests.sinks.making import NOON, insight, lead, quality, requirements


def test_a_rep_reads_points_field_and_date_of_each_reason():
    assert render(insight(lead()))["why"].splitlines() == [
        "+12 Job title: VP Sales (jobtitle, since 2026-11-22)",
        "−3 No phone number: n/a (phone, since 2026-11-22)",
    ]


def test_the_next_step_names_its_reason_and_day():
    shown = render(insight(lead()))
    assert (shown["next_step"], shown["next_step_due"]) == ("Call her (budget closes)", "2026-11-25")


def test_not_enough_data_is_said_out_loud_and_shows_no_score():
    shown = render(
        insight(
            lead(None, status="not_enough_data", grade=None, factors=(), summary="", missing=("jobtitle", "company"))
        )
    )
    assert shown["score"] == shown["grade"] == shown["why"] == ""
    assert shown["summary"] == "Not enough data for a score yet. Most helpful would be: jobtitle, company."


def test_must_comes_before_should_and_quotes_are_verbatim():
    lines = render(insight(requirements()))["requirements"].splitlines()
    assert lines[0] == "MUST integration: ERP link – “must talk to the ERP” (email:2, 2026-11-22)"
    assert lines[1].startswith("SHOULD security")


def test_contradictions_are_shown():
    found = Requirements(
        contradictions=(
            Contradiction(
                about="budget", first_quote="10k", first_source="note:1", second_quote="5k", second_source="email:2"
            ),
        )
    )
    assert render(insight(found))["requirements"] == "Contradiction about budget: “10k” (note:1) against “5k” (email:2)"


def test_worst_defects_come_first_with_what_is_proposed():
    shown = render(insight(quality()))
    assert shown["data_quality"].splitlines()[0] == "High: Not an e-mail address (email, malformed) → x@y.example"
    assert shown["duplicates"] == "9 (94%): same e-mail"
    assert shown["data_health"] == "80"


def test_every_field_belongs_to_one_analysis_or_to_the_record():
    """INVARIANT: if two analyses owned a field, each would overwrite the other for ever."""
    owned = [name for names in ANALYSIS_FIELDS.values() for name in names]
    ours = [name for name, field in OWN_FIELDS.items() if field.written_by == "hookline"]
    assert sorted([*owned, *RECORD_FIELDS]) == sorted(ours)


def test_what_no_longer_holds_is_cleared():
    bare = lead(None, status="not_enough_data", grade=None, factors=(), changes=(), next_action=None)
    assert set(render(insight(bare))) == set(ANALYSIS_FIELDS["lead_intel"])
    assert render(insight(bare))["next_step"] == ""


@given(st.text(max_size=50_000), st.lists(st.text(max_size=2_000), max_size=200))
def test_everything_fits_into_the_vendors_limits(summary, changes):
    shown = render(insight(lead(summary=summary, changes=tuple(changes))))
    assert all(len(value) <= OWN_FIELDS[name].limit for name, value in shown.items())
    assert "\x00" not in "".join(shown.values())


def test_as_of_has_milliseconds_and_says_utc():
    assert stamp(NOON) == "2026-11-22T12:00:00.123Z"
    assert stamp(NOON.replace(microsecond=0)) == "2026-11-22T12:00:00.000Z"
