from hypothesis import given
from hypothesis import strategies as st

from schemas.insight import Version
from sinks.destinations.crm_plan import as_found, plan
from sinks.destinations.crm_state import RECORD
from tests.sinks.making import insight, lead, quality, requirements


def mark(name: str, value: str) -> str:
    return f"{name}={value}"


def apply(record: dict, known: dict, made) -> None:
    record.update(made.values)
    known.update(dict(made.rows))


def test_a_first_write_leaves_empty_fields_alone():
    made = plan([insight(lead(next_action=None))], {}, mark)
    assert "next_step" not in made.values
    assert made.values["score"] == "72"
    assert made.values["version"] == "1.1.1"


def test_the_same_version_again_is_stale():
    known = dict(plan([insight(lead())], {}, mark).rows)
    again = plan([insight(lead())], known, mark)
    assert (again.fresh, again.values, again.rows) == ((), {}, ())


def test_a_newer_version_with_the_same_text_moves_only_what_says_so():
    known = dict(plan([insight(lead())], {}, mark).rows)
    assert set(plan([insight(lead(), 2)], known, mark).values) == {"as_of", "analyzed_at", "version"}


def test_only_what_differs_is_sent():
    known = dict(plan([insight(lead())], {}, mark).rows)
    assert set(plan([insight(lead(90), 2)], known, mark).values) == {"score", "as_of", "analyzed_at", "version"}


def test_what_vanished_is_cleared():
    known = dict(plan([insight(lead())], {}, mark).rows)
    assert plan([insight(lead(next_action=None), 2)], known, mark).values["next_step"] == ""


def test_a_second_analysis_of_the_same_snapshot_without_news_writes_nothing():
    known = dict(plan([insight(lead()), insight(quality())], {}, mark).rows)
    known.pop("requirements", None)
    made = plan([insight(requirements().model_copy(update={"items": (), "open_questions": ()}))], known, mark)
    assert made.fresh
    assert made.values == {}


def test_the_model_is_the_leading_analysis_model():
    first = plan([insight(lead(), model="groq"), insight(quality(), model="rules")], {}, mark)
    assert first.values["model"] == "groq"
    assert "model" not in plan([insight(quality(50), 2, model="rules")], dict(first.rows), mark).values


def test_an_older_snapshot_of_another_analysis_fills_in_its_own_fields_alone():
    known = dict(plan([insight(lead(), 9)], {}, mark).rows)
    assert set(plan([insight(quality(), 3)], known, mark).values) <= {"data_quality", "data_health", "duplicates"}


def test_a_retraction_writes_nothing():
    gone = insight(lead()).model_copy(update={"payload": None, "retracted": True})
    assert plan([gone], {}, mark).values == {}


def test_after_an_unconfirmed_write_that_arrived_nothing_is_sent_again():
    """INVARIANT: a crash between the CRM's answer and our note of it causes no second write."""
    made = plan([insight(lead()), insight(quality())], {}, mark)
    known = as_found({}, made.values, mark)
    assert plan([insight(lead()), insight(quality())], known, mark).values == {}


def test_after_an_unconfirmed_write_that_was_lost_everything_is_sent():
    made = plan([insight(lead())], {}, mark)
    assert plan([insight(lead())], as_found({}, {}, mark), mark).values == made.values


payloads = st.sampled_from([lead(), lead(10), quality(), quality(10), requirements()])
insights = st.builds(
    lambda payload, offset, generation: insight(payload, offset, version=Version(1, offset, generation)),
    payloads,
    st.integers(1, 6),
    st.integers(1, 3),
)
batches = st.lists(st.lists(insights, min_size=1, max_size=3, unique_by=lambda one: one.analysis), max_size=12)


@given(batches)
def test_what_the_record_says_of_its_age_never_goes_down(given_batches):
    """INVARIANT: as_of and version only rise, whatever order and mixture the analyses come in.

    If it fails, a rep reads an old analysis as a new one, and what was settled becomes unsettled.
    """
    record, known, seen = {}, {}, []
    for batch in given_batches:
        made = plan(batch, known, mark)
        apply(record, known, made)
        if "version" in record:
            seen.append((Version(*map(int, record["version"].split("."))), record["as_of"]))
    assert seen == sorted(seen, key=lambda pair: pair[0])
    assert [as_of for _, as_of in seen] == sorted(as_of for _, as_of in seen)


@given(batches)
def test_the_newest_of_each_analysis_is_what_the_record_shows(given_batches):
    """INVARIANT: no order of arrival leaves an older text on the record."""
    record, known, newest = {}, {}, {}
    for batch in given_batches:
        apply(record, known, plan(batch, known, mark))
        for one in batch:
            if one.analysis not in newest or one.version > newest[one.analysis].version:
                newest[one.analysis] = one
    for analysis, one in newest.items():
        assert known[analysis].version == one.version
        if analysis == "lead_intel":
            assert record["score"] == str(one.payload.score)
        if analysis == "data_quality":
            assert record["data_health"] == str(one.payload.health)
    if newest:
        assert known[RECORD].version == max(one.version for one in newest.values())


@given(batches)
def test_a_crash_after_any_write_repeats_none(given_batches):
    """INVARIANT: wherever we are killed, what is on the record is not written over with itself."""
    record, known = {}, {}
    for batch in given_batches:
        before = dict(known)
        made = plan(batch, known, mark)
        record.update(made.values)
        if made.values:
            again = plan(batch, as_found(before, record, mark), mark)
            assert not {name: value for name, value in again.values.items() if record.get(name, "") == value}
        known.update(dict(made.rows))
